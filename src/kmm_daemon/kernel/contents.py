"""What an image brings for a Module on the running kernel."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModuleFailure
from kmm_daemon.kernel.moduledir import (
    ModuleTree,
    asked_for,
    find_directory,
    named_by,
    read_tree,
    shipped,
    unload_order,
)
from kmm_daemon.values import KernelView, ReadyImage, StepError

SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What an image brings for a Module."""

    tree: ModuleTree
    asked: tuple[str, ...]
    """kernel_names the Module asks for, its own first; empty with rawArgs."""
    unload_order: tuple[str, ...] = ()
    """kernel_names that a load may bring, in the order of unloading."""
    builds: Mapping[str, str] = field(default_factory=dict)
    """builds.build of those that the image has."""
    vermagics: Mapping[str, str] = field(default_factory=dict)
    """vermagic by kernel_name, of those that the image has."""

    @property
    def own(self) -> str:
        return self.asked[0] if self.asked else ""


def read_contents(
    module: DesiredModule, image: ReadyImage, view: KernelView, host: tuple[Path, ...] = ()
) -> Contents:
    """Read the image's modules. Blocking. Raises StepError, OSError.

    `host` are directories of the host's modules for the running kernel.
    """
    directory = find_directory(image, module.modprobe.dir_name, view.kernel_version)
    tree = read_tree(directory, host)
    asked = asked_for(module)
    if failure := unavailable(asked, tree, view):
        # Another Module may still bring what the own one has to wait for.
        raise StepError(failure, retry=asked[0] in tree.files)
    named = asked or named_by(module.modprobe.raw_args.load, tree)
    return _described(tree, asked, unload_order(tree, named))


def _described(tree: ModuleTree, asked: tuple[str, ...], order: tuple[str, ...]) -> Contents:
    infos = {name: tree.info(name) for name in order if name in tree.files}
    return Contents(
        tree=tree,
        asked=asked,
        unload_order=order,
        builds={name: info.build for name, info in infos.items()},
        vermagics={name: info.vermagic for name, info in infos.items()},
    )


def unavailable(asked: Iterable[str], tree: ModuleTree, view: KernelView) -> ModuleFailure | None:
    """Return what is missing: a name the Module asks for that neither image nor kernel has."""
    for name in asked:
        if name not in tree.files and name not in view.builtin and name not in view.modules:
            has = ", ".join(sorted(shipped(tree))[:SHOWN]) or "no module"
            message = f"the image has no module {name} for kernel {view.kernel_version}: it has"
            return ModuleFailure(reason=Reason.MODULE_NOT_FOUND, message=f"{message} {has}")
    return None
