"""A module's version magic: the kernel that it is built for, as its file says it. Pure."""

from collections.abc import Set

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModuleFailure
from kmm_daemon.kernel import argv
from kmm_daemon.kernel.contents import Contents
from kmm_daemon.values import KernelView


def refusal(
    module: DesiredModule, contents: Contents, view: KernelView, there: Set[str]
) -> ModuleFailure | None:
    """Return why the kernel is certain to refuse a file that a load has to bring.

    `there` are kernel_names that are in the kernel when modprobe starts. None as well where only
    the kernel can tell.
    """
    if argv.forces(module.modprobe.args.load):
        return None
    for name in _to_bring(contents, there | view.builtin):
        built = contents.vermagics.get(name, "")
        if excludes(built, view.kernel_version):
            message = told(name, built, view.kernel_version)
            return ModuleFailure(reason=Reason.WRONG_VERMAGIC, message=message)
    return None


def _to_bring(contents: Contents, there: Set[str]) -> list[str]:
    """Return what is asked for and not there yet, and what that needs; a soft need may fail."""
    asked = [name for name in contents.asked if name not in there]
    needed = (name for one in asked for name in contents.tree.needs.get(one, ()))
    return [*asked, *(name for name in needed if name not in there)]


def excludes(vermagic: str, release: str) -> bool:
    """Tell whether no kernel of this release, as uname -r prints it, takes such a file.

    With modversions the kernel compares checksums of symbols instead of the release.
    """
    built_for, _, words = vermagic.partition(" ")
    return built_for not in ("", release) and "modversions" not in words.split()


def told(name: str, built: str, running: str) -> str:
    """Say for which kernel a module is built, and which one runs."""
    return f"{name} is built for kernel '{built}', this node runs '{running}': build it for that"
