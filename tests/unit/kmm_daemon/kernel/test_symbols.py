from pathlib import Path

import pytest

from kmm_daemon.kernel.symbols import Exporters, Missing, exporters, find, missing, told, withheld

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


@pytest.mark.parametrize("end", ["", " (err 0)", " (err -2)", " (err -16)"])
def test_symbol_is_missing_whatever_errno_a_kernel_gives_for_that(end) -> None:
    log = (f"ppp: Unknown symbol slhc_init{end}",)
    assert missing(log) == Missing(module="ppp", symbols=("slhc_init",))
    assert withheld(log) == ""


REFUSED = "mlx5_ib: Unknown symbol ib_register_device (err -22)"
DISAGREES = "mlx5_ib: disagrees about version of symbol ib_register_device"
NOT_IMPORTED = "mlx5_ib: module uses symbol {} from namespace IB, but does not import it."


@pytest.mark.parametrize(
    "log",
    [(DISAGREES, REFUSED), (DISAGREES,), ("mlx5_ib: Unknown symbol other (err -2)", DISAGREES)],
)
def test_symbol_of_another_version_is_told_even_beside_one_that_is_missing(log) -> None:
    assert withheld(log) == (
        "mlx5_ib was built against another version of symbol ib_register_device: build it against "
        "the headers of this node's kernel, and of the very module that exports it here, which may "
        "be a vendor's (as ib_core of OFED)"
    )


def test_symbol_that_the_kernel_has_but_does_not_give_is_not_missing() -> None:
    assert missing((DISAGREES, REFUSED)) is None
    assert "another version of symbol ib_register_device" in withheld((REFUSED,))


@pytest.mark.parametrize("spelling", ["ib_register_device", "(ib_register_device)"])
def test_namespace_that_was_not_imported_is_named_where_the_kernel_refuses_for_it(spelling) -> None:
    line = NOT_IMPORTED.format(spelling)
    assert withheld((line, REFUSED)) == (
        "mlx5_ib uses symbol ib_register_device without importing its namespace IB: give its "
        "source a MODULE_IMPORT_NS for that, and build it again"
    )
    assert withheld((line,)) == ""
    assert "namespace" not in withheld((NOT_IMPORTED.format("other"), REFUSED))


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
