"""Images with upstream's link to the host's modules, for what they need of its own tree."""

import tarfile

from kmm_sandbox import kmodimage
from support.stage import Stage, stock_module

OWN, BELOW = "ppp_generic", "slhc"


def push_linked(stage: Stage) -> str:
    """Push an image with one module and `ln -s /lib/modules/$KERNEL host && depmod` in it."""
    sandbox, kernel = stage.sandbox, stage.sandbox.kernel
    own = {f"{OWN}.ko": stock_module(sandbox, OWN)}
    files = kmodimage.kmod_files(kernel, extra=own, host_link="host")
    index = files[f"opt/lib/modules/{kernel.version}/modules.dep"].decode()
    assert f"extra/{OWN}.ko: host/kernel/drivers/net/slip/{BELOW}.ko\n" in index
    link = tarfile.TarInfo(f"opt/lib/modules/{kernel.version}/host")
    link.type, link.linkname = tarfile.SYMTYPE, f"/lib/modules/{kernel.version}"
    layers = kmodimage.layer(files), kmodimage.layer_of([(link, b"")])
    return kmodimage.push(sandbox.registry, "kmod/linked", "v1", kmodimage.image(*layers))


def test_what_an_image_needs_of_the_host_comes_and_goes_with_it(stage: Stage) -> None:
    outcome = stage.run("linked", push_linked(stage), {"moduleName": OWN})
    outcome.wait_loaded()
    for name, node in stage.sandbox.nodes.items():
        assert [row for row in node.loaded_modules() if row in (OWN, BELOW)] == [OWN, BELOW]
        assert "warning" not in stage.report(name, "linked")
    stage.delete("linked")
    outcome.wait_gone()
    for node in stage.sandbox.nodes.values():
        assert BELOW not in node.loaded_modules()


def test_what_the_host_has_loaded_itself_stays(stage: Stage) -> None:
    files = {path.stem: path for path in stage.sandbox.kernel.closure((OWN,)).values()}
    for node in stage.sandbox.nodes.values():
        node.execute("insmod", str(files[BELOW])).check()
    outcome = stage.run("linked", push_linked(stage), {"moduleName": OWN})
    outcome.wait_loaded()
    stage.delete("linked")
    outcome.wait_gone()
    for node in stage.sandbox.nodes.values():
        assert BELOW in node.loaded_modules()
        node.execute("rmmod", BELOW).check()
