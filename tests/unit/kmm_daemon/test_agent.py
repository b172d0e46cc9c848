"""The agent over a simulated kernel, on virtual time."""

import asyncio
import logging
from collections import deque
from dataclasses import replace

import pytest

from kmm_common.api.names import Reason
from kmm_common.desired import ModuleState, config_hash, content_hash
from kmm_common.errors import TransientError
from kmm_common.logs import Fact, fields_of
from kmm_daemon.agent import Pace
from kmm_daemon.journal import Memory
from kmm_daemon.values import (
    Accepted,
    DesiredUpdate,
    KernelView,
    LoadedRecord,
    NeedsSnapshot,
    UpdateKind,
)
from support.history import check
from support.node import Node, desired, ref, snapshot
from support.simkernel import SimFile, SimKernel, failure
from support.virtualclock import rest

A, B = "sha256:aaaaaaaa", "sha256:bbbbbbbb"


async def test_desired_module_is_loaded_and_reported(node: Node) -> None:
    entry = desired(parameters=("a=1",))
    assert await node.want(entry) == Accepted(uid="nms-1", generation=1)
    said = node.said()
    assert said is not None
    assert (said.state, said.in_kernel, said.error) == (ModuleState.LOADED, True, None)
    assert (said.image_digest, said.config_hash, said.uid) == (A, config_hash(entry), "uid-m")
    assert said.since_ms == 1767225600000
    assert node.kernel.parameters == {"m": ("a=1",)}
    assert node.agent.reports.latest.observed_generation == 1


async def test_nothing_is_reported_before_a_desired_state_is_known(node: Node) -> None:
    assert node.agent.reports.latest.sequence == 0
    assert node.agent.hello().uid == ""


async def test_new_image_is_ready_before_the_old_module_is_unloaded(node: Node) -> None:
    await node.want(desired())
    node.kernel.images.gates[ref()] = asyncio.Event()
    await node.want(desired(digest=B))
    said = node.said()
    assert said is not None
    assert (said.state, said.in_kernel, said.image_digest) == (ModuleState.PULLING, True, A)
    assert node.kernel.unloads(ref()) == 0
    node.kernel.images.gates[ref()].set()
    await rest()
    assert node.kernel.calls == [("load", ref()), ("unload", ref()), ("load", ref())]
    assert node.kernel.rows["m"].build == B[-8:]


async def test_nothing_is_reloaded_when_what_reaches_the_kernel_is_the_same(node: Node) -> None:
    await node.want(desired())
    again = desired(uid="uid-recreated", image="mirror/m:1", pull_secret="other", version="2")
    await node.want(again)
    assert node.kernel.calls == [("load", ref())]
    said = node.said()
    assert said is not None
    assert (said.uid, said.state) == ("uid-recreated", ModuleState.LOADED)
    assert node.agent.reports.latest.observed_generation == 2


async def test_failed_load_is_tried_again_with_growing_delays(node: Node) -> None:
    node.kernel.failing[ref()] = deque([failure(Reason.DEVICE_ERROR)] * 3)
    await node.want(desired())
    said = node.said()
    assert said is not None and said.error is not None
    assert (said.state, said.in_kernel, said.attempts) == (ModuleState.FAILED, False, 1)
    assert said.error.reason == Reason.DEVICE_ERROR
    assert said.retrying
    assert node.agent.reports.latest.observed_generation == 0
    assert node.agent.reports.latest.accepted_generation == 1
    await node.clock.advance(7)
    assert node.kernel.loads(ref()) == 1
    await node.clock.advance(4)
    assert node.kernel.loads(ref()) == 2
    await node.clock.advance(15)
    assert node.kernel.loads(ref()) == 2
    await node.clock.advance(1000)
    assert node.kernel.loads(ref()) == 4
    said = node.said()
    assert said is not None
    assert (said.state, said.attempts, said.error) == (ModuleState.LOADED, 0, None)


