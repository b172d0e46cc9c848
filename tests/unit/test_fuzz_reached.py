"""Which branches count as reached by fuzzing."""

from contextlib import suppress
from importlib import import_module
from operator import attrgetter

import pytest

from fuzz.reached import Reached, counted
from fuzz.targets import TARGETS


def function(taken: int, of: int) -> dict[str, dict[str, int]]:
    return {"summary": {"covered_branches": taken, "num_branches": of}}


REPORT = {
    "files": {
        "a.py": {"functions": {"parse": function(3, 4), "remember": function(0, 2)}},
        "b.py": {"functions": {"": function(1, 1)}},
    }
}


def test_branches_of_all_functions_count_but_of_those_apart() -> None:
    assert counted(REPORT, frozenset()) == Reached(taken=4, all=7)
    assert counted(REPORT, frozenset({"remember"})) == Reached(taken=4, all=5)


def test_function_that_is_apart_and_does_not_exist_is_an_error() -> None:
    with pytest.raises(AssertionError, match="no function of the covered modules is"):
        counted(REPORT, frozenset({"renamed"}))


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_functions_that_are_apart_exist(target: str) -> None:
    modules = [import_module(name) for name in TARGETS[target].covered]
    found = set()
    for name in TARGETS[target].apart:
        for module in modules:
            with suppress(AttributeError):
                attrgetter(name)(module)
                found.add(name)
    assert found == TARGETS[target].apart
