import gzip
import json
import lzma
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kmm_daemon.kernel import modinfo
from kmm_daemon.kernel.modinfo import InvalidModuleFileError, ModuleInfo
from kmm_sandbox.simulated.modulefile import module_file
from support.modulefile import module_bytes

MODULES = Path(__file__).parents[3] / "e2e/modules/prebuilt/6.1.176"
FACTS = json.loads((MODULES / "modules.json").read_text())
BUILD_ID = "c2915b08"
INFO = ModuleInfo(
    name="a_b",
    srcversion="44F7",
    build_id=BUILD_ID,
    vermagic="6.1.176 mod_unload",
    depends=("c_d", "e"),
)
FIELDS = {
    "name": "a_b",
    "srcversion": "44F7",
    "vermagic": "6.1.176 mod_unload ",
    "depends": "c-d,e",
}
FILE = module_bytes(FIELDS, build_id=BUILD_ID)


@pytest.mark.parametrize("name", sorted(FACTS))
def test_real_module_says_what_modinfo_and_readelf_print_of_it(name):
    facts, info = FACTS[name], modinfo.read(MODULES / name)
    assert (info.name, info.srcversion) == (facts["name"], facts["srcversion"])
    assert info.build_id == facts["build_id"] != ""
    assert info.vermagic == facts["vermagic"].strip()
    assert ",".join(info.depends) == facts["depends"]


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("little", [True, False])
def test_every_class_and_byte_order_is_read(wide, little):
    assert modinfo.parse(module_bytes(FIELDS, wide=wide, little=little, build_id=BUILD_ID)) == INFO


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, lzma.compress, zstandard.ZstdCompressor().compress]
)
def test_compressed_modules_are_read(tmp_path: Path, pack):
    path = tmp_path / "a.ko"
    path.write_bytes(pack(FILE))
    assert modinfo.read(path) == INFO


def test_of_two_fields_of_a_name_the_first_counts_as_for_the_kernel():
    twice = [("vermagic", "6.1.176 mod_unload "), ("vermagic", "6.1.177 mod_unload ")]
    assert modinfo.parse(module_file(twice)).vermagic == "6.1.176 mod_unload"


@pytest.mark.parametrize(
    ("srcversion", "build_id", "expected"),
    [("44F7", "c2915b08", "44F7"), ("", "c2915b08", "build-id c2915b08"), ("", "", "")],
)
def test_build_is_the_srcversion_or_else_the_build_id(srcversion, build_id, expected):
    fields = {"srcversion": srcversion} if srcversion else {}
    info = modinfo.parse(module_bytes({"name": "m", **fields}, build_id=build_id))
    assert info.build == expected


@pytest.mark.parametrize(
    "pack", [gzip.compress, lzma.compress, zstandard.ZstdCompressor().compress]
)
def test_truncated_archive_is_refused(tmp_path: Path, pack):
    path = tmp_path / "a.ko.x"
    path.write_bytes(pack(FILE)[:-8])
    with pytest.raises(InvalidModuleFileError):
        modinfo.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"#!/bin/sh\n", "is not an ELF file"),
        (b"\x7fELF", "is truncated"),
        (FILE[:-10], "is truncated"),
        (FILE.replace(b".modinfo", b".modinf0"), "has no .modinfo"),
    ],
)
def test_file_that_is_no_module_is_refused_with_the_reason(tmp_path: Path, content, message):
    path = tmp_path / "a.ko"
    path.write_bytes(content)
    with pytest.raises(InvalidModuleFileError, match=message):
        modinfo.read(path)


def test_module_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(modinfo, "MOST_BYTES", 1000)
    path = tmp_path / "a.ko.gz"
    path.write_bytes(gzip.compress(bytes(5000)))
    with pytest.raises(InvalidModuleFileError, match="larger than 1000 bytes"):
        modinfo.read(path)


@given(st.data())
def test_damage_is_never_more_than_a_refusal(data):
    content = bytearray(FILE)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        modinfo.parse(bytes(content[:cut]))
    except InvalidModuleFileError as error:
        assert str(error)
