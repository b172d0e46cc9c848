"""The image worker as the daemon sees it: a real process, behind a registry that lies."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModuleRef, RegistryTLS
from kmm_common.errors import TerminalError, TransientError
from kmm_common.oci.credentials import RegistryCredential
from kmm_daemon.images.worker import ImagePlace, ImageWorker
from kmm_daemon.values import StepError
from support.badregistry import BadRegistry, stalled
from support.connectproxy import ConnectProxy
from support.images import listing, module_for
from support.imagestore import Secrets
from support.layers import MODULES, layer, module
from support.privateregistry import NAME, running_private_registry

LAYERS = [layer(module(content=b"kernel object"))]
GIVEN = (RegistryCredential(registry="127.0.0.1:*", username="robot", password="s3cret"),)
DEADLINE = 60.0


class Daemon:
    """The daemon's end of a worker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.secrets = Secrets(answers=[GIVEN])
        self.needed: list[DesiredModule] = []
        self.worker = self.worker_with()

    def worker_with(
        self,
        program: Sequence[str] = (),
        silence: float = DEADLINE,
        registry_ca: Path | None = None,
    ) -> ImageWorker:
        options: dict[str, Any] = {"program": program} if program else {}
        return ImageWorker(
            ImagePlace(directory=self.directory, max_bytes=2**30, registry_ca=registry_ca),
            secrets=self.secrets,
            needed=lambda: self.needed,
            silence_seconds=silence,
            **options,
        )

    @contextlib.asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[ImageWorker]:
        worker = self.worker_with(**options) if options else self.worker
        await worker.open()
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(worker.run())
            try:
                yield worker
            finally:
                task.cancel()


@pytest.fixture
async def registry() -> AsyncIterator[BadRegistry]:
    async with BadRegistry().run() as running:
        yield running


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path / "images")


@pytest.fixture
def pushed(registry: BadRegistry) -> DesiredModule:
    digest = registry.push("team/m", "1", LAYERS)
    return module_for(f"{registry.host}/team/m:1", image_digest=digest)


def workers() -> list[int]:
    """Return the process ids of this process's workers."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(child) for child in children if b"images.serve" in _command(child)]


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)


async def test_image_is_brought_by_a_process_of_its_own(daemon, pushed) -> None:
    async with daemon.running() as images:
        ready = await images.prepare(pushed)
        assert ready.digest == pushed.image_digest
        assert listing(ready.root) == {f"{MODULES}/a.ko"}
        [pid] = workers()
        status = Path(f"/proc/{pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status


async def test_image_that_is_here_needs_no_worker(daemon, pushed) -> None:
    async with daemon.running() as images:
        first = await images.prepare(pushed)
    again = Daemon(daemon.directory)
    async with again.running() as images:
        assert await images.prepare(pushed) == first
        assert workers() == []


async def test_worker_takes_the_daemons_proxy_and_authorities(
    daemon, tmp_path, monkeypatch
) -> None:
    async with (
        running_private_registry(tmp_path) as private,
        ConnectProxy(target_port=private.registry.port).run() as proxy,
    ):
        digest = private.registry.push("team/m", "1", LAYERS)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        wanted = module_for(f"{NAME}/team/m:1", image_digest=digest, registry_tls=RegistryTLS())
        async with daemon.running(registry_ca=private.ca_file(tmp_path)) as images:
            assert (await images.prepare(wanted)).digest == digest
        assert set(proxy.asked) == {f"{NAME}:443"}


async def test_tag_without_a_digest_is_resolved_by_the_worker(daemon, registry, pushed) -> None:
    async with daemon.running() as images:
        ready = await images.prepare(replace(pushed, image_digest=""))
    assert ready.digest == pushed.image_digest


async def test_failure_of_a_pull_is_told_as_the_store_tells_it(daemon, registry) -> None:
    async with daemon.running() as images:
        with pytest.raises(StepError) as caught:
            await images.prepare(module_for(f"{registry.host}/team/none:1"))
    assert caught.value.failure.reason == Reason.IMAGE_NOT_FOUND
    assert caught.value.retry


async def test_several_images_are_brought_at_the_same_time(daemon, registry) -> None:
    digests = [registry.push("team/m", str(n), [layer(module(content=b"%d" % n))]) for n in (1, 2)]
    wanted = [module_for(f"{registry.host}/team/m:{n}") for n in (1, 2)]
    async with daemon.running() as images:
        ready = await asyncio.gather(*map(images.prepare, wanted))
        assert len(workers()) == 1
    assert [one.digest for one in ready] == digests


async def test_pull_secret_is_asked_for_through_the_daemon(daemon, registry, pushed) -> None:
    registry.auth = "basic"
    async with daemon.running() as images:
        await images.prepare(replace(pushed, pull_secret="pull"))
        [pid] = workers()
        assert b"s3cret" not in _command(str(pid))
    assert daemon.secrets.asked == [(ModuleRef("team", "mod"), False)]


async def test_pull_secret_that_cannot_be_had_is_told(daemon, registry, pushed) -> None:
    registry.auth = "basic"
    daemon.secrets.answers = [TransientError("Secret team/pull does not exist")]
    async with daemon.running() as images:
        with pytest.raises(StepError, match="Secret team/pull does not exist"):
            await images.prepare(replace(pushed, pull_secret="pull"))


async def test_killed_worker_fails_its_images_and_the_next_attempt_has_a_new_one(
    daemon, registry, pushed
) -> None:
    reached = asyncio.Event()
    registry.fail("blobs", stalled(reached))
    async with daemon.running() as images:
        first = asyncio.create_task(images.prepare(pushed))
        await reached.wait()
        os.kill(workers()[0], signal.SIGKILL)
        with pytest.raises(StepError, match="ended by signal 9") as caught:
            await first
        assert caught.value.retry
        assert (await images.prepare(pushed)).digest == pushed.image_digest
    assert list((daemon.directory / "tmp").iterdir()) == []


async def test_image_that_nobody_waits_for_is_withdrawn(daemon, registry, pushed) -> None:
    reached = asyncio.Event()
    registry.fail("blobs", stalled(reached))
    async with daemon.running() as images:
        task = asyncio.create_task(images.prepare(pushed))
        await reached.wait()
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: not list((daemon.directory / "tmp").iterdir()))
        assert (await images.prepare(pushed)).digest == pushed.image_digest


async def test_worker_ends_with_its_daemon(daemon, pushed) -> None:
    async with daemon.running() as images:
        await images.prepare(pushed)
        assert len(workers()) == 1
    await until(lambda: workers() == [])


async def test_worker_that_was_idle_is_started_again(daemon, registry, pushed) -> None:
    """Its end without work is no failure, not even for a request that crosses it."""
    idle = "serve.serve.__kwdefaults__['idle_seconds'] = 0.2"
    script = f"from kmm_daemon.images import serve; {idle}; serve.main()"
    other = registry.push("team/m", "2", [layer(module(content=b"other"))])
    async with daemon.running(program=(sys.executable, "-c", script)) as images:
        await images.prepare(pushed)
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        await until(lambda: not children.read_text().split())
        again = module_for(f"{registry.host}/team/m:2", image_digest=other)
        assert (await images.prepare(again)).digest == other


async def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file")
    with pytest.raises(TerminalError, match=r"image store .*images: .*; make it a writable"):
        await Daemon(tmp_path / "images").worker.open()


def liar(*answers: object) -> Sequence[str]:
    """Return a worker that says this, whatever it is asked, and waits for the daemon's end."""
    said = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in answers)
    # A command line cannot be long.
    shown = f"'x' * {len(said)}" if set(said) == {"x"} else repr(said)
    script = f"import sys; print({shown}, flush=True); sys.stdin.read()"
    return sys.executable, "-c", script


