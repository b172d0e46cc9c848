"""What is read of ELF notes, whatever stands beside the build-id."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_daemon.kernel.notes import build_id
from kmm_sandbox.simulated.modulefile import note

ID = bytes.fromhex("c2915b08ae30d957a6dd169045e530774df404ad")


@pytest.mark.parametrize("order", ["=", "<", ">"])
def test_build_id_is_found_among_other_notes(order):
    others = note(b"\x00", order, name=b"Linux\0", kind=257) + note(b"odd", order, kind=5)
    assert build_id(others + note(ID, order) + others, order) == ID.hex()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        note(ID, name=b"Go\0\0"),
        note(ID, kind=1),
        note(ID)[:-1],
        note(ID)[:11],
    ],
    ids=["none", "of another owner", "of another type", "cut off", "cut in its head"],
)
def test_what_is_no_whole_build_id_is_none(content):
    assert build_id(content) == ""


@given(st.binary())
def test_any_bytes_are_read_without_an_error(content):
    assert bytes.fromhex(build_id(content)) in content
