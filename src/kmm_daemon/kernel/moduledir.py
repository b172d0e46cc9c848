"""The directory of kernel modules in an image: lib/modules/<kernel>, and what it says."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModuleFailure
from kmm_daemon.kernel import argv, modinfo
from kmm_daemon.kernel.procfs import file_module
from kmm_daemon.values import ReadyImage, StepError, kernel_name

INDEX = ("modules.dep", "modules.dep.bin")
MOST_FILES = 20_000
_SOFTDEP = re.compile(r"softdep\s+(\S+)\s+(.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleTree:
    """The files of kernel modules of an image for one kernel, and what each of them needs."""

    directory: Path
    files: Mapping[str, str]
    """Path below the directory by kernel_name."""
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """kernel_names by kernel_name, nearest first: each needs at most those to its right."""
    soft: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """kernel_names that modules.softdep has modprobe load along, before or after."""
    host: tuple[Path, ...] = ()
    """Where the host may have what the image has not, but for a link to the host's modules."""

    def info(self, name: str) -> modinfo.ModuleInfo:
        """Return what a module's file says. Raises StepError."""
        try:
            return modinfo.read(located(self.directory, self.files[name], self.host))
        except FileNotFoundError as error:
            message = f"modules.dep of the image names {self.files[name]}, which it does not have"
            raise _unusable(Reason.MODULE_NOT_FOUND, message) from error
        except (modinfo.InvalidModuleFileError, ValueError) as error:
            message = f"{self.files[name]} of the image {error}: build the image again"
            raise _unusable(Reason.INVALID_MODULE, message) from error
        except OSError as error:
            message = f"cannot read {self.files[name]} of the image: {error.strerror}"
            failure = ModuleFailure(reason=Reason.IMAGE_INVALID, message=message)
            raise StepError(failure) from error


def find_directory(image: ReadyImage, dir_name: str, kernel: str) -> Path:
    """Return <dirName>/lib/modules/<kernel> of an image, with or without a last `+`.

    Kernels whose name ends in `+` are known without it to those who build images. Raises StepError.
    """
    if not image.root.is_dir():
        # Evicted since it was made ready; it is brought again.
        failure = ModuleFailure(
            reason=Reason.IMAGE_PULL_FAILED, message=f"{image.digest} left the image store"
        )
        raise StepError(failure)
    base = image.root / argv.normalised(dir_name).lstrip("/") / "lib/modules"
    plain = kernel.removesuffix("+")
    for name in (kernel, plain, f"{plain}+"):
        directory = base / name
        if directory.is_dir() and directory.resolve().is_relative_to(image.root.resolve()):
            return directory
    shown = f"{argv.normalised(dir_name).rstrip('/')}/lib/modules/{kernel}"
    message = f"the image has no directory {shown}: build it for this kernel, or correct dirName"
    raise _unusable(Reason.IMAGE_WITHOUT_KERNEL, message)


def indexed(directory: Path) -> bool:
    """Tell whether depmod has been here: modprobe itself reads only the binary index."""
    return all((directory / name).is_file() for name in INDEX)


def located(directory: Path, path: str, host: Iterable[Path]) -> Path:
    """Return where a file of a modules.dep is: in the image, or on the host, behind a link to it.

    `host/kernel/x.ko` is the host's kernel/x.ko where the image has no directory `host`.
    """
    link, _, below = path.partition("/")
    if below and _lacks(directory, link):
        there = (tree / below for tree in host)
        return next(filter(Path.is_file, there), directory / path)
    return directory / path


def host_links(directory: Path, host: Iterable[Path]) -> dict[str, Path]:
    """Return the links to the host's modules that a modules.dep needs: target by name."""
    present = next(filter(Path.is_dir, host), None)
    if present is None or not indexed(directory):
        return {}
    files = read_tree(directory).files.values()
    tops = {path.partition("/")[0] for path in files if "/" in path}
    return {top: present for top in sorted(tops) if _lacks(directory, top)}


def shipped(tree: ModuleTree) -> tuple[str, ...]:
    """Return the kernel_names of the modules that are in the image itself."""
    links = host_links(tree.directory, tree.host)
    return tuple(name for name, path in tree.files.items() if path.partition("/")[0] not in links)


def _lacks(directory: Path, name: str) -> bool:
    try:
        return not (directory / name).exists()
    except OSError:
        # No file can have that name: nobody has linked it.
        return False