READY = {"kind": "ready", "number": 1, "digest": f"sha256:{'0' * 64}"}
FAILED = {"kind": "failed", "number": 1, "retry": False}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("garbage", "said what is no message"),
        ({"kind": "ready", "number": "s3cret"}, "said what is no message"),
        ({**READY, "digest": "../../etc"}, "did not bring it"),
        (READY, "did not bring it"),
        ({"kind": "unusable", "message": "image store /x: Read-only file system"}, "Read-only"),
        ("x" * 5_000_000, "said what is no message"),
    ],
    ids=["garbage", "type", "no digest", "not here", "unusable", "endless line"],
)
async def test_what_a_broken_worker_says_is_not_believed(daemon, said, told) -> None:
    async with daemon.running(program=liar(said)) as images:
        with pytest.raises(StepError) as caught:
            await images.prepare(module_for())
    assert told in caught.value.failure.message
    assert "s3cret" not in caught.value.failure.message
    assert caught.value.retry


async def test_ready_with_another_digest_than_the_pinned_one_is_not_believed(
    daemon, pushed, registry
) -> None:
    async with daemon.running() as images:
        await images.prepare(pushed)
    lie = {**READY, "digest": pushed.image_digest}
    pinned = replace(pushed, image_digest=f"sha256:{'1' * 64}")
    async with daemon.running(program=liar(lie)) as images:
        with pytest.raises(StepError, match="did not bring it"):
            await images.prepare(pinned)


async def test_reason_that_does_not_exist_is_not_passed_on(daemon) -> None:
    failure: dict[str, Any] = {
        "reason": "Hacked",
        "message": "x",
        "exit_code": None,
        "kernel_log": [],
    }
    async with daemon.running(program=liar({**FAILED, "failure": failure})) as images:
        with pytest.raises(StepError) as caught:
            await images.prepare(module_for())
    assert caught.value.failure.reason == Reason.IMAGE_PULL_FAILED


async def test_worker_gets_no_secret_of_a_module_that_it_does_not_work_for(daemon) -> None:
    ask = {"kind": "ask", "number": 1, "ref": {"namespace": "o", "name": "m"}, "refresh": False}
    async with daemon.running(program=liar(ask, "end")) as images:
        with pytest.raises(StepError):
            await images.prepare(module_for(pull_secret="pull"))
    assert daemon.secrets.asked == []


async def test_silent_worker_is_replaced(daemon) -> None:
    silent = (sys.executable, "-c", "import sys; sys.stdin.read()")
    async with daemon.running(program=silent, silence=0.3) as images:
        with pytest.raises(StepError, match=r"said nothing for 0\.3 s"):
            await images.prepare(module_for())


async def test_worker_that_cannot_start_is_told(daemon) -> None:
    async with daemon.running(program=("/nowhere/python",)) as images:
        with pytest.raises(StepError, match="cannot start"):
            await images.prepare(module_for())
