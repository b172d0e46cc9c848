"""Who does what on a node: bytes from outside meet no rights."""

from kmm_sandbox import kmodimage
from support.stage import STORE, Stage, pulls, push_pinned, registry_hangs, worker_status

WORKER = "65532"


def test_images_are_pulled_and_unpacked_without_any_right(stage: Stage) -> None:
    # Bytes that no node has: an image that is there needs no worker.
    files = kmodimage.kmod_files(stage.sandbox.kernel, ("slip",)) | {"salt": b"unprivileged"}
    image = push_pinned(stage.sandbox, "unprivileged", files)
    nodes = stage.sandbox.nodes.values()
    with registry_hangs(stage.sandbox):
        outcome = stage.run("unprivileged", image, {"moduleName": "slip"})
        for node in nodes:
            stage.until(lambda node=node: pulls(node), f"{node.name} pulls")  # type: ignore[misc]
            status = worker_status(node)
            assert set(status["Uid"].split()) == set(status["Gid"].split()) == {WORKER}
            assert status["Groups"] == ""
            assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
            assert status["NoNewPrivs"] == "1"
    outcome.wait_loaded()
    for node in nodes:
        owners = node.execute("find", STORE, "-mindepth", "1", "-printf", "%U\\n").check()
        assert set(owners.split()) == {WORKER}
