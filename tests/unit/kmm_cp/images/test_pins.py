import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest

from kmm_common.api.names import Reason
from kmm_common.backoff import Backoff
from kmm_common.desired import DesiredModule, RegistryTLS
from kmm_common.oci.credentials import RegistryCredential
from kmm_common.oci.errors import NotFoundError, UnreachableError
from kmm_cp.images.pins import Pins
from kmm_cp.policy.digests import ImageKey, Pending, Pinned, Unresolved, image_key
from support.virtualclock import VirtualClock, rest

DIGEST = f"sha256:{'a' * 64}"
NEWER = f"sha256:{'b' * 64}"
ENTRY = DesiredModule(
    namespace="team", name="m", uid="u1", kernel_version="6.1", image="r.example/m:1"
)


@dataclass
class World:
    """Registries, Secrets and a reconciler that asks again when told to."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    answers: dict[str, str | Exception] = field(default_factory=lambda: {ENTRY.image: DIGEST})
    secrets: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tls: list[RegistryTLS] = field(default_factory=list)
    secret_names: list[str] = field(default_factory=list)
    told: list[ImageKey] = field(default_factory=list)
    planned: list[DesiredModule] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    rows: int = 100

    def __post_init__(self) -> None:
        self.open.set()
        self.pins = Pins(
            resolver=self,
            secrets=self,
            clock=self.clock,
            on_change=self.changed,
            backoff=Backoff(base=10.0, cap=300.0, jitter=0.0),
            rows=self.rows,
        )

    async def resolve(
        self, image: str, *, tls: RegistryTLS, credentials: Sequence[RegistryCredential] = ()
    ) -> str:
        self.tls.append(tls)
        self.asked.append(f"{image} as {','.join(one.username for one in credentials)}")
        await self.open.wait()
        answer = self.answers[image]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def read(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        self.secret_names.append(f"{namespace}/{name}")
        return self.secrets.get(f"{namespace}/{name}")

    def changed(self, key: ImageKey) -> None:
        self.told.append(key)
        for entry in self.planned:
            self.pins(entry)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Pins]:
        task = asyncio.create_task(self.pins.run(), name="pins")
        yield self.pins
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def world() -> World:
    return World()


async def test_an_image_is_pending_until_the_registry_has_answered_and_then_pinned(world):
    async with world.running() as pins:
        assert pins(ENTRY) == Pending()
        await rest()
        assert pins(ENTRY) == Pinned(DIGEST)
    assert world.told == [image_key(ENTRY)]


async def test_a_pinned_image_is_not_asked_for_again_when_its_tag_moves(world):
    async with world.running() as pins:
        pins(ENTRY)
        await rest()
        world.answers[ENTRY.image] = NEWER
        await world.clock.advance(10_000)
        assert pins(ENTRY) == Pinned(DIGEST)
        await rest()
    assert len(world.asked) == 1


async def test_a_pinned_image_that_failed_is_looked_up_again_now_and_then(world):
    async with world.running() as pins:
        pins(ENTRY)
        await rest()
        world.answers[ENTRY.image] = NEWER
        await pins.look_again(ENTRY)
        assert pins(ENTRY) == Pinned(NEWER)
        assert world.told == [image_key(ENTRY)] * 2
        await pins.look_again(ENTRY)
        assert len(world.asked) == 2
        world.answers[ENTRY.image] = NotFoundError("no such tag")
        for seconds, asked in ((11, 3), (9, 3), (2, 4), (19, 4), (2, 5)):
            await world.clock.advance(seconds)
            await pins.look_again(ENTRY)
            assert len(world.asked) == asked
        assert pins(ENTRY) == Pinned(NEWER)
    assert len(world.told) == 2


async def test_a_pinned_image_that_is_found_the_same_again_is_no_news(world):
    async with world.running() as pins:
        pins(ENTRY)
        await rest()
        await pins.look_again(ENTRY)
    assert (len(world.asked), len(world.told)) == (2, 1)


async def test_an_image_that_is_not_pinned_is_not_looked_up_again(world):
    world.answers[ENTRY.image] = NotFoundError("no such tag")
    await world.pins.look_again(ENTRY)
    assert world.asked == []


async def test_an_image_that_was_adopted_is_looked_up_again(world):
    world.pins.adopt({image_key(ENTRY): NEWER})
    await world.pins.look_again(ENTRY)
    assert world.pins(ENTRY) == Pinned(DIGEST)


async def test_another_kernel_or_a_new_module_is_asked_for_on_its_own(world):
    async with world.running() as pins:
        pins(ENTRY)
        await rest()
        world.answers[ENTRY.image] = NEWER
        for other in (replace(ENTRY, kernel_version="6.2"), replace(ENTRY, uid="u2")):
            pins(other)
            await rest()
            assert pins(other) == Pinned(NEWER)


async def test_look_ups_of_one_image_at_one_time_are_one(world):
    world.open.clear()
    async with world.running() as pins:
        entries = [replace(ENTRY, kernel_version=f"6.{minor}") for minor in range(5)]
        for entry in entries:
            pins(entry)
        await rest()
        world.open.set()
        await rest()
        assert [pins(entry) for entry in entries] == [Pinned(DIGEST)] * 5
    assert len(world.asked) == 1


async def test_a_look_up_that_fails_is_told_and_repeated_until_it_succeeds(world):
    world.answers[ENTRY.image] = UnreachableError("the registry answers 500")
    world.planned = [ENTRY]
    failed = Unresolved(
        reason=Reason.IMAGE_PULL_FAILED,
        message="image r.example/m:1: the registry answers 500",
    )
    async with world.running() as pins:
        pins(ENTRY)
        await rest()
        assert pins(ENTRY) == failed
        await world.clock.advance(10)
        assert pins(ENTRY) == failed
        world.answers[ENTRY.image] = DIGEST
        await world.clock.advance(19.9)
        assert pins(ENTRY) == failed
        await world.clock.advance(0.2)
        assert pins(ENTRY) == Pinned(DIGEST)
    assert len(world.asked) == 3


async def test_a_look_up_that_breaks_is_told_and_repeated_and_disturbs_no_other(world, caplog):
    other = replace(ENTRY, image="r.example/other:1")
    world.planned = [ENTRY, other]
    world.answers |= {ENTRY.image: ValueError("Invalid IPv6 URL"), other.image: DIGEST}
    async with world.running() as pins:
        for each in world.planned:
            pins(each)
        await rest()
        assert pins(other) == Pinned(DIGEST)
        message = "image r.example/m:1: unexpected ValueError; see kmm-cp's log"
        assert pins(ENTRY) == Unresolved(reason=Reason.IMAGE_PULL_FAILED, message=message)
        assert caplog.messages == ["look-up broke", "image not resolved"]
        world.answers[ENTRY.image] = DIGEST
        await world.clock.advance(10)
        assert pins(ENTRY) == Pinned(DIGEST)


async def test_a_failed_look_up_is_forgotten_when_nobody_asks_any_more(world):
    world.answers[ENTRY.image] = NotFoundError("the registry has no such image")
    async with world.running() as pins:
        pins(ENTRY)
        await world.clock.advance(10_000)
        assert len(world.asked) == 1
        assert pins(ENTRY) == Pending()
        await rest()
        assert len(world.asked) == 2


async def test_a_secret_is_read_for_each_look_up(world):
    entry = replace(ENTRY, pull_secret="pull")
    world.planned = [entry]
    async with world.running() as pins:
        pins(entry)
        await rest()
        missing = pins(entry)
        assert isinstance(missing, Unresolved)
        assert missing.reason == Reason.IMAGE_UNAUTHORIZED
        assert "no Secret team/pull" in missing.message
        world.secrets["team/pull"] = {".dockercfg": b'{"r.example": {"username": "robot"}}'}
        await world.clock.advance(10)
        assert pins(entry) == Pinned(DIGEST)
    assert world.asked == ["r.example/m:1 as robot"]


ROBOT = {".dockercfg": b'{"r.example": {"username": "robot"}}'}


@pytest.mark.parametrize(
    "changes",
    [{"pull_secret": "other"}, {"registry_tls": RegistryTLS(insecure=True)}, {"retry": "2"}],
    ids=["secret", "TLS", "retry"],
)
async def test_another_way_to_an_image_is_tried_at_once(world, changes):
    entry = replace(ENTRY, pull_secret="missing")
    world.answers[ENTRY.image] = UnreachableError("not a way to get it")
    world.secrets = {"team/missing": ROBOT, "team/other": ROBOT}
    world.planned = [entry]
    async with world.running() as pins:
        pins(entry)
        await rest()
        assert isinstance(pins(entry), Unresolved)
        world.answers[ENTRY.image] = DIGEST
        changed = replace(entry, **changes)
        world.planned = [changed]
        pins(changed)
        await rest()
        assert pins(changed) == Pinned(DIGEST)
        await world.clock.advance(10_000)
    assert len(world.asked) == 2
    assert world.secret_names[-1] == f"team/{changed.pull_secret}"
    assert world.tls[-1] == changed.registry_tls


async def test_the_answer_to_a_way_that_was_given_up_is_not_taken_for_the_new_one(world):
    world.open.clear()
    world.answers[ENTRY.image] = UnreachableError("the old way")
    changed = replace(ENTRY, registry_tls=RegistryTLS(insecure=True))
    async with world.running() as pins:
        pins(ENTRY)
        await rest()
        pins(changed)
        world.planned = [changed]
        world.open.set()
        await rest()
        assert isinstance(pins(changed), Unresolved)
    assert len(world.asked) == 2
    assert world.told == [image_key(ENTRY)]


async def test_a_pinned_image_is_not_asked_for_again_with_another_secret(world):
    async with world.running() as pins:
        pins(ENTRY)
        await rest()
        assert pins(replace(ENTRY, pull_secret="other")) == Pinned(DIGEST)
        await rest()
    assert len(world.asked) == 1


async def test_what_nodes_already_have_is_pinned_without_asking(world):
    async with world.running() as pins:
        pins.adopt({image_key(ENTRY): NEWER})
        assert pins(ENTRY) == Pinned(NEWER)
        await rest()
    assert world.asked == []


async def test_what_a_daemon_found_out_is_pinned_where_the_registry_does_not_answer(world):
    world.answers[ENTRY.image] = UnreachableError("no route")
    async with world.running() as pins:
        pins(ENTRY)
        await rest()
        world.told.clear()
        pins.adopt({image_key(ENTRY): NEWER})
        assert pins(ENTRY) == Pinned(NEWER)
        assert world.told == [image_key(ENTRY)]
        await world.clock.advance(1000)
    assert len(world.asked) == 1


async def test_what_a_registry_told_is_not_replaced_by_what_a_node_has(world):
    async with world.running() as pins:
        pins(ENTRY)
        await rest()
        pins.adopt({image_key(ENTRY): NEWER})
        assert pins(ENTRY) == Pinned(DIGEST)


async def test_the_rows_are_bounded_and_those_asked_for_last_stay():
    world = World(rows=2)
    async with world.running() as pins:
        entries = [replace(ENTRY, uid=uid) for uid in ("u1", "u2", "u3")]
        for entry in entries:
            pins(entry)
            await rest()
        assert [type(pins(entry)) for entry in entries[1:]] == [Pinned, Pinned]
        assert pins(entries[0]) == Pending()
