"""Who keeps a module in the kernel is named, as far as the kernel shows it."""

from kmm_sandbox.process.node import Node
from support.stage import Stage, own_file, push_own

CORE, USER = "kmt_core", "kmt_user"
NODE = "node2"
HOLD = f"""
set -e
test -e /dev/{CORE} || mknod /dev/{CORE} c $(tr : ' ' < /sys/class/misc/{CORE}/dev)
setsid sleep 1000 < /dev/{CORE} > /dev/null 2>&1 &
until grep -qx sleep /proc/$!/comm; do :; done
echo $!
"""


def busy(stage: Stage) -> str:
    """Return what the node says of who uses the module; empty while it says nothing."""
    error = stage.report(NODE, "core").get("error") or {}
    return str(error["message"]) if error.get("reason") == "InUse" else ""


def hold_open(node: Node) -> str:
    """Have a process open the module's device; return its process id."""
    return node.execute("sh", "-c", HOLD).check().strip()


def test_process_that_has_the_device_open_is_named_until_it_closes_it(stage: Stage) -> None:
    outcome = stage.apply("core", push_own(stage.sandbox, "core", CORE), CORE)
    outcome.wait_loaded()
    node = stage.sandbox.nodes[NODE]
    pid = hold_open(node)
    stage.delete("core", wait=False)
    stage.until(lambda: busy(stage) != "", f"{NODE} says that the module is in use")
    assert f"{CORE} is in use by sleep (process {pid}) with /dev/{CORE}" in busy(stage)
    node.execute("sh", "-c", f"kill {pid}").check()
    outcome.wait_gone()


def test_module_that_somebody_put_on_top_is_named_until_it_goes(stage: Stage) -> None:
    outcome = stage.apply("core", push_own(stage.sandbox, "core", CORE), CORE)
    outcome.wait_loaded()
    node = stage.sandbox.nodes[NODE]
    node.execute("insmod", own_file(stage.sandbox.kernel.version, USER)).check()
    stage.delete("core", wait=False)
    stage.until(lambda: busy(stage) != "", f"{NODE} says that the module is in use")
    assert f"{CORE} is in use by module {USER}" in busy(stage)
    node.execute("rmmod", USER).check()
    outcome.wait_gone()