async def test_hour_of_a_module_that_always_fails_is_a_dozen_loads_and_disturbs_no_other(
    node: Node,
) -> None:
    node.kernel.failing[ref()] = deque([failure(Reason.DEVICE_ERROR)] * 1000)
    await node.want(desired(), desired("other"))
    await node.clock.advance(3600)
    # 10, 20, 40 to 600 s, each up to a fifth less.
    assert 11 <= node.kernel.loads(ref()) <= 13
    assert node.kernel.loads(ref("other")) == 1
    other = node.said("other")
    assert other is not None and other.state == ModuleState.LOADED


async def test_warning_of_a_load_is_told_as_long_as_the_module_is_in_the_kernel(
    node: Node,
) -> None:
    node.kernel.warnings[ref()] = "m ignores parameter bogus"
    await node.want(desired(parameters=("bogus=1",)))
    said = node.said()
    assert said is not None
    assert (said.state, said.error, said.warning) == (
        ModuleState.LOADED,
        None,
        "m ignores parameter bogus",
    )
    del node.kernel.warnings[ref()]
    await node.want(desired(parameters=("good=1",)))
    said = node.said()
    assert said is not None
    assert (said.state, said.warning) == (ModuleState.LOADED, "")


async def test_final_failure_waits_for_another_entry(node: Node) -> None:
    node.kernel.failing[ref()] = deque([failure(Reason.BAD_PARAMETER, retry=False)])
    await node.want(desired())
    await node.clock.advance(3600)
    assert node.kernel.loads(ref()) == 1
    assert node.agent.reports.latest.observed_generation == 1
    await node.want(desired(parameters=("good=1",)))
    assert node.kernel.loads(ref()) == 2
    assert node.kernel.parameters["m"] == ("good=1",)


@pytest.mark.parametrize("again", [True, False], ids=["backing off", "failed for good"])
async def test_another_retry_token_is_an_attempt_at_once_and_no_reload_of_what_is_loaded(
    node: Node, *, again: bool
) -> None:
    broken = failure(Reason.DEVICE_ERROR, retry=again)
    node.kernel.failing[ref()] = deque([broken, broken])
    await node.want(desired(), desired("fine"))
    await node.want(desired(), desired("fine"))
    assert node.kernel.loads(ref()) == 1
    for token, loads in (("1", 2), ("2", 3)):
        await node.want(desired(retry=token), desired("fine", retry=token))
        assert node.kernel.loads(ref()) == loads
    said = node.said()
    assert said is not None
    assert (said.state, said.error) == (ModuleState.LOADED, None)
    assert node.agent.reports.latest.observed_generation == 4
    assert (node.kernel.loads(ref("fine")), node.kernel.unloads(ref("fine"))) == (1, 0)


async def test_every_failure_says_for_itself_whether_it_is_tried_again(node: Node) -> None:
    node.kernel.failing[ref()] = deque([failure(Reason.UNKNOWN_SYMBOL, retry=False)])
    node.kernel.failing[ref("other")] = deque([failure(Reason.DEVICE_ERROR)])
    await node.want(desired(), desired("other"))
    said = {each.name: each for each in node.agent.reports.latest.modules}
    assert {name: each.state for name, each in said.items()} == {
        "m": ModuleState.FAILED,
        "other": ModuleState.FAILED,
    }
    assert {name: each.retrying for name, each in said.items()} == {"m": False, "other": True}


async def test_report_tells_of_a_spec_without_a_module_before_its_load_is_over(
    node: Node,
) -> None:
    """Only what is said after that proves that the Module is not in the kernel."""
    gate = node.kernel.gates[ref()] = asyncio.Event()
    await node.want(desired())
    await node.want()
    latest = node.agent.reports.latest
    assert (latest.accepted_uid, latest.accepted_generation) == ("nms-1", 2)
    assert [(each.name, each.state) for each in latest.modules] == [("m", ModuleState.LOADING)]
    assert latest.observed_generation == 0
    gate.set()
    await node.clock.advance(0)
    assert node.agent.reports.latest.modules == ()
    assert node.agent.reports.latest.observed_generation == 2


