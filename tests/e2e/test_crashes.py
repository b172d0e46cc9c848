"""A daemon that is killed at any moment of a change: nothing is lost, nothing done twice."""

import os
import random

import pytest

from kmm_sandbox import kmodimage
from kmm_sandbox.process.node import Node
from support.journals import UNUSABLE
from support.stage import Stage, own_module, push_own, push_pinned
from support.verdict import TALLY

ROUNDS = 14
"""On three nodes each."""
SEED = int(os.environ.get("KMM_CRASH_SEED", "1"))
LATEST_SECONDS = 1.2
"""After a change by which a round's kill comes; most changes take half of it."""
JOURNAL = "/run/kmm/journal.json"
WAITING = "/run/kill-waits"
SALT_BYTES = 2**20
"""What makes every round's image new, and its way to the node long enough to be killed on."""
USER, CORE = "kmt_user", "kmt_core"


def kill_daemon_after(node: Node, seconds: float) -> None:
    """Have a node's daemon killed in a moment; return at once."""
    kill = f"rm {WAITING}; sleep {seconds:.3f}; kill -9 $(cat /run/kmm/daemon.lock)"
    # What is still in the command's own process group when it ends, ends with it.
    leave = f"setsid sh -c '{kill}' & while [ -e {WAITING} ]; do sleep 0.01; done"
    node.execute("sh", "-c", f"touch {WAITING}; {leave}").check()


def fresh_image(stage: Stage, salt: bytes) -> str:
    """Push a module and the one that it needs, in bytes that no node has."""
    kernel = stage.sandbox.kernel
    own = {f"{name}.ko": own_module(kernel.version, name) for name in (USER, CORE)}
    files = kmodimage.kmod_files(kernel, extra=own)
    directory = os.path.commonpath(files)
    return push_pinned(stage.sandbox, "crashes", files | {f"{directory}/salt": salt})


def what_daemon_knows(node: Node) -> str:
    """Return what kmm-daemon status says on a node."""
    return node.run_in_pod(*node.daemon_argv("status")).check()


def half_written(node: Node) -> str:
    """Return the files that are not whole yet, or were left so."""
    return node.execute("find", "/var/lib/kmm", "/run/kmm", "-name", "*.partial").check()


def require_agreement(stage: Stage, name: str, digest: str) -> None:
    """Hold disk, kernel, journal and report of a node against each other."""
    node = stage.sandbox.nodes[name]
    stage.until(lambda: stage.store(name, "tmp") == [], f"nothing half done on the disk of {name}")
    # A new daemon may be replacing its note of the session meanwhile.
    stage.until(lambda: not half_written(node), f"nothing half written on {name}")
    assert {USER, CORE} <= node.loaded_modules().keys()
    known = what_daemon_knows(node)
    assert f"in the kernel  {USER}, {CORE}\n  image digest   {digest}\n" in known, known
    assert stage.report(name, "user")["imageDigest"] == digest


def test_journal_that_cannot_be_used_is_never_replayed_and_never_fatal(stage: Stage) -> None:
    core = stage.apply("core", push_own(stage.sandbox, "core", CORE), CORE)
    core.wait_loaded()
    core.wait_settled()
    before = {name: stage.steps(name) for name in stage.sandbox.nodes}
    damages = ("other boot", "truncated", "newer format")
    for node, damage in zip(stage.sandbox.nodes.values(), damages, strict=True):
        stage.stop_daemon(node.name)
        journal = node.execute("cat", JOURNAL).check().encode()
        node.execute("tee", JOURNAL, stdin=UNUSABLE[damage](journal).decode()).check()
        node.restart_daemon()
    for name in stage.sandbox.nodes:
        stage.until(
            lambda name=name: '"journal not used"' in stage.daemon_log(name),  # type: ignore[misc]
            f"{name} has set its journal aside",
        )
        stage.until(
            lambda name=name: CORE in what_daemon_knows(stage.sandbox.nodes[name]),  # type: ignore[misc]
            f"{name} has taken over what is in its kernel",
        )
    core.wait_loaded()
    assert {name: stage.steps(name) for name in stage.sandbox.nodes} == before


@pytest.mark.timeout(1200)
def test_daemon_killed_at_any_moment_ends_with_what_is_desired(stage: Stage) -> None:
    chance = random.Random(SEED)  # noqa: S311 a seed, no secret
    TALLY.seeded("crashes on three kernels", (SEED,))
    nodes = stage.sandbox.nodes
    user = stage.apply("user", fresh_image(stage, chance.randbytes(SALT_BYTES)), USER)
    user.wait_loaded()
    starts = {name: stage.daemon_starts(name) for name in nodes}
    for number in range(1, ROUNDS + 1):
        image = fresh_image(stage, chance.randbytes(SALT_BYTES))
        digest = image.partition("@")[2]
        for node in nodes.values():
            kill_daemon_after(node, chance.uniform(0.0, LATEST_SECONDS))
        stage.apply("user", image, USER)
        for name in nodes:
            stage.until(
                lambda name=name, due=starts[name] + number: (  # type: ignore[misc]
                    stage.daemon_starts(name) >= due
                ),
                f"seed {SEED}: daemon of {name} back",
            )
            stage.until(
                lambda name=name, digest=digest: (  # type: ignore[misc]
                    stage.report(name, "user").get("imageDigest") == digest
                ),
                f"seed {SEED}: image {number} on {name}",
            )
        user.wait_loaded()
        for name in nodes:
            require_agreement(stage, name, digest)
