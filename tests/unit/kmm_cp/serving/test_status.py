import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from grpclib.const import Status

from kmm_common.api.nodemodulesstate import NodeStatus
from kmm_common.backoff import Backoff
from kmm_common.desired import ModuleFailure, ModuleState
from kmm_common.logs import Fact, fields_of
from kmm_cp.kube.errors import InvalidError, NotFoundError, UnavailableError
from kmm_cp.kube.resources import Resource
from kmm_cp.policy.values import NodeState
from kmm_cp.serving.mailbox import Mailbox
from kmm_cp.serving.sender import Claim
from kmm_cp.serving.sessions import Session
from kmm_cp.serving.status import GAP_SECONDS, PASSING_SECONDS, StatusWriter
from kmm_cp.serving.values import Greeting, Journaled, Report
from support.certificates import pod_of
from support.desired import desired, reported
from support.serving import target
from support.virtualclock import VirtualClock, rest

Json = dict[str, Any]


class Api:
    """An API server that holds NodeModulesStates and knows JSON patch's test and add."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.writes: list[list[Json]] = []
        self.reads = 0
        self.away = False
        self.refuses = False
        self.gate = asyncio.Event()
        """While it is closed, reads have no answer."""
        self.gate.set()

    def put(self, name: str, *, uid: str = "nms-1", modules: int = 1) -> None:
        self.objects[name] = {
            "metadata": {"uid": uid},
            "spec": {"modules": [{}] * modules},
            "status": {"observedGeneration": -1},
        }

    def status(self, name: str) -> Json:
        status: Json = self.objects[name]["status"]
        return status

    async def get(self, resource: Resource, name: str) -> Json:
        self.reads += 1
        await self.gate.wait()
        return await self._found(name)

    async def _found(self, name: str) -> Json:
        await asyncio.sleep(0)
        if self.away:
            raise UnavailableError("away")
        if name not in self.objects:
            raise NotFoundError(name)
        return copy.deepcopy(self.objects[name])

    async def patch_json(
        self, resource: Resource, name: str, operations: list[Json], *, subresource: str
    ) -> Json:
        found = await self._found(name)
        assert subresource == "status"
        for operation in operations:
            *parents, last = operation["path"].strip("/").split("/")
            place = found
            for part in parents:
                place = place[part]
            if operation["op"] == "add":
                place[last] = operation["value"]
            elif last not in place or place[last] != operation["value"]:
                raise InvalidError(f"test failed: {operation}")
        if self.refuses:
            raise InvalidError("status.modules[0].state: Unsupported value")
        self.writes.append(operations)
        self.objects[name] = copy.deepcopy(found)
        return found


@pytest.fixture
def api() -> Api:
    api = Api()
    api.put("a")
    return api


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def writer(api: Api, clock: VirtualClock) -> AsyncIterator[StatusWriter]:
    async with running(api, clock) as writer:
        yield writer


class running:  # noqa: N801
    """A writer that runs until the end of the block."""

    def __init__(self, api: Api, clock: VirtualClock) -> None:
        self.writer = StatusWriter(api=api, clock=clock, backoff=Backoff(1.0, 1.0, 0.0))

    async def __aenter__(self) -> StatusWriter:
        self._task = asyncio.create_task(self.writer.run())
        return self.writer

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def said(
    sequence: int, *modules: Any, generation: int = 1, uid: str = "nms-1", accepted: int = 1
) -> Report:
    return Report(
        sequence=sequence,
        uid=uid,
        observed_generation=generation,
        modules=tuple(modules),
        accepted_uid=uid,
        accepted_generation=accepted,
    )


def session_of(
    instance: str = "one", *, node: str = "a", report: Report | None = None, boot: str = "boot-1"
) -> Session:
    greeting = Greeting(
        protocol_version=1,
        instance=instance,
        boot_id=boot,
        kernel_version="6.1.0",
        daemon_version="0.1.0",
        journaled=Journaled(),
        report=report or said(1),
    )
    session = Session(
        node=node, pod=pod_of(node), greeting=greeting, connection=object(), mailbox=Mailbox()
    )
    session.mailbox.put(target(1, desired("one")))
    return session


async def claimed(writer: StatusWriter, session: Session, uid: str = "nms-1") -> Claim:
    writer.report(session, session.greeting.report)
    claim = await writer.claim(session, uid)
    await rest()
    return claim


LOADED = reported("one")
LOADING = reported("one", ModuleState.LOADING)
PENDING = reported("one", ModuleState.PENDING)


async def test_claim_writes_the_daemon_and_all_that_it_said(
    api: Api, writer: StatusWriter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert await claimed(writer, session_of(report=said(4, LOADED))) is Claim.HELD
    status = api.status("a")
    assert status["daemon"] == {
        "connected": True,
        "podName": "kmm-daemon-a",
        "version": "0.1.0",
        "since": "2026-01-01T00:00:00Z",
        "instance": "one",
        "sequence": 4,
    }
    assert (status["observedGeneration"], status["bootId"]) == (1, "boot-1")
    assert status["kernelVersion"] == "6.1.0"
    assert status["summary"] == {"desired": 1, "loaded": 1, "failed": 0}
    assert [module["state"] for module in status["modules"]] == ["Loaded"]
    assert len(api.writes) == 1
    persisted = [fields_of(one) for one in caplog.records if one.message == Fact.PERSISTED]
    assert persisted == [{"node": "a", "instance": "one", "sequence": 4}]


NOTHING_YET = Report(sequence=0, uid="", observed_generation=0, modules=())
"""Of a daemon that has no journal and has accepted nothing."""


async def test_daemon_that_knows_nothing_yet_says_nothing_of_the_boot(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    session = session_of(report=NOTHING_YET)
    await claimed(writer, session)
    assert (api.status("a")["bootId"], api.status("a")["modules"]) == ("", [])
    assert (api.status("a")["kernelVersion"], len(api.writes)) == ("6.1.0", 1)
    writer.report(session, said(1, LOADED))
    await rest()
    assert (api.status("a")["bootId"], len(api.writes)) == ("boot-1", 2)


async def test_daemon_that_knows_nothing_yet_takes_back_nothing_that_was_said_of_its_boot(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    await claimed(writer, session_of("before", report=said(4, LOADED)))
    before = api.status("a")
    session = session_of("after", report=NOTHING_YET)
    await claimed(writer, session)
    await clock.advance(PASSING_SECONDS)
    assert api.status("a") == {**before, "daemon": api.status("a")["daemon"]}
    assert api.status("a")["daemon"]["instance"] == "after"
    writer.report(session, said(1, PENDING, generation=0))
    await clock.advance(GAP_SECONDS)
    assert [module["state"] for module in api.status("a")["modules"]] == ["Pending"]


async def test_daemon_that_knows_nothing_yet_knows_that_the_boot_is_another(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    await claimed(writer, session_of("before", report=said(4, LOADED)))
    for instance in ("after", "and again"):
        await claimed(writer, session_of(instance, boot="boot-2", report=NOTHING_YET))
        await clock.advance(PASSING_SECONDS)
        assert (api.status("a")["bootId"], api.status("a")["modules"]) == ("boot-2", [])
    assert len(api.writes) == 3


async def test_same_instance_with_the_same_state_costs_no_write_at_another_replica(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    report = said(4, LOADED)
    await claimed(writer, session_of(report=report))
    async with running(api, clock) as restarted:
        assert await claimed(restarted, session_of(report=report)) is Claim.HELD
        later = session_of(report=said(9, LOADED))
        assert await claimed(restarted, later) is Claim.HELD
    assert len(api.writes) == 1


async def test_change_is_one_write_of_what_changed(api: Api, writer: StatusWriter) -> None:
    session = session_of()
    await claimed(writer, session)
    writer.report(session, said(2, LOADED, generation=2))
    await rest()
    assert len(api.writes) == 2
    changed = {one["path"] for one in api.writes[1] if one["op"] == "add"}
    assert changed == {
        "/status/observedGeneration",
        "/status/modules",
        "/status/summary",
        "/status/conditions",
        "/status/daemon/sequence",
    }
    assert api.status("a")["daemon"]["sequence"] == 2


async def test_state_that_passes_within_a_second_is_not_written(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    session = session_of()
    await claimed(writer, session)
    for sequence, module in ((2, PENDING), (3, LOADING)):
        writer.report(session, said(sequence, module, generation=0))
        await clock.advance(0.4)
    assert len(api.writes) == 1
    writer.report(session, said(4, LOADED))
    await rest()
    assert len(api.writes) == 2
    assert api.status("a")["modules"][0]["state"] == "Loaded"


async def test_state_that_lasts_is_written_after_a_while(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    session = session_of()
    await claimed(writer, session)
    writer.report(session, said(2, LOADING, generation=0))
    await clock.advance(PASSING_SECONDS - 0.1)
    assert len(api.writes) == 1
    await clock.advance(0.2)
    assert api.status("a")["modules"][0]["state"] == "Loading"
    await clock.advance(60.0)
    assert len(api.writes) == 2


async def test_acceptance_of_a_spec_is_written_with_what_comes_of_it_or_after_a_while(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    session = session_of(report=said(1, LOADED))
    await claimed(writer, session)
    writer.report(session, said(2, LOADED, accepted=2))
    await clock.advance(PASSING_SECONDS - 0.1)
    writer.report(session, said(3, LOADED, generation=2, accepted=2))
    await rest()
    assert len(api.writes) == 2
    assert api.status("a")["acceptedGeneration"] == 2
    writer.report(session, said(4, LOADED, generation=2, accepted=3))
    await clock.advance(PASSING_SECONDS)
    assert api.status("a")["acceptedGeneration"] == 3
    assert api.status("a")["observedGeneration"] == 2


async def test_acceptance_of_a_former_object_says_nothing_about_this_one(
    api: Api, writer: StatusWriter
) -> None:
    await claimed(writer, session_of(report=said(3, LOADED, accepted=8, uid="former")))
    assert api.status("a")["acceptedGeneration"] == -1


async def test_module_that_is_out_for_a_second_is_told_though_its_load_goes_on(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    session = session_of(report=said(1, LOADED))
    await claimed(writer, session)
    writer.report(session, said(2, replace(LOADING, in_kernel=True), generation=0))
    await clock.advance(2.5)
    writer.report(session, said(3, LOADING, generation=0))
    await clock.advance(GAP_SECONDS - 0.1)
    assert len(api.writes) == 1, "counted from when the module went out"
    await clock.advance(0.1)
    assert "inKernel" not in api.status("a")["modules"][0]


async def test_gap_of_a_reload_under_a_second_is_not_told(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    session = session_of(report=said(1, LOADED))
    await claimed(writer, session)
    writer.report(session, said(2, LOADING, generation=0))
    await clock.advance(GAP_SECONDS - 0.1)
    writer.report(session, said(3, LOADED, generation=2))
    await rest()
    assert len(api.writes) == 2
    assert all(change["modules"] for change in map(_added, api.writes) if "modules" in change)
    assert api.status("a")["observedGeneration"] == 2


def _added(operations: list[Json]) -> Json:
    return {one["path"].rpartition("/")[2]: one["value"] for one in operations}


async def test_module_that_leaves_while_another_comes_is_told_within_a_second(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    session = session_of(report=said(1, LOADED))
    await claimed(writer, session)
    writer.report(session, said(2, reported("two", ModuleState.LOADING), generation=0))
    await clock.advance(GAP_SECONDS)
    assert [one["name"] for one in api.status("a")["modules"]] == ["two"]


async def test_failure_and_a_reason_to_wait_are_written_at_once(
    api: Api, writer: StatusWriter
) -> None:
    session = session_of()
    await claimed(writer, session)
    error = ModuleFailure(reason="KernelMismatch", message="for another kernel")
    waiting = LOADED.__class__(
        namespace="default", name="one", uid="u", state=ModuleState.PENDING, error=error
    )
    writer.report(session, said(2, waiting))
    await rest()
    assert api.status("a")["modules"][0]["error"]["reason"] == "KernelMismatch"


async def test_change_beside_a_module_that_is_still_pulling_is_written_at_once(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    session = session_of()
    await claimed(writer, session)
    writer.report(session, said(2, LOADING, reported("two", ModuleState.PENDING), generation=0))
    await clock.advance(PASSING_SECONDS)
    writer.report(session, said(3, LOADING, reported("two"), generation=0))
    await rest()
    assert [one["state"] for one in api.status("a")["modules"]] == ["Loading", "Loaded"]


async def test_new_instance_takes_the_status_over_and_the_old_one_is_ended(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    old, new = session_of("old"), session_of("new", boot="boot-2")
    await claimed(writer, old)
    async with running(api, clock) as other:
        assert await claimed(other, new) is Claim.HELD
    assert api.status("a")["bootId"] == "boot-2"
    writer.report(old, said(2, LOADED))
    await rest()
    assert api.status("a")["daemon"]["instance"] == "new"
    assert "modules" in api.status("a")
    assert api.status("a")["modules"] == []
    assert old.ending is not None


async def test_claim_is_lost_when_another_instance_comes_in_between(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    session, other = session_of("one"), session_of("two")
    writer.report(session, session.greeting.report)
    async with running(api, clock) as elsewhere:
        losing = asyncio.create_task(writer.claim(session, "nms-1"))
        winning = asyncio.create_task(claimed(elsewhere, other))
        assert {await losing, await winning} == {Claim.HELD, Claim.LOST}
    assert len(api.writes) == 1


async def test_claim_survives_a_last_word_of_the_old_instance(
    api: Api, writer: StatusWriter
) -> None:
    await claimed(writer, session_of("old"))
    session = session_of("new")
    writer.report(session, session.greeting.report)
    read = api.get

    async def read_then_change(resource: Resource, name: str) -> Json:
        found = await read(resource, name)
        api.get = read  # type: ignore[method-assign]
        api.status(name)["daemon"]["sequence"] = 77
        return found

    api.get = read_then_change  # type: ignore[method-assign]
    assert await writer.claim(session, "nms-1") is Claim.HELD
    assert api.status("a")["daemon"]["instance"] == "new"


async def test_claim_survives_a_watch_that_shows_the_old_instance_and_a_report(
    api: Api, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its patch is under way: what it takes over is no sign of another daemon."""
    async with running(api, clock) as elsewhere, running(api, clock) as here:
        await claimed(elsewhere, session_of("old"))
        session, seen = session_of("new"), seen_of(api)
        here.report(session, session.greeting.report)
        answered = _gate_patches(api, monkeypatch)
        claiming = asyncio.create_task(here.claim(session, "nms-1"))
        await rest()
        here.observed("a", "nms-1", seen)
        here.report(session, said(2, LOADED))
        await rest()
        answered.set()
        assert await claiming is Claim.HELD
        await rest()
    assert session.ending is None
    assert api.status("a")["daemon"]["instance"] == "new"
    assert api.status("a")["modules"][0]["state"] == "Loaded"