async def test_load_that_fails_after_the_unload_leaves_nothing_in_the_kernel(node: Node) -> None:
    await node.want(desired())
    node.kernel.failing[ref()] = deque([failure(Reason.UNKNOWN_SYMBOL, retry=False)])
    await node.want(desired(digest=B))
    said = node.said()
    assert said is not None
    assert (said.state, said.in_kernel, said.image_digest) == (ModuleState.FAILED, False, B)


async def test_busy_module_stays_in_the_kernel_and_is_unloaded_later(node: Node) -> None:
    await node.want(desired())
    node.kernel.busy.add("m")
    await node.want()
    said = node.said()
    assert said is not None and said.error is not None
    assert (said.state, said.in_kernel) == (ModuleState.FAILED, True)
    assert said.error.reason == Reason.IN_USE
    node.kernel.busy.clear()
    await node.clock.advance(11)
    assert node.said() is None
    assert node.kernel.rows == {}
    assert node.agent.reports.latest.observed_generation == 2


async def test_module_wanted_again_before_it_went_stays(node: Node) -> None:
    await node.want(desired())
    node.kernel.busy.add("m")
    await node.want()
    await node.want(desired())
    await node.clock.advance(3600)
    assert node.kernel.unloads(ref()) == 1
    said = node.said()
    assert said is not None and said.state is ModuleState.LOADED


async def test_pull_that_nobody_desires_any_more_is_stopped(node: Node) -> None:
    node.kernel.images.gates[ref()] = asyncio.Event()
    await node.want(desired())
    del node.kernel.images.gates[ref()]
    await node.want(desired(digest=B))
    assert node.kernel.images.cancelled == [ref()]
    assert node.kernel.rows["m"].build == B[-8:]
    assert node.kernel.loads(ref()) == 1


async def test_module_withdrawn_during_its_pull_is_no_state_of_the_node(node: Node) -> None:
    node.kernel.images.gates[ref()] = asyncio.Event()
    await node.want(desired())
    await node.want()
    assert node.said() is None
    assert node.agent.reports.latest.observed_generation == 2
    assert await node.want(desired(name="other")) == Accepted(uid="nms-1", generation=3)
    assert (said := node.said("other")) is not None
    assert said.state is ModuleState.LOADED


async def test_load_in_flight_runs_to_its_end_when_superseded(node: Node) -> None:
    gate = node.kernel.gates[ref()] = asyncio.Event()
    await node.want(desired())
    await node.want()
    gate.set()
    await rest()
    assert node.kernel.calls == [("load", ref()), ("unload", ref())]
    assert node.kernel.rows == {}
    assert node.said() is None


async def test_slow_module_blocks_no_other(node: Node) -> None:
    node.kernel.gates[ref("slow")] = asyncio.Event()
    node.kernel.images.gates[ref("pulling")] = asyncio.Event()
    await node.want(desired("slow"), desired("pulling"), desired("quick"))
    states = {
        name: said.state for name in ("slow", "pulling", "quick") if (said := node.said(name))
    }
    assert states == {
        "slow": ModuleState.LOADING,
        "pulling": ModuleState.PULLING,
        "quick": ModuleState.LOADED,
    }


async def test_steps_on_the_same_kernel_modules_run_one_after_the_other(node: Node) -> None:
    node.kernel.images.files[A] = {"up": SimFile("u", ("shared",)), "shared": SimFile("s")}
    node.kernel.images.files[B] = {"other": SimFile("o", ("shared",)), "shared": SimFile("s")}
    node.kernel.gates[ref("other")] = asyncio.Event()
    await node.want(desired("up"), desired("other", digest=B))
    assert node.kernel.calls == [("load", ref("other"))]
    node.kernel.gates[ref("other")].set()
    await rest()
    assert node.kernel.calls == [("load", ref("other")), ("load", ref("up"))]


