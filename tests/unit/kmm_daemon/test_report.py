"""What is said of a Module, by its step and by what the kernel has."""

from dataclasses import replace
from pathlib import Path

import pytest

from kmm_common.desired import ModuleFailure, ModuleState, ReportedModule, config_hash
from kmm_daemon import report
from kmm_daemon.situation import BegunLoad, FailedStep, PreparedImage, Situation
from kmm_daemon.steps import Adopt, Load, Prepare, Refuse, Reload, Rest, Step, Unload, Wait
from kmm_daemon.values import KernelModule, KernelView, LoadedRecord, ReadyImage
from support.node import desired, ref

ENTRY = desired()
OLD = desired(digest="sha256:0")
RECORD = LoadedRecord(module=ENTRY, kernel_modules=("m",))
OLD_RECORD = LoadedRecord(module=OLD, kernel_modules=("m",))
IMAGE = PreparedImage(
    entry=ENTRY, image=ReadyImage(digest=ENTRY.image_digest, root=Path("/i")), builds={}
)
WHY = ModuleFailure(reason="InUse", message="held")
TRIED = FailedStep(entry=ENTRY, failure=WHY, attempts=2, retry=True)
FOR_GOOD = replace(TRIED, retry=False)
LOAD_FAILED = replace(TRIED, image_compared=True)
OTHERS = {"rows": {"m": KernelModule(name="m", state="Live", build="another")}}

REST = Rest(ref=ref(), record=RECORD)
LOAD = Load(ref=ref(), image=IMAGE)
RELOAD = Reload(ref=ref(), image=IMAGE, record=OLD_RECORD, keep=frozenset())
UNLOAD = Unload(ref=ref(), record=RECORD, keep=frozenset())
PULL = Prepare(ref=ref(), entry=ENTRY)
ADOPT = Adopt(ref=ref(), record=RECORD)
ADOPT_FOUND = Adopt(ref=ref(), record=RECORD, image=IMAGE)
REFUSE = Refuse(ref=ref(), state=ModuleState.FAILED, failure=WHY)
BEHIND = Wait(ref=ref(), why="another first")
RETRY = Wait(ref=ref(), why="failed before", failed=TRIED)
GIVEN_UP = Wait(ref=ref(), why="failed before", failed=FOR_GOOD)


def situation(
    *, wanted=True, record=None, inside=True, failed=None, begun=None, rows=None
) -> Situation:
    if rows is None:
        rows = {"m": KernelModule(name="m", state="Live")} if inside else {}
    return Situation(
        desired={ref(): ENTRY} if wanted else {},
        view=KernelView(boot_id="b", kernel_version="6.1", modules=rows),
        records={ref(): record} if record else {},
        failures={ref(): failed} if failed else {},
        begun={ref(): begun} if begun else {},
    )


def said(step: Step, s: Situation, *, runs: bool = False) -> ReportedModule:
    running = {ref(): step} if runs else {}
    (module,) = report.report(s, {} if runs else {ref(): step}, running)
    return module


@pytest.mark.parametrize(
    ("step", "runs", "changes", "state", "in_kernel"),
    [
        (REST, False, {"record": RECORD}, "Loaded", True),
        (ADOPT, False, {"record": RECORD}, "Loaded", True),
        (ADOPT_FOUND, False, {}, "Pending", True),
        (ADOPT_FOUND, True, {}, "Loading", True),
        (PULL, False, {"inside": False}, "Pending", False),
        (PULL, True, {"inside": False}, "Pulling", False),
        (PULL, True, {"record": OLD_RECORD}, "Pulling", True),
        (LOAD, False, {"inside": False}, "Pending", False),
        (LOAD, True, {"inside": False}, "Loading", False),
        (RELOAD, True, {"record": OLD_RECORD}, "Loading", True),
        (RELOAD, True, {"record": OLD_RECORD, "inside": False}, "Loading", False),
        (UNLOAD, False, {"wanted": False, "record": RECORD}, "Unloading", True),
        (UNLOAD, True, {"wanted": False, "record": RECORD}, "Unloading", True),
        (UNLOAD, True, {"wanted": True, "record": RECORD}, "Unloading", True),
        (BEHIND, False, {"inside": False}, "Pending", False),
        (BEHIND, False, {"wanted": False, "record": RECORD}, "Unloading", True),
        (REFUSE, False, {"inside": False}, "Failed", False),
        (RETRY, False, {"inside": False, "failed": TRIED}, "Failed", False),
        (RETRY, False, {"record": OLD_RECORD, "failed": TRIED}, "Failed", True),
    ],
)
def test_state_by_step_and_truth_by_kernel(step, runs, changes, state, in_kernel) -> None:
    module = said(step, situation(**changes), runs=runs)
    assert (module.state, module.in_kernel) == (state, in_kernel)