def read_tree(directory: Path, host: tuple[Path, ...] = ()) -> ModuleTree:
    """Return the tree as modules.dep describes it, or the module files' own words without one.

    `host` are directories of the host's modules for this kernel. Raises StepError.
    """
    if not indexed(directory):
        return _without_index(directory)
    text = (directory / "modules.dep").read_text(errors="replace")
    softdep = directory / "modules.softdep"
    soft = softdep.read_text(errors="replace") if softdep.is_file() else ""
    return replace(parse_dependencies(directory, text, soft), host=host)


def parse_dependencies(directory: Path, text: str, soft: str = "") -> ModuleTree:
    """Return the tree that a modules.dep, `path: path path` in each line, describes."""
    files: dict[str, str] = {}
    needs: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        path, colon, below = line.partition(":")
        name = file_module(path)
        if colon and name:
            files[name] = path
            needs[name] = tuple(filter(None, map(file_module, below.split())))
    return ModuleTree(directory=directory, files=files, needs=needs, soft=parse_softdeps(soft))


def parse_softdeps(text: str) -> dict[str, tuple[str, ...]]:
    """Return the names that go along with a module: `softdep NAME pre: A B post: C`."""
    found: dict[str, tuple[str, ...]] = {}
    for match in filter(None, map(_SOFTDEP.match, text.splitlines())):
        words = (word for word in match[2].split() if not word.endswith(":"))
        name = kernel_name(match[1])
        found[name] = (*found.get(name, ()), *map(kernel_name, words))
    return found


def _without_index(directory: Path) -> ModuleTree:
    files = _found(directory)
    bare = ModuleTree(directory=directory, files=files)
    direct = {name: bare.info(name).depends for name in files}
    needs = {name: _nearest_first(name, direct) for name in files}
    return ModuleTree(directory=directory, files=files, needs=needs)


def _nearest_first(name: str, direct: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return all that a module needs, each at most those to its right; a circle is cut."""
    deepest_first: list[str] = []
    seen = {name}

    def visit(one: str) -> None:
        for below in direct.get(one, ()):
            if below not in seen:
                seen.add(below)
                visit(below)
                deepest_first.append(below)

    visit(name)
    return tuple(reversed(deepest_first))


def _found(directory: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(directory.rglob("*.ko*")):
        name = file_module(path.name)
        if name and len(found) < MOST_FILES:
            found.setdefault(name, str(path.relative_to(directory)))
    return found


def load_order(tree: ModuleTree, order: Sequence[str]) -> tuple[str, ...]:
    """Return the kernel_names that a load may bring, each behind what it needs.

    `order` is the Module's own name, then its modulesLoadingOrder: each before its left one.
    """
    loaded: list[str] = []
    for name in reversed(order):
        for along in tree.soft.get(name, ()):
            if along in tree.files:
                _append(loaded, tree, along)
        _append(loaded, tree, name)
    return tuple(loaded)


def _append(loaded: list[str], tree: ModuleTree, name: str) -> None:
    for below in (*reversed(tree.needs.get(name, ())), name):
        if below not in loaded:
            loaded.append(below)


def unload_order(tree: ModuleTree, order: Sequence[str]) -> tuple[str, ...]:
    """Return the same kernel_names in the order of unloading, the own one first."""
    own = tuple(order[:1])
    return (*own, *(name for name in reversed(load_order(tree, order)) if name not in own))


def asked_for(module: DesiredModule) -> tuple[str, ...]:
    """Return the kernel_names a Module asks for: its own, then what must be there before it.

    Empty with rawArgs: nobody but modprobe knows.
    """
    probe = module.modprobe
    if probe.raw_args.load or not probe.module_name:
        return ()
    names = (probe.module_name, *probe.modules_loading_order)
    return tuple(dict.fromkeys(map(kernel_name, names)))


def named_by(words: Iterable[str], tree: ModuleTree) -> tuple[str, ...]:
    """Return the modules of a tree that raw arguments name."""
    names = (kernel_name(word) for word in words if not word.startswith("-"))
    return tuple(name for name in dict.fromkeys(names) if name in tree.files)


def _unusable(reason: Reason, message: str) -> StepError:
    return StepError(ModuleFailure(reason=reason, message=message), retry=False)