async def test_shared_dependency_stays_for_the_module_that_needs_it(node: Node) -> None:
    node.kernel.images.files[A] = {"up": SimFile("u", ("shared",)), "shared": SimFile("s")}
    node.kernel.images.files[B] = {"other": SimFile("o", ("shared",)), "shared": SimFile("s")}
    await node.want(desired("up"))
    await node.want(desired("up"), desired("other", digest=B))
    await node.want(desired("other", digest=B))
    assert set(node.kernel.rows) == {"other", "shared"}
    await node.want()
    assert node.kernel.rows == {}


def share_a_dependency(node: Node) -> None:
    """Have the images of left and right bring the module that both stand on."""
    for name in ("left", "right"):
        files = {name: SimFile(f"v-{name}", ("shared",)), "shared": SimFile("v-shared")}
        node.kernel.images.files[A + name] = files


async def test_shared_dependency_goes_with_the_last_user_after_a_reload_beside_a_load(
    node: Node,
) -> None:
    share_a_dependency(node)
    await node.want(desired("left", digest=A + "left", parameters=("a=1",)))
    await node.want(
        desired("left", digest=A + "left", parameters=("a=2",)),
        desired("right", digest=A + "right"),
    )
    await node.want()
    assert node.kernel.rows == {}


async def test_shared_dependency_is_handed_over_to_a_module_that_is_adopted_meanwhile(
    node: Node,
) -> None:
    share_a_dependency(node)
    right = desired("right", digest=A + "right")
    await node.want(desired("left", digest=A + "left"), right)
    await node.want(replace(right, uid="another"))
    assert node.kernel.rows.keys() == {"right", "shared"}
    await node.want()
    assert node.kernel.rows == {}


async def test_module_taken_out_by_hand_is_reported_and_loaded_again(node: Node) -> None:
    await node.want(desired())
    node.kernel.rmmod("m")
    node.kernel.images.gates[ref()] = asyncio.Event()
    await node.clock.advance(31)
    said = node.said()
    assert said is not None and said.error is not None
    assert (said.in_kernel, said.error.reason) == (False, Reason.VANISHED)
    node.kernel.images.gates[ref()].set()
    await rest()
    assert node.kernel.calls == [("load", ref()), ("load", ref())]
    said = node.said()
    assert said is not None and said.state is ModuleState.LOADED
    assert b"kmm_daemon_drift_total 1.0" in node.metrics.exposition()


async def test_another_pace_holds_from_the_next_wait_on(node: Node) -> None:
    await node.want(desired())
    node.agent.keep(Pace(drift_check=5.0))
    await node.clock.advance(31)
    node.kernel.rmmod("m")
    await node.clock.advance(6)
    assert node.kernel.calls == [("load", ref()), ("load", ref())]


async def test_module_of_another_replaced_in_the_kernel_is_not_ours_to_unload(node: Node) -> None:
    await node.want(desired())
    node.kernel.rmmod("m")
    node.kernel.insmod("m")
    await node.clock.advance(31)
    said = node.said()
    assert said is not None and said.error is not None
    assert (said.in_kernel, said.error.reason) == (False, Reason.LOADED_FROM_ELSEWHERE)
    await node.want()
    assert "m" in node.kernel.rows
    assert node.said() is None


async def test_module_loaded_from_elsewhere_is_left_alone_until_it_goes(node: Node) -> None:
    node.kernel.insmod("m")
    await node.want(desired())
    said = node.said()
    assert said is not None and said.error is not None
    assert (said.state, said.in_kernel) == (ModuleState.FAILED, False)
    assert said.error.reason == Reason.LOADED_FROM_ELSEWHERE
    assert node.kernel.calls == []
    node.kernel.rmmod("m")
    await node.clock.advance(31)
    assert node.kernel.calls == [("load", ref())]


async def test_conflicting_module_is_never_touched_and_takes_over_later(node: Node) -> None:
    winner = desired("winner", module_name="m")
    loser = desired("loser", module_name="m", digest=B)
    await node.want(winner, replace(loser, conflicts_with="ns/winner"))
    said = node.said("loser")
    assert said is not None and said.error is not None
    assert (said.state, said.in_kernel) == (ModuleState.FAILED, False)
    assert said.error.reason == Reason.CONFLICT and "ns/winner" in said.error.message
    await node.want(loser)
    calls = [("load", ref("winner")), ("unload", ref("winner")), ("load", ref("loser"))]
    assert node.kernel.calls == calls


