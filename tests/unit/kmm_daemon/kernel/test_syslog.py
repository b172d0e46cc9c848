import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_daemon.kernel.syslog import Tail, added


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        ("", "", ""),
        ("", "a b", "a b"),
        ("a b", "a b", ""),
        ("a b", "a b c d", "c d"),
        ("a b c", "b c d", "d"),
        ("a b c", "c d", "d"),
        ("a b c", "x y", "x y"),
        ("a b", "", ""),
        ("a b", "a bb c", "bb c"),
        ("a b c", "b cc", "cc"),
        ("a a", "a a a", "a"),
        ("a b a", "a b a b a", "b a"),
    ],
    ids=str,
)
def test_new_lines_are_those_after_what_was_there(before: str, now: str, new: str):
    logs = [_log(text.encode().split()) for text in (before, now, new)]
    assert added(logs[0], logs[1]) == logs[2]


@given(st.integers(0, 30), st.integers(1, 30), st.integers(1, 30))
def test_log_that_forgets_its_oldest_lines_repeats_none(start: int, length: int, more: int):
    lines = [b"%d" % number for number in range(100)]
    before, end = lines[start : start + length], start + length + more
    for forgotten in range(start, start + length):
        now, new = lines[forgotten:end], lines[start + length : end]
        assert added(_log(before), _log(now)) == _log(new)


def _log(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def test_line_that_is_not_ended_yet_is_given_whole_when_it_is():
    assert added(b"a\nb", b"a\nb c\n") == b"b c\n"


def test_each_line_is_given_once():
    texts = iter([b"1\n", b"1\n2\n", b"1\n2\n", b"2\n3\n"])
    tail = Tail(lambda: next(texts))
    assert [tail.lines() for _ in range(3)] == [[b"2"], [], [b"3"]]
