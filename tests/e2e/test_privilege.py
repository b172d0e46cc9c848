"""Who does what on a node: bytes from outside meet no rights."""

from kmm_sandbox import kmodimage
from kmm_sandbox.node import Node
from support.stage import Stage, push_files

WORKER = "65532"
STORE = "/var/lib/kmm/images"


def worker_status(node: Node) -> dict[str, str]:
    """Return /proc/<pid>/status of a node's image worker; empty without one."""
    # The pattern does not match the shell's own command line.
    found = node.execute("sh", "-c", "grep -lz 'kmm_daemon.images[.]serve' /proc/[0-9]*/cmdline")
    workers = [line.removesuffix("cmdline") for line in found.stdout.splitlines()]
    lines = [node.execute("cat", f"{one}status").check().splitlines() for one in workers]
    parts = (line.partition(":") for line in (lines[0] if lines else ()))
    return {key: value.strip() for key, _, value in parts}


def test_images_are_pulled_and_unpacked_without_any_right(stage: Stage) -> None:
    # Bytes that no node has: an image that is there needs no worker.
    files = kmodimage.kmod_files(stage.sandbox.kernel, ("slip",)) | {"salt": b"unprivileged"}
    image = push_files(stage.sandbox, "unprivileged", files)
    stage.run("unprivileged", image, {"moduleName": "slip"}).wait_loaded()
    for node in stage.sandbox.nodes.values():
        status = worker_status(node)
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {WORKER}
        assert status["Groups"] == ""
        assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        owners = node.execute("find", STORE, "-mindepth", "1", "-printf", "%U\\n").check()
        assert set(owners.split()) == {WORKER}