async def test_entry_for_another_kernel_is_pending_and_not_touched(node: Node) -> None:
    await node.want(desired(kernel_version="5.14.0"))
    said = node.said()
    assert said is not None and said.error is not None
    assert (said.state, said.error.reason) == (ModuleState.PENDING, Reason.KERNEL_MISMATCH)
    assert (node.kernel.calls, node.kernel.images.pulls) == ([], [])
    assert node.agent.reports.latest.observed_generation == 1


async def test_daemon_restart_reloads_nothing(node: Node) -> None:
    await node.want(desired())
    await node.restart()
    assert node.kernel.calls == [("load", ref())]
    assert node.kernel.images.pulls == [ref()]
    said = node.said()
    assert said is not None and said.state is ModuleState.LOADED
    hello = node.agent.hello()
    assert (hello.uid, hello.generation) == ("nms-1", 1)
    assert hello.content_hash == content_hash([desired()])


async def test_loaded_module_is_adopted_after_the_journal_was_lost(node: Node) -> None:
    await node.want(desired())
    await node.restart(journal=False)
    await node.want(desired())
    assert node.kernel.calls == [("load", ref())]
    said = node.said()
    assert said is not None and said.state is ModuleState.LOADED
    await node.want()
    assert node.kernel.rows == {}


async def test_module_is_said_to_be_there_while_it_is_pulled_again_for_a_lost_journal(
    node: Node,
) -> None:
    await node.want(desired())
    await node.restart(journal=False)
    assert node.agent.reports.latest.accepted_uid == ""
    pull = node.kernel.images.gates[ref()] = asyncio.Event()
    await node.want(desired())
    said = node.said()
    assert said is not None and (said.state, said.in_kernel) == (ModuleState.PULLING, True)
    pull.set()
    await rest()
    said = node.said()
    assert said is not None and (said.state, said.in_kernel) == (ModuleState.LOADED, True)


async def test_reboot_loads_again_and_replays_no_journal(node: Node) -> None:
    await node.want(desired())
    await node.reboot()
    assert node.agent.hello().uid == ""
    await node.send(snapshot(1, [desired()]))
    assert node.kernel.loads(ref()) == 2
    said = node.said()
    assert said is not None and said.state is ModuleState.LOADED


async def test_load_that_ends_after_its_time_out_is_adopted(node: Node) -> None:
    node.kernel.images.files[A] = {"m": SimFile("")}
    node.kernel.late[ref()] = failure(Reason.TIMED_OUT)
    await node.want(desired())
    assert node.kernel.calls == [("load", ref())]
    said = node.said()
    assert said is not None and said.state is ModuleState.LOADED
    assert "modprobe was ended after modprobe_seconds" in said.warning


@pytest.mark.parametrize("restart", [False, True], ids=["same daemon", "next daemon"])
async def test_load_that_was_cut_short_has_a_warning_until_the_module_is_loaded_again(
    node: Node, restart: bool
) -> None:
    node.kernel.late[ref()] = failure(Reason.KILLED)
    await node.want(desired())
    if restart:
        await node.restart()
    said = node.said()
    assert said is not None and said.warning.startswith("modprobe was killed while")
    node.kernel.rmmod("m")
    await node.clock.advance(31)
    said = node.said()
    assert said is not None
    assert (said.state, said.warning, node.kernel.loads(ref())) == (ModuleState.LOADED, "", 2)


async def test_load_that_a_crash_interrupted_is_adopted_without_a_srcversion(node: Node) -> None:
    node.kernel.images.files[A] = {"m": SimFile("")}
    node.kernel.gates[ref()] = asyncio.Event()
    await node.want(desired())
    await node.stop()
    node.kernel.insmod("m", build="")
    await node.restart()
    assert node.kernel.calls == [("load", ref())]
    said = node.said()
    assert said is not None and said.state is ModuleState.LOADED
    assert "modprobe was" not in said.warning
    await node.want()
    assert node.kernel.rows == {}


