from pathlib import Path

from kmm_daemon.kernel.symbols import Exporters, Missing, exporters, find, missing, told

TEXT = """# Aliases for symbols, used by symbol_request().
alias symbol:slhc_init slhc
alias symbol:slhc_free slhc
alias symbol:crc_ccitt crc-ccitt
alias symbol:odd bad;name
alias other:slhc_toss slhc
"""
LACK = Missing(module="ppp", symbols=("slhc_init", "slhc_free"))


def test_symbols_of_the_first_module_that_lacks_some_are_found_once_each() -> None:
    log = (
        "ppp: loading out-of-tree module taints kernel.",
        "ppp: Unknown symbol slhc_init (err -2)",
        "ppp: Unknown symbol slhc_init (err -2)",
        "other: Unknown symbol more (err -2)",
        "ppp: Unknown symbol slhc_free (err -2)",
    )
    assert missing(log) == LACK
    assert missing(log[:1]) is None


def test_modules_that_export_symbols_are_found_once_each() -> None:
    assert exporters(("slhc_init", "slhc_free", "crc_ccitt"), TEXT) == ("slhc", "crc-ccitt")
    assert exporters(("slhc_toss", "odd", "absent"), TEXT) == ()


def test_image_and_host_are_looked_at_and_a_missing_file_is_none(tmp_path: Path) -> None:
    image, host, empty = tmp_path / "image", tmp_path / "host", tmp_path / "empty"
    for directory in (image, host, empty):
        directory.mkdir()
    (host / "modules.symbols").write_text(TEXT)
    assert find(LACK.symbols, image, (empty, host, host)) == Exporters(host=("slhc",))
    (image / "modules.symbols").write_bytes(b"alias symbol:slhc_init mine\nalias \xff\xfe")
    assert find(LACK.symbols, image, ()) == Exporters(image=("mine",))


def test_who_has_the_symbol_decides_what_helps() -> None:
    assert told(LACK, Exporters()) == (
        "ppp needs symbol slhc_init and 1 more, which no loaded module has: add the module that "
        "exports it to the image, run depmod"
    )
    assert told(LACK, Exporters(host=("slhc", "crc_ccitt"))) == (
        "ppp needs symbol slhc_init and 1 more, which the host has in slhc, crc_ccitt: add that to "
        "the image and run depmod, or have the host load it"
    )
    assert "the image has in slhc: run depmod" in told(LACK, Exporters(image=("slhc",)))
