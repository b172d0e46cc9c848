"""Names of modules: a dash and an underscore are one, wherever a person or a file says which."""

import pytest

from kmm_sandbox import kmodimage
from support.stage import Stage, insert, own_module, push_files

CORE, USER = "kmt_core", "kmt_user"


@pytest.mark.parametrize("indexed", [True, False], ids=["modules.dep", "no modules.dep"])
@pytest.mark.parametrize(
    ("in_files", "in_spec"), [("-", "_"), ("_", "-"), ("-", "-")], ids=["files", "spec", "both"]
)
def test_dash_and_underscore_are_the_same(
    stage: Stage, in_files: str, in_spec: str, indexed: bool
) -> None:
    """In the files of the image, the Module's name for its own and for those it stands on."""
    version = stage.sandbox.kernel.version
    extra = {f"{m.replace('_', in_files)}.ko": own_module(version, m) for m in (CORE, USER)}
    files = kmodimage.kmod_files(stage.sandbox.kernel, extra=extra, depmod=indexed)
    core, user = CORE.replace("_", in_spec), USER.replace("_", in_spec)
    for node in stage.sandbox.nodes.values():
        # In the way: in another build than the image's.
        insert(node, own_module(version, CORE, "v2"))
    name = f"names-{indexed}".lower()
    outcome = stage.run(
        name,
        push_files(stage.sandbox, name, files),
        {"moduleName": user, "modulesLoadingOrder": [user, core], "parameters": ["fail=0"]},
        container={"inTreeModulesToRemove": [core]},
    )
    outcome.wait_loaded()
    for node in stage.sandbox.nodes.values():
        assert node.execute("cat", f"/sys/module/{CORE}/version").check().strip() == "1.0"
        assert "warning" not in stage.report(node.name, name)
    stage.delete(name)
    outcome.wait_gone()
    for node in stage.sandbox.nodes.values():
        assert CORE not in node.loaded_modules()