@pytest.mark.parametrize("theirs", ["build-id 02", "another srcversion"])
async def test_module_without_a_srcversion_that_somebody_replaces_is_noticed(
    node: Node, theirs: str
) -> None:
    node.kernel.images.files[A] = {"m": SimFile("build-id 01")}
    await node.want(desired())
    node.kernel.rmmod("m")
    node.kernel.insmod("m", theirs)
    await node.clock.advance(31)
    said = node.said()
    assert said is not None and said.error is not None
    assert (said.state, said.in_kernel) == (ModuleState.FAILED, False)
    assert said.error.reason == Reason.LOADED_FROM_ELSEWHERE
    assert said.error.message.endswith(
        "the image has build-id 01: use an image with the build in the kernel, unload m on a "
        "drained node, or name it in inTreeModulesToRemove, which unloads it even while its "
        "devices are at work"
    )
    assert node.kernel.rows["m"].build == theirs
    node.kernel.rmmod("m")
    await node.clock.advance(31)
    assert node.kernel.rows["m"].build == "build-id 01"


async def test_module_of_which_no_build_can_be_told_is_loaded_with_a_warning(node: Node) -> None:
    node.kernel.images.files[A] = {"m": SimFile("")}
    await node.want(desired())
    said = node.said()
    assert said is not None and said.state is ModuleState.LOADED
    assert said.warning == (
        "m has neither srcversion nor build-id: if somebody replaces it in the kernel, that cannot "
        "be seen"
    )


@pytest.mark.parametrize(
    ("theirs", "image", "lacks"), [("", "", "kernel"), ("", "1", "kernel"), ("1", "", "image")]
)
async def test_module_of_which_no_build_can_be_told_is_not_taken_for_the_images(
    node: Node, theirs: str, image: str, lacks: str
) -> None:
    node.kernel.images.files[A] = {"m": SimFile(image)}
    node.kernel.insmod("m", build=theirs)
    await node.want(desired())
    said = node.said()
    assert said is not None and said.error is not None
    assert said.error.reason == Reason.LOADED_FROM_ELSEWHERE
    assert f"the one in the {lacks} has neither srcversion nor build-id" in said.error.message
    assert node.kernel.calls == []


async def test_module_that_the_kernel_still_initialises_is_not_started_again(node: Node) -> None:
    await node.want(desired("other"))
    node.kernel.insmod("m")
    node.kernel.rows["m"] = replace(node.kernel.rows["m"], state="Loading")
    await node.want(desired(), desired("other"))
    assert node.kernel.loads(ref()) == 0
    node.kernel.rmmod("m")
    await node.clock.advance(1)
    assert node.kernel.loads(ref()) == 1


