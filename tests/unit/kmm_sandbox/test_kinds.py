"""Which kind of nodes a machine gets, and what is said of it."""

import pytest

from kmm_sandbox import kinds
from kmm_sandbox.ended import Ended
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.kinds import Kind, choose
from kmm_sandbox.progress import Progress


def never(mode: str, *, nodes: int, progress: Progress) -> Ended:
    raise AssertionError(mode)


def kind(name: str, obstacle: str = "") -> Kind:
    return Kind(name=name, what=f"what {name} is", count=1, obstacle=lambda: obstacle, run=never)


def test_auto_takes_the_best_where_nothing_keeps_it_from_running() -> None:
    choice = choose(kinds.AUTO, [kind("best"), kind("second")])
    assert choice.told() == ["nodes: best (the best there is): what best is"]


def test_auto_takes_the_next_and_says_what_the_better_one_needs() -> None:
    choice = choose(kinds.AUTO, [kind("best", "run it as root"), kind("second"), kind("third")])
    assert choice.told() == [
        "nodes: second (the best that this machine can have): what second is",
        "  not best: run it as root",
    ]


def test_auto_that_can_have_nothing_says_what_each_needs() -> None:
    with pytest.raises(SandboxError, match="best: no root; second: no tun"):
        choose(kinds.AUTO, [kind("best", "no root"), kind("second", "no tun")])


def test_kind_asked_for_by_name_is_taken_and_the_better_ones_are_named() -> None:
    choice = choose("third", [kind("best", "run it as root"), kind("second"), kind("third")])
    assert choice.told() == [
        "nodes: third (as asked): what third is",
        "  not best: run it as root",
        "  better here: NODES=second",
    ]


def test_kind_asked_for_by_name_that_cannot_run_is_refused_with_the_remedy() -> None:
    with pytest.raises(SandboxError, match="NODES=best cannot run here: run it as root"):
        choose("best", [kind("best", "run it as root"), kind("second")])


def test_real_kubelets_are_the_best_kind_and_names_are_unique() -> None:
    names = [each.name for each in kinds.KINDS]
    assert names[0] == "kubelet"
    assert len({*names, kinds.AUTO}) == len(names) + 1


def test_name_that_no_kind_has_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SandboxError, match="NODES=kublet is no kind of nodes: take best, second"):
        choose("kublet", [kind("best"), kind("second")])
