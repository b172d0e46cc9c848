"""Command lines of modprobe, depmod and rmmod, and the softdep file: pure."""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, Modprobe, ModuleFailure
from kmm_daemon.values import kernel_name

NAME_LENGTH = 55
"""The kernel's own limit for the name of a module."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_FORCING = re.compile(r"--force|-[A-Za-z]*f")
_WITH_VALUE = {"C": "--config", "d": "--dirname", "S": "--set-version", "w": "--wait"}
_UPSTREAM_WORKER_ROOT = "/tmp"  # noqa: S108


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a Module's files are on this node while modprobe works for it."""

    root: Path
    """Stands for the root of the image."""
    config: Path
    """The -C directory: nothing of the host's or the image's modprobe.d is read."""
    dir_name: str
    """As modprobe.dirName, normalised: `/opt`."""
    tree: str
    """Name of the directory in lib/modules: the kernel's version, at times without a last `+`."""

    @property
    def base(self) -> Path:
        """modprobe -d."""
        return self.root / self.dir_name.lstrip("/")


def invalid(module: DesiredModule) -> ModuleFailure | None:
    """Return what makes a Module's names or arguments unusable, naming the field."""
    probe = module.modprobe
    for field, names in (
        ("modprobe.moduleName", (probe.module_name,) if probe.module_name else ()),
        ("modprobe.modulesLoadingOrder", probe.modules_loading_order),
        ("inTreeModulesToRemove", module.in_tree_modules_to_remove),
    ):
        for name in names:
            if not _NAME.fullmatch(name) or len(name) > NAME_LENGTH:
                return _unusable(Reason.INVALID_MODULE, field, name, "is no name of a module")
    for field, words in _words(probe).items():
        for word in words:
            if not word or not word.isprintable():
                return _unusable(Reason.BAD_PARAMETER, field, word, "is empty or not printable")
    if not probe.module_name and not probe.raw_args.load:
        message = "modprobe.moduleName is empty and there are no rawArgs: set one of them"
        return ModuleFailure(reason=Reason.INVALID_MODULE, message=message)
    return None


def _words(probe: Modprobe) -> dict[str, tuple[str, ...]]:
    return {
        "modprobe.parameters": probe.parameters,
        "modprobe.args.load": probe.args.load,
        "modprobe.args.unload": probe.args.unload,
        "modprobe.rawArgs.load": probe.raw_args.load,
        "modprobe.rawArgs.unload": probe.raw_args.unload,
    }


def _unusable(reason: Reason, field: str, value: str, why: str) -> ModuleFailure:
    return ModuleFailure(reason=reason, message=f"{field}: {value!r} {why}")


def load(modprobe: str, module: DesiredModule, place: Place) -> list[str]:
    """Return the command line that loads a Module.

    args.load come before the name, as upstream's do. rawArgs.load is the whole command line: only
    the directory behind its -d is looked up in the image.
    """
    probe = module.modprobe
    if probe.raw_args.load:
        return [modprobe, *in_image(probe.raw_args.load, place)]
    return [
        *(modprobe, *_where(place), *probe.args.load),
        *("--", probe.module_name, *probe.parameters),
    ]


def unload(modprobe: str, module: DesiredModule, place: Place) -> list[str]:
    """Return the command line that unloads a Module the way its manifest asks for."""
    probe = module.modprobe
    if probe.raw_args.unload:
        return [modprobe, *in_image(probe.raw_args.unload, place)]
    names = probe.modules_loading_order or (probe.module_name,)
    return [modprobe, "-r", *_where(place), *probe.args.unload, "--", *names]


def remove(rmmod: str, name: str) -> list[str]:
    """Return the command line that takes out one module by name, and nothing it stands on."""
    return [rmmod, name]


def names_in(command: Sequence[str]) -> tuple[str, ...]:
    """Return the kernel_name of every argument that can be one: better one too many."""
    return tuple(kernel_name(word) for word in command[1:] if _NAME.fullmatch(word))


def index(depmod: str, place: Place) -> list[str]:
    """Return the command line that writes modules.dep and its like."""
    return [depmod, "-b", str(place.base), place.tree]


def forces(words: Sequence[str]) -> bool:
    """Tell whether options of modprobe have the kernel skip checks: better once too often."""
    return any(map(_FORCING.match, words))


def softdeps(probe: Modprobe) -> str:
    """Return the modprobe.d file of a modulesLoadingOrder: each needs its right neighbour."""
    pairs = pairwise(probe.modules_loading_order)
    return "".join(f"softdep {name} pre: {below}\n" for name, below in pairs)


def in_image(words: tuple[str, ...], place: Place) -> list[str]:
    """Return raw arguments with the value of -d or --dirname taken below the image's root."""
    found = list(words)
    expects = ""
    for i, word in enumerate(words):
        if expects:
            found[i] = _below(word, place) if expects == "d" else word
            expects = ""
        elif word == "--":
            break
        elif word.startswith("--"):
            found[i], expects = _long(word, place)
        elif word.startswith("-"):
            found[i], expects = _short(word, place)
    return found


def _long(word: str, place: Place) -> tuple[str, str]:
    """Return a long option with its directory replaced, and which option's value comes next."""
    name, equals, value = word.partition("=")
    if name == _WITH_VALUE["d"] and equals:
        return f"{name}={_below(value, place)}", ""
    return word, next((key for key, long in _WITH_VALUE.items() if word == long), "")


def _short(word: str, place: Place) -> tuple[str, str]:
    """Return a cluster of short options likewise: -vd DIR, -vdDIR."""
    for i, letter in enumerate(word[1:], start=1):
        if letter in _WITH_VALUE:
            value = word[i + 1 :]
            if letter == "d" and value:
                return word[: i + 1] + _below(value, place), ""
            return word, "" if value else letter
    return word, ""


def _below(directory: str, place: Place) -> str:
    """Return a directory of the image. Upstream's worker has the image's files in /tmp."""
    inside = normalised(directory)
    worker = _UPSTREAM_WORKER_ROOT + place.dir_name
    if inside == worker.rstrip("/"):
        inside = place.dir_name
    return str(place.root / inside.lstrip("/"))


def normalised(directory: str) -> str:
    """Return an absolute path of the image without `.`, `..` and doubled slashes."""
    return posixpath.normpath("/" + directory.lstrip("/"))


def _where(place: Place) -> tuple[str, ...]:
    return ("-d", str(place.base), "-S", place.tree, "-C", str(place.config))