async def test_unknown_error_in_a_step_is_a_failure_of_that_module_only(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.kernel.failing[ref()] = deque([RuntimeError("bug")])  # type: ignore[list-item]
    await node.want(desired(), desired("other"))
    said, other = node.said(), node.said("other")
    assert said is not None and said.error is not None and other is not None
    assert (said.state, said.error.reason) == (ModuleState.FAILED, Reason.MODPROBE_FAILED)
    assert "RuntimeError" in said.error.message
    assert other.state is ModuleState.LOADED


async def test_update_that_cannot_be_journaled_is_not_accepted(node: Node) -> None:
    node.journal.full = TransientError("full", reason="JournalNotWritten")
    with pytest.raises(TransientError):
        await node.want(desired())
    assert node.agent.hello().generation == 0
    assert node.kernel.calls == []


async def test_nothing_reaches_the_kernel_before_the_journal_knows(node: Node) -> None:
    node.kernel.images.gates[ref()] = asyncio.Event()
    await node.want(desired())
    node.journal.full = TransientError("full", reason="JournalNotWritten")
    node.kernel.images.gates[ref()].set()
    await rest()
    said = node.said()
    assert said is not None and said.error is not None
    assert (node.kernel.calls, said.error.reason) == ([], Reason.DISK_FULL)
    node.journal.full = None
    await node.clock.advance(11)
    assert node.kernel.calls == [("load", ref())]


async def test_state_that_could_not_be_journaled_is_written_later(node: Node) -> None:
    await node.want(desired())
    gate = node.kernel.gates[ref("late")] = asyncio.Event()
    await node.want(desired(), desired("late"))
    node.journal.full = TransientError("full", reason="JournalNotWritten")
    gate.set()
    await rest()
    node.journal.full = None
    await node.clock.advance(31)
    await node.restart()
    assert node.kernel.loads(ref("late")) == 1
    late = node.said("late")
    assert late is not None and late.state is ModuleState.LOADED


async def test_diff_is_applied_to_its_base(node: Node) -> None:
    await node.want(desired(), desired("gone"))
    modules = [desired(), desired("new")]
    update = DesiredUpdate(
        kind=UpdateKind.DIFF,
        uid="nms-1",
        generation=5,
        base_generation=1,
        upserts=(desired("new"),),
        removals=(ref("gone"),),
        content_hash=content_hash(modules),
    )
    assert await node.send(update) == Accepted(uid="nms-1", generation=5)
    assert set(node.kernel.rows) == {"m", "new"}
    assert isinstance(await node.send(update), NeedsSnapshot)


async def test_unload_that_is_done_but_not_yet_journaled_is_still_told_as_one(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.want(desired())
    gates = {name: asyncio.Event() for name in ("unload", "view", "write")}
    unload, view, write = SimKernel.unload, SimKernel.view, node.journal.write

    async def slow_unload(kernel: SimKernel, record: LoadedRecord, keep: frozenset[str]) -> None:
        await gates["unload"].wait()
        await unload(kernel, record, keep)

    async def slow_view(
        kernel: SimKernel, parameters_of: frozenset[str] = frozenset()
    ) -> KernelView:
        monkeypatch.setattr(SimKernel, "view", view)
        await gates["view"].wait()
        return await view(kernel)

    async def slow_write(memory: Memory) -> None:
        await gates["write"].wait()
        await write(memory)

    monkeypatch.setattr(SimKernel, "unload", slow_unload)
    await node.want()
    monkeypatch.setattr(node.journal, "write", slow_write)
    monkeypatch.setattr(SimKernel, "view", slow_view)
    await node.clock.advance(60)
    for name in ("unload", "view"):
        gates[name].set()
        await rest()
    said = node.said()
    assert said is not None
    assert (said.state, said.in_kernel) == (ModuleState.UNLOADING, False)
    gates["write"].set()
    await rest()
    assert node.said() is None


async def test_facts_are_logged_once_and_make_a_good_history(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kmm_daemon")
    await node.want(desired())
    await node.want(desired(digest=B))
    await node.want(desired(digest=B))
    await node.want()
    lines = [
        {"msg": r.getMessage(), "ts": r.created, **fields_of(r)}
        for r in caplog.records
        if r.getMessage() in set(Fact)
    ]
    said = [line["msg"] for line in lines]
    assert said.count(Fact.ACCEPTED) == 4
    assert said.count(Fact.STEP_STARTED) == said.count(Fact.STEP_ENDED) == 4
    sequences = [line["sequence"] for line in lines if line["msg"] == Fact.REPORTED]
    assert sequences == list(range(1, len(sequences) + 1))
    plane = [_published(1, A), _published(2, B), _published(3, B), _published(4, "")]
    assert check(plane, {"n": lines}) == []


def _published(generation: int, digest: str) -> dict[str, object]:
    modules = (
        [{"ref": "ns/m", "digest": digest, "hash": config_hash(desired(digest=digest))}]
        if digest
        else []
    )
    return {
        "msg": Fact.PUBLISHED,
        "node": "n",
        "uid": "nms-1",
        "generation": generation,
        "modules": modules,
    }