@pytest.mark.parametrize(
    ("step", "changes", "in_kernel"),
    [
        (PULL, {}, True),
        (RETRY, {"failed": TRIED}, True),
        (GIVEN_UP, {"failed": FOR_GOOD}, True),
        (PULL, {"inside": False}, False),
        (PULL, {"rows": {"m": KernelModule(name="m", state="Unloading")}}, False),
        (PULL, {"record": replace(RECORD, builds={"m": "ours"}), **OTHERS}, False),
        (PULL, {"failed": LOAD_FAILED}, False),
        (replace(RETRY, failed=LOAD_FAILED), {"failed": LOAD_FAILED}, False),
        (LOAD, OTHERS, False),
        (REFUSE, OTHERS, False),
        (BEHIND, {}, False),
    ],
    ids=[
        "pulled",
        "pulled again later",
        "pull failed for good",
        "nothing there",
        "going",
        "another in the place of ours",
        "pulled again after a load",
        "loaded again later",
        "replaced",
        "refused",
        "another Module first",
    ],
)
def test_module_of_the_name_passes_for_the_modules_until_the_image_can_tell(
    step, changes, in_kernel
) -> None:
    assert said(step, situation(**changes), runs=step is PULL).in_kernel is in_kernel


@pytest.mark.parametrize(
    ("step", "changes", "about"),
    [
        (REST, {"record": RECORD}, ENTRY),
        (RELOAD, {"record": OLD_RECORD}, OLD),
        (RELOAD, {"record": OLD_RECORD, "inside": False}, ENTRY),
        (PULL, {"inside": False}, ENTRY),
        (UNLOAD, {"wanted": False, "record": OLD_RECORD}, OLD),
        (
            BEHIND,
            {"wanted": False, "begun": BegunLoad(module=OLD, kernel_modules=("m",))},
            OLD,
        ),
    ],
    ids=["loaded", "old still in", "old is out", "coming", "going", "interrupted"],
)
def test_digest_and_hash_are_of_what_is_in_the_kernel_else_of_what_comes(
    step, changes, about
) -> None:
    module = said(step, situation(**changes))
    assert (module.image_digest, module.config_hash) == (about.image_digest, config_hash(about))


@pytest.mark.parametrize(
    ("step", "failed", "error", "attempts", "retrying", "final"),
    [
        (REST, None, None, 0, False, True),
        (RETRY, TRIED, WHY, 2, True, False),
        (GIVEN_UP, FOR_GOOD, WHY, 2, False, True),
        (REFUSE, None, WHY, 0, False, True),
        (LOAD, TRIED, WHY, 2, False, False),
        (BEHIND, None, None, 0, False, False),
        (replace(BEHIND, blocked=WHY), None, WHY, 0, False, False),
    ],
    ids=["loaded", "retried", "given up", "refused", "next attempt", "behind", "blocked"],
)
def test_failure_says_why_how_often_and_whether_it_is_tried_again(
    step, failed, error, attempts, retrying, final
) -> None:
    record = RECORD if step is REST else None
    module = said(step, situation(failed=failed, record=record))
    assert (module.error, module.attempts, module.retrying) == (error, attempts, retrying)
    assert report.settled({ref(): step}, {}) is final


def test_module_that_vanished_says_so_until_it_is_back() -> None:
    module = said(LOAD, situation(record=RECORD, inside=False))
    assert module.error is not None
    assert module.error.reason == "Vanished"
    assert "m was taken out" in module.error.message


def test_pull_that_nobody_desires_any_more_is_no_state() -> None:
    assert report.report(situation(wanted=False, inside=False), {}, {ref(): PULL}) == ()


def test_time_is_of_the_last_change_of_state_of_the_same_module() -> None:
    loaded = said(REST, situation(record=RECORD))
    loading = replace(loaded, state=ModuleState.LOADING)
    (first,) = report.since((loading,), (), 1000)
    (same,) = report.since((replace(loading, in_kernel=False),), (first,), 2000)
    (other_state,) = report.since((loaded,), (same,), 3000)
    (other_uid,) = report.since((replace(loaded, uid="another"),), (other_state,), 4000)
    assert [each.since_ms for each in (first, same, other_state, other_uid)] == [
        1000,
        1000,
        3000,
        4000,
    ]
