import asyncio
import json
from dataclasses import replace

import pytest

from kmm_common.clock import SystemClock
from kmm_common.desired import ModuleRef
from kmm_common.errors import TransientError
from kmm_cp.serving import credentials as module
from kmm_cp.serving.credentials import (
    CredentialsRefusedError,
    PullCredentials,
    SecretMissingError,
)
from support.desired import desired
from support.serving import SecretsOf, World, target
from support.virtualclock import VirtualClock

PRIVATE, OPEN = desired("private", secret="pull"), desired("open")


@pytest.fixture
def world() -> World:
    world = World()
    for node in ("a", "b"):
        world.cache[node] = target(3, PRIVATE, OPEN)
    world.secrets["default", "pull"] = config("secret-1")
    return world


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def credentials(world: World, clock: VirtualClock) -> PullCredentials:
    return PullCredentials(states=world, secrets=SecretsOf(world), clock=clock)


def config(password: str) -> dict[str, bytes]:
    auths = {"registry.example": {"username": "u", "password": password}}
    return {".dockerconfigjson": json.dumps({"auths": auths}).encode()}


async def ask(
    credentials: PullCredentials,
    node: str = "a",
    *,
    ref: ModuleRef = PRIVATE.ref,
    uid: str = "nms-1",
    generation: int = 3,
    refresh: bool = False,
) -> str:
    answer = await credentials.answer(node, ref, uid=uid, generation=generation, refresh=refresh)
    return answer[0].password


async def test_one_read_serves_every_node_for_ten_seconds(
    credentials: PullCredentials, world: World, clock: VirtualClock
) -> None:
    nodes = ["a", "b"] * 20
    answers = await asyncio.gather(*(ask(credentials, node) for node in nodes))
    assert set(answers) == {"secret-1"}
    await clock.advance(9.9)
    world.secrets["default", "pull"] = config("secret-2")
    assert await ask(credentials) == "secret-1"
    assert world.secret_reads == ["default/pull"]
    await clock.advance(0.1)
    assert await ask(credentials) == "secret-2"


async def test_refresh_reads_anew_and_many_share_that(
    credentials: PullCredentials, world: World, clock: VirtualClock
) -> None:
    await ask(credentials)
    world.secrets["default", "pull"] = config("secret-2")
    await clock.advance(1.0)
    answers = await asyncio.gather(*(ask(credentials, refresh=True) for _ in range(20)))
    assert set(answers) == {"secret-2"}
    assert len(world.secret_reads) == 2


async def test_retry_that_is_asked_for_gets_what_the_secret_is_now(
    credentials: PullCredentials, world: World
) -> None:
    await ask(credentials)
    world.secrets["default", "pull"] = config("secret-2")
    world.cache["b"] = target(4, replace(PRIVATE, retry="token"))
    assert await ask(credentials, "b", generation=4) == "secret-2"
    assert await ask(credentials, "a") == "secret-1"


@pytest.mark.parametrize(
    "ref", [OPEN.ref, ModuleRef("default", "other"), ModuleRef("x", "private")]
)
async def test_secret_that_the_node_does_not_need_is_refused(
    credentials: PullCredentials, world: World, ref: ModuleRef
) -> None:
    with pytest.raises(CredentialsRefusedError):
        await ask(credentials, ref=ref)
    assert world.secret_reads == []


async def test_replica_that_is_behind_refuses_nothing_and_answers_nothing(
    credentials: PullCredentials, world: World
) -> None:
    for wrong in (ask(credentials, generation=4), ask(credentials, uid="nms-2")):
        with pytest.raises(TransientError):
            await wrong
    with pytest.raises(TransientError):
        await ask(credentials, "unknown")
    assert world.secret_reads == []


async def test_secret_is_no_longer_answered_when_the_node_no_longer_needs_it(
    credentials: PullCredentials, world: World
) -> None:
    await ask(credentials)
    world.cache["a"] = target(4, OPEN)
    with pytest.raises(CredentialsRefusedError):
        await ask(credentials)
    assert await ask(credentials, "b") == "secret-1"


async def test_missing_secret_is_named(credentials: PullCredentials, world: World) -> None:
    world.secrets.clear()
    with pytest.raises(SecretMissingError, match="default/pull does not exist"):
        await ask(credentials)


async def test_nothing_secret_is_kept_though_nobody_asks_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARED_SECONDS", 0.0)
    monkeypatch.setattr(module, "KEPT_SECONDS", 0.01)
    credentials = PullCredentials(states=world, secrets=SecretsOf(world), clock=SystemClock())
    await ask(credentials)
    async with asyncio.timeout(30):
        while credentials._entries:
            await asyncio.sleep(0.01)


async def test_nothing_secret_is_kept_or_shown(
    credentials: PullCredentials, clock: VirtualClock
) -> None:
    answer = await credentials.answer("a", PRIVATE.ref, uid="nms-1", generation=3, refresh=False)
    assert "secret-1" not in repr(answer)
    assert "secret-1" not in repr(list(credentials._entries.values()))
    await clock.advance(10.0)
    with pytest.raises(CredentialsRefusedError):
        await ask(credentials, ref=OPEN.ref)
    credentials._forget()
    assert credentials._entries == {}
