"""What the verdict says of a step that failed."""

import errno

import pytest

from kmm_sandbox import verdict


def test_failure_is_told_in_its_own_words_but_not_endlessly() -> None:
    assert verdict.told(OSError("no room")) == "no room"
    assert len(verdict.told(OSError("x" * 10_000))) == verdict.TOLD_CHARACTERS


def test_interruption_is_told_also_by_what_it_broke_on_its_way() -> None:
    assert verdict.told(KeyboardInterrupt()) == "interrupted"
    with pytest.raises(OSError) as broken:
        try:
            raise KeyboardInterrupt
        finally:
            raise OSError(errno.EBADF, "Bad file descriptor")
    assert verdict.told(broken.value) == "interrupted"