async def test_claim_that_is_lost_before_it_is_answered_ends_the_session(
    api: Api, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the watch told of the other daemon when nothing was held yet."""
    async with running(api, clock) as elsewhere, running(api, clock) as here:
        session, patch = session_of("one"), api.patch_json
        here.report(session, session.greeting.report)

        async def late(*arguments: Any, **options: Any) -> Json:
            monkeypatch.setattr(api, "patch_json", patch)
            answer = await patch(*arguments, **options)
            assert await claimed(elsewhere, session_of("two")) is Claim.HELD
            here.observed("a", "nms-1", seen_of(api))
            return answer

        monkeypatch.setattr(api, "patch_json", late)
        assert await here.claim(session, "nms-1") is Claim.HELD
        await rest()
    assert session.ending is not None
    assert api.status("a")["daemon"]["instance"] == "two"


@pytest.mark.parametrize("there", [None, "another"])
async def test_claim_of_an_object_that_is_gone_says_so(
    api: Api, writer: StatusWriter, there: str | None
) -> None:
    del api.objects["a"]
    if there:
        api.put("a", uid=there)
    assert await claimed(writer, session_of()) is Claim.GONE
    assert api.writes == []


async def test_object_deleted_just_before_the_claim_is_gone(
    api: Api, writer: StatusWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = api.patch_json

    async def too_late(*arguments: Any, **options: Any) -> Json:
        api.objects.clear()
        return await patch(*arguments, **options)

    monkeypatch.setattr(api, "patch_json", too_late)
    assert await claimed(writer, session_of()) is Claim.GONE
    assert api.writes == []


async def test_report_about_a_former_object_does_not_count_as_observed(
    api: Api, writer: StatusWriter
) -> None:
    await claimed(writer, session_of(report=said(3, LOADED, generation=8, uid="former")))
    assert api.status("a")["observedGeneration"] == -1


async def test_reports_are_coalesced_and_written_when_the_api_server_is_back(
    api: Api, clock: VirtualClock, writer: StatusWriter, caplog: pytest.LogCaptureFixture
) -> None:
    session = session_of()
    await claimed(writer, session)
    api.away = True
    for sequence in range(2, 30):
        writer.report(session, said(sequence, LOADED, generation=sequence))
        await clock.advance(0.5)
    api.away = False
    await clock.advance(2.0)
    assert len(api.writes) == 2
    assert api.status("a")["daemon"]["sequence"] == 29
    assert caplog.messages.count("status not written") == 1


async def test_older_report_never_replaces_a_newer_one(api: Api, writer: StatusWriter) -> None:
    session = session_of(report=said(5, LOADED))
    await claimed(writer, session)
    writer.report(session, said(4))
    await rest()
    assert len(api.writes) == 1


async def test_status_that_the_server_refuses_is_told_once_and_not_repeated(
    api: Api, clock: VirtualClock, writer: StatusWriter, caplog: pytest.LogCaptureFixture
) -> None:
    session = session_of()
    await claimed(writer, session)
    api.refuses = True
    writer.report(session, said(2, LOADED))
    await clock.advance(600.0)
    assert caplog.messages.count("status refused by the API server") == 1
    api.refuses = False
    writer.report(session, said(3, LOADED, generation=2))
    await rest()
    assert api.status("a")["daemon"]["sequence"] == 3
    assert api.status("a")["modules"][0]["state"] == "Loaded"


async def test_live_session_that_is_called_away_is_claimed_again(
    api: Api, writer: StatusWriter
) -> None:
    session = session_of()
    await claimed(writer, session)
    api.status("a")["daemon"]["connected"] = False
    seen = seen_of(api)
    writer.observed("a", "nms-1", seen)
    writer.observed("b", "nms-1", seen)
    await rest()
    assert api.status("a")["daemon"]["connected"] is True
    writer.observed("a", "nms-1", seen)
    await rest()
    assert len(api.writes) == 2, "what the cache says late costs nothing"


def _forget_a_module(status: Json) -> None:
    status["modules"] = []


def _count_wrongly(status: Json) -> None:
    status["summary"]["loaded"] = 7


def _call_it_ready(status: Json) -> None:
    status["conditions"][0]["status"] = "Unknown"


def _claim_a_boot(status: Json) -> None:
    status["bootId"] = "another"


def _say_too_much(status: Json) -> None:
    status["daemon"]["sequence"] = 1_000_000


def _make_unreadable(status: Json) -> None:
    status["daemon"]["since"] = "yesterday"


def _blank(status: Json) -> None:
    status.clear()


@pytest.mark.parametrize(
    "falsify",
    [
        _forget_a_module,
        _count_wrongly,
        _call_it_ready,
        _claim_a_boot,
        _make_unreadable,
        _blank,
    ],
)
async def test_status_that_somebody_edited_is_put_right_at_once(
    api: Api, clock: VirtualClock, writer: StatusWriter, falsify: Callable[[Json], None]
) -> None:
    session = session_of()
    await claimed(writer, session)
    writer.report(session, said(2, LOADED, generation=2))
    await rest()
    before = copy.deepcopy(api.status("a"))
    await clock.advance(10.0)
    falsify(api.status("a"))
    writer.observed("a", "nms-1", seen_of(api))
    await rest()
    now = api.status("a")
    for each in (before, now):
        each["daemon"].pop("since")
        for condition in each["conditions"]:
            condition.pop("lastTransitionTime")
    assert now == before
    writer.report(session, said(3, LOADED, generation=3))
    await rest()
    assert api.status("a")["observedGeneration"] == 3
    assert session.ending is None


async def test_session_of_a_status_that_says_more_than_it_reported_ends_and_the_next_puts_it_right(
    api: Api, writer: StatusWriter
) -> None:
    """The same daemon may have reported it elsewhere, or somebody has written it by hand."""
    session = session_of()
    await claimed(writer, session)
    _say_too_much(api.status("a"))
    writer.observed("a", "nms-1", seen_of(api))
    await rest()
    assert session.ending is not None
    assert len(api.writes) == 1
    again = session_of(report=said(2, LOADED))
    assert await claimed(writer, again) is Claim.HELD
    assert api.status("a")["daemon"]["sequence"] == 2
    assert api.status("a")["modules"][0]["state"] == "Loaded"


@pytest.mark.parametrize("turns", range(6))
async def test_half_open_session_writes_nothing_over_what_its_daemon_says_elsewhere(
    api: Api, clock: VirtualClock, turns: int
) -> None:
    """However far the look at the status has come when the other replica writes."""
    async with running(api, clock) as here, running(api, clock) as elsewhere:
        half_open = session_of(report=said(1, LOADING))
        await claimed(here, half_open)
        api.status("a")["daemon"]["connected"] = False
        here.observed("a", "nms-1", seen_of(api))
        for _ in range(turns):
            await asyncio.sleep(0)
        assert await claimed(elsewhere, session_of(report=said(2, LOADED))) is Claim.HELD
        here.observed("a", "nms-1", seen_of(api))
        await rest()
    assert half_open.ending is not None
    assert api.status("a")["daemon"]["sequence"] == 2
    assert api.status("a")["modules"][0]["state"] == "Loaded"


async def test_change_by_others_is_put_right_though_the_api_server_is_away_when_it_is_told(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    await claimed(writer, session_of(report=said(3, LOADED)))
    api.status("a")["daemon"]["connected"] = False
    api.away = True
    writer.observed("a", "nms-1", seen_of(api))
    await rest()
    api.away = False
    await clock.advance(60)
    assert api.status("a")["daemon"]["connected"]


async def test_older_status_that_a_list_shows_is_put_right_and_one_that_a_watch_shows_is_late(
    api: Api, writer: StatusWriter
) -> None:
    """etcd was restored, and the spec is the same: the session goes on."""
    session = session_of(report=said(3, PENDING))
    await claimed(writer, session)
    backup = copy.deepcopy(api.objects["a"])
    writer.report(session, said(4, LOADED))
    await rest()
    api.objects["a"], reads = backup, api.reads
    writer.observed("a", "nms-1", seen_of(api))
    await rest()
    assert api.reads == reads
    writer.observed("a", "nms-1", seen_of(api), listed=True)
    await rest()
    assert api.status("a")["modules"][0]["state"] == "Loaded"
    assert session.ending is None


async def test_state_held_back_for_a_former_object_does_not_disturb_the_claim_of_its_successor(
    api: Api, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(api, clock) as writer:
        session = session_of(report=said(1, LOADED))
        await claimed(writer, session)
        writer.report(session, said(2, LOADING, generation=0))
        await rest()
        api.put("a", uid="nms-2")
        gate = _gate_patches(api, monkeypatch)
        claiming = asyncio.create_task(writer.claim(session, "nms-2"))
        await rest()
        writer.report(session, said(3, LOADED, uid="nms-2"))
        await rest()
        gate.set()
        assert await claiming is Claim.HELD
        await rest()
        assert session.ending is None
        assert api.status("a")["daemon"]["sequence"] == 3


async def test_write_to_a_former_object_that_fails_late_does_not_end_its_successors_session(
    api: Api, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(api, clock) as writer:
        session = session_of(report=said(1, PENDING))
        await claimed(writer, session)
        gate = _gate_patches(api, monkeypatch)
        api.put("a", uid="nms-2")
        writer.report(session, said(2, LOADED))
        await rest()
        claiming = asyncio.create_task(writer.claim(session, "nms-2"))
        await rest()
        gate.set()
        assert await claiming is Claim.HELD
        await rest()
        assert session.ending is None


async def test_look_at_a_former_object_that_is_answered_late_does_not_take_the_record_back(
    api: Api, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(api, clock) as writer:
        session = session_of(report=said(1, LOADED))
        await claimed(writer, session)
        _blank(api.status("a"))
        gate = _gate_answers(api, monkeypatch)
        writer.observed("a", "nms-1", seen_of(api))
        await rest()
        api.put("a", uid="nms-2")
        claiming = asyncio.create_task(writer.claim(session, "nms-2"))
        await rest()
        gate.set()
        assert await claiming is Claim.HELD
        writer.report(session, said(2, LOADED, uid="nms-2", generation=2))
        await rest()
        assert api.status("a")["observedGeneration"] == 2
        assert session.ending is None


async def test_last_report_of_a_session_that_is_over_does_not_take_its_successors_place(
    api: Api, writer: StatusWriter
) -> None:
    old, new = session_of(report=said(1, LOADED)), session_of(report=said(2, LOADED))
    await claimed(writer, old)
    api.gate.clear()
    writer.report(new, new.greeting.report)
    claiming = asyncio.create_task(writer.claim(new, "nms-1"))
    await rest()
    old.end(Status.ABORTED, "another session of this node took over")
    writer.report(old, said(2, LOADED))
    writer.closed(old)
    api.gate.set()
    assert await claiming is Claim.HELD
    writer.report(new, said(3, LOADED, generation=2))
    await rest()
    assert api.status("a")["observedGeneration"] == 2


async def test_state_held_back_by_a_half_open_session_is_put_right_where_the_daemon_is(
    api: Api, clock: VirtualClock
) -> None:
    """The daemon said meanwhile what it had said first: its new session had nothing to write."""
    async with running(api, clock) as here, running(api, clock) as elsewhere:
        half_open = session_of(report=said(1, LOADED))
        await claimed(here, half_open)
        here.report(half_open, said(2, LOADING, generation=0))
        await rest()
        assert await claimed(elsewhere, session_of(report=said(3, LOADED))) is Claim.HELD
        await clock.advance(PASSING_SECONDS)
        assert api.status("a")["daemon"]["sequence"] == 2
        elsewhere.observed("a", "nms-1", seen_of(api))
        await rest()
    assert api.status("a")["modules"][0]["state"] == "Loaded"
    assert api.status("a")["daemon"]["sequence"] == 3


async def test_state_held_back_by_a_session_is_not_written_when_a_newer_one_is_there(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    old = session_of(report=said(1, LOADED))
    await claimed(writer, old)
    writer.report(old, said(2, LOADING, generation=0))
    await rest()
    assert await claimed(writer, session_of(report=said(3, LOADED))) is Claim.HELD
    await clock.advance(PASSING_SECONDS)
    assert api.status("a")["modules"][0]["state"] == "Loaded"
    assert len(api.writes) == 1


async def test_what_a_watch_tells_before_a_claims_look_is_answered_counts(
    api: Api, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(api, clock) as elsewhere, running(api, clock) as here:
        await claimed(elsewhere, session_of(report=said(1, LOADED)))
        session = session_of(report=said(1, LOADED))
        gate = _gate_answers(api, monkeypatch)
        here.report(session, session.greeting.report)
        claiming = asyncio.create_task(here.claim(session, "nms-1"))
        await rest()
        api.status("a")["daemon"]["connected"] = False
        here.observed("a", "nms-1", seen_of(api))
        gate.set()
        assert await claiming is Claim.HELD
        await rest()
    assert api.status("a")["daemon"]["connected"]


def _gate_patches(api: Api, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let patches reach the server only when the event is set."""
    gate, patch = asyncio.Event(), api.patch_json

    async def slow(*arguments: Any, **options: Any) -> Json:
        await gate.wait()
        return await patch(*arguments, **options)

    monkeypatch.setattr(api, "patch_json", slow)
    return gate


def _gate_answers(api: Api, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let what was read arrive only when the event is set."""
    gate, get = asyncio.Event(), api.get

    async def late(resource: Resource, name: str) -> Json:
        answer = await get(resource, name)
        await gate.wait()
        return answer

    monkeypatch.setattr(api, "get", late)
    return gate


async def test_record_that_has_gone_while_its_status_was_read_stops_nobody_elses_writes(
    api: Api, writer: StatusWriter
) -> None:
    api.put("b")
    old, other = session_of(), session_of(node="b")
    await claimed(writer, old)
    await claimed(writer, other)
    _blank(api.status("a"))
    seen = seen_of(api)
    api.gate.clear()
    writer.observed("a", "nms-1", seen)
    await rest()
    newer = session_of("two")
    writer.report(newer, newer.greeting.report)
    writer.closed(newer)
    await rest()
    api.gate.set()
    writer.report(other, said(2, LOADED))
    await rest()
    assert api.status("b")["modules"][0]["state"] == "Loaded"
    await writer.flush()


async def test_writer_that_broke_writes_in_its_next_life_what_it_was_about_to(
    api: Api, clock: VirtualClock
) -> None:
    async with running(api, clock) as writer:
        session = session_of()
        await claimed(writer, session)
        api.away = True
        writer.report(session, said(2, LOADED))
        await rest()
    api.away = False
    again = asyncio.create_task(writer.run())
    await rest()
    assert api.status("a")["modules"][0]["state"] == "Loaded"
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)


@pytest.mark.parametrize("turns", range(6))
async def test_object_that_is_made_anew_is_claimed_whatever_its_predecessors_status_still_asks(
    api: Api, clock: VirtualClock, writer: StatusWriter, turns: int
) -> None:
    """However far the look at the predecessor has come."""
    session = session_of()
    await claimed(writer, session)
    _blank(api.status("a"))
    seen = seen_of(api)
    api.put("a", uid="nms-2")
    writer.observed("a", "nms-1", seen)
    for _ in range(turns):
        await asyncio.sleep(0)
    await claimed(writer, session, uid="nms-2")
    await rest()
    writer.observed("a", "nms-1", seen)
    writer.report(session, said(2, LOADED, uid="nms-2"))
    await clock.advance(PASSING_SECONDS)
    assert api.status("a")["observedGeneration"] == 1
    assert session.ending is None


async def test_what_a_watch_says_of_our_own_writes_costs_nothing(
    api: Api, writer: StatusWriter
) -> None:
    session = session_of()
    await claimed(writer, session)
    claim = seen_of(api)
    writer.report(session, said(2, LOADED, generation=2))
    await rest()
    reads, update = api.reads, seen_of(api)
    for seen in (claim, update):
        writer.observed("a", "nms-1", seen)
        await rest()
    assert (api.reads, len(api.writes)) == (reads, 2)


async def test_session_of_a_status_that_another_daemon_has_taken_ends(
    api: Api, writer: StatusWriter
) -> None:
    session = session_of()
    await claimed(writer, session)
    api.status("a")["daemon"]["instance"] = "two"
    writer.observed("a", "nms-1", seen_of(api))
    await rest()
    assert session.ending is not None
    assert session.ending.status is Status.ABORTED
    assert len(api.writes) == 1


def seen_of(api: Api) -> NodeStatus:
    """Return what a watch shows of the status."""
    found = {"metadata": {"name": "a"}, "status": copy.deepcopy(api.status("a"))}
    return NodeState.from_object(found).status


async def test_condition_keeps_its_time_while_its_status_does(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    session = session_of(report=said(1, LOADED))
    await claimed(writer, session)
    first = conditions_of(api)
    assert {type_: each["status"] for type_, each in first.items()} == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
    }
    await clock.advance(60.0)
    failed = replace(LOADED, state=ModuleState.FAILED, error=ModuleFailure(reason="X", message=""))
    writer.report(session, said(2, failed))
    await rest()
    then = conditions_of(api)
    assert {type_: each["status"] for type_, each in then.items()} == {
        "Ready": "False",
        "Reconciling": "False",
        "Stalled": "True",
    }
    changed = {type_ for type_ in then if then[type_][SINCE] != first[type_][SINCE]}
    assert changed == {"Ready", "Stalled"}


SINCE = "lastTransitionTime"


def conditions_of(api: Api) -> dict[str, Json]:
    return {each["type"]: dict(each) for each in api.status("a")["conditions"]}


PAUSED: Json = {"type": "Paused", "status": "True", "reason": "Paused", "message": "by hand"}


@pytest.mark.parametrize("when", ["before the claim", "later"])
async def test_what_the_leader_says_among_the_conditions_stays_until_it_takes_it_back(
    api: Api, clock: VirtualClock, writer: StatusWriter, when: str
) -> None:
    session = session_of(report=said(1, LOADED))
    paused = {**PAUSED, SINCE: "2026-01-01T00:00:00Z"}
    if when == "before the claim":
        api.status("a")["conditions"] = [paused]
    await claimed(writer, session)
    if when == "later":
        api.status("a")["conditions"].append(paused)
        writer.observed("a", "nms-1", seen_of(api))
        await rest()
        assert len(api.writes) == 1, "it is nothing to put right"
    failed = replace(LOADED, state=ModuleState.FAILED, error=ModuleFailure(reason="X", message=""))
    writer.report(session, said(2, failed))
    await rest()
    found = conditions_of(api)
    assert (found["Stalled"]["status"], found["Paused"]) == ("True", paused)
    api.status("a")["conditions"] = [
        each for each in api.status("a")["conditions"] if each["type"] != "Paused"
    ]
    writer.observed("a", "nms-1", seen_of(api))
    writer.report(session, said(3, LOADED))
    await rest()
    assert conditions_of(api).keys() == {"Ready", "Reconciling", "Stalled"}


async def test_last_word_of_a_session_is_written_after_its_end(
    api: Api, clock: VirtualClock, writer: StatusWriter
) -> None:
    session = session_of()
    await claimed(writer, session)
    writer.report(session, said(2, LOADING, generation=0))
    await rest()
    writer.closed(session)
    async with asyncio.timeout(5):
        await writer.flush()
    assert api.status("a")["modules"][0]["state"] == "Loading"
    assert writer._records == {}


async def test_status_edited_by_hand_is_claimed_over(api: Api, writer: StatusWriter) -> None:
    api.status("a").update(modules=[{"name": 3}], summary="none", daemon={"instance": ""})
    assert await claimed(writer, session_of(report=said(1, LOADED))) is Claim.HELD
    assert api.status("a")["modules"][0]["state"] == "Loaded"
