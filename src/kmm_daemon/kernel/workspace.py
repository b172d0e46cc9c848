"""A Module's own view of its image: links to the files, indexes of its own, a -C directory.

modprobe never works in the image store: an image without modules.dep gets one here, and an
unload finds the indexes of its load even when the image has left the store.
"""

import asyncio
import os
import shutil
from pathlib import Path

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModuleFailure, ModuleRef
from kmm_daemon.kernel import argv
from kmm_daemon.kernel.argv import Place
from kmm_daemon.kernel.moduledir import find_directory, host_links, indexed
from kmm_daemon.kernel.procfs import KernelFiles
from kmm_daemon.kernel.runner import Deadline, Runner
from kmm_daemon.values import ReadyImage, StepError

DEPMOD_DEADLINE = Deadline(seconds=60.0, grace=5.0)


def module_directory(place: Place) -> Path:
    """Return the workspace's lib/modules/<kernel>."""
    return place.base / "lib/modules" / place.tree


class Workspaces:
    """The workspaces of a node, below a directory that does not outlive the boot."""

    def __init__(self, directory: Path, kernel: KernelFiles, runner: Runner, depmod: str) -> None:
        self._directory = directory
        self._kernel = kernel
        self._depmod = depmod
        self._runner = runner

    async def make(self, module: DesiredModule, image: ReadyImage, kernel: str) -> Place:
        """Return a fresh workspace for a load. Raises StepError, OSError."""
        source = await asyncio.to_thread(find_directory, image, module.modprobe.dir_name, kernel)
        place = self._place(module, source.name)
        if await asyncio.to_thread(_link, source, place, module):
            await asyncio.to_thread(self._link_host, source, place)
        else:
            await self._index(place)
        return place

    def find(self, module: DesiredModule) -> Place | None:
        """Return the workspace that a load has left, None if there is none."""
        trees = self._place(module, "").base / "lib/modules"
        names = sorted(entry.name for entry in trees.iterdir()) if trees.is_dir() else []
        return self._place(module, names[0]) if names else None

    def remove(self, ref: ModuleRef) -> None:
        """Forget a Module's workspace."""
        shutil.rmtree(self._of(ref), ignore_errors=True)

    def _of(self, ref: ModuleRef) -> Path:
        # No namespace and no name of an object has an underscore.
        return self._directory / f"{ref.namespace}_{ref.name}"

    def _place(self, module: DesiredModule, tree: str) -> Place:
        own = self._of(module.ref)
        dir_name = argv.normalised(module.modprobe.dir_name)
        return Place(root=own / "root", config=own / "config", dir_name=dir_name, tree=tree)

    def _link_host(self, source: Path, place: Place) -> None:
        for name, tree in host_links(source, self._kernel.host_modules()).items():
            (module_directory(place) / name).symlink_to(tree)

    async def _index(self, place: Place) -> None:
        """Write the modules.dep that the image does not have. Raises StepError."""
        completed = await self._runner.run(argv.index(self._depmod, place), DEPMOD_DEADLINE)
        if not completed.ok or not indexed(module_directory(place)):
            why = completed.stderr.strip().rpartition("\n")[2] or "it did not end in time"
            message = f"the image has no modules.dep and depmod could not make one: {why}"
            failure = ModuleFailure(
                reason=Reason.IMAGE_INVALID, message=message, exit_code=completed.exit_code
            )
            raise StepError(failure, retry=completed.timed_out)


def _link(source: Path, place: Place, module: DesiredModule) -> bool:
    """Fill a workspace; tell whether the image has the indexes that modprobe needs."""
    own = place.root.parent
    shutil.rmtree(own, ignore_errors=True)
    target = module_directory(place)
    target.mkdir(parents=True)
    complete = indexed(source)
    for entry in source.iterdir():
        if entry.name.startswith("modules.") and entry.is_file():
            if complete or entry.name in ("modules.order", "modules.builtin"):
                shutil.copyfile(entry, target / entry.name)
        else:
            # Not resolve(): that raises for a link to itself, which modprobe has no use for.
            (target / entry.name).symlink_to(os.path.realpath(entry))
    place.config.mkdir()
    (place.config / "kmm.conf").write_text(argv.softdeps(module.modprobe))
    return complete
