"""Symbols that a module needs and nobody has loaded, and which module would bring them."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

FILE = "modules.symbols"
"""What depmod writes: `alias symbol:<symbol> <module>` in each line."""
MOST_BYTES = 16 * 1024 * 1024
_ALIAS = re.compile(r"^alias symbol:(\S+) ([\w-]+)$", re.ASCII | re.MULTILINE)
_NO_SYMBOL = re.compile(r"(\S+): Unknown symbol (\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What the kernel said of one module: the first that lacks symbols."""

    module: str
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporters:
    """The modules that have symbols which were missing, where that is known."""

    image: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    """Of the host's own modules for the running kernel."""


def missing(kernel_log: Iterable[str]) -> Missing | None:
    """Return what is missing; None if the kernel does not say so."""
    found = [match for match in map(_NO_SYMBOL.search, kernel_log) if match]
    if not found:
        return None
    module = found[0][1]
    symbols = dict.fromkeys(match[2] for match in found if match[1] == module)
    return Missing(module=module, symbols=tuple(symbols))


def find(symbols: Collection[str], image: Path, host: Iterable[Path]) -> Exporters:
    """Look symbols up in directories of modules: the image's, and those of the host. Blocking."""
    on_host = (name for directory in host for name in _exporters(symbols, directory))
    return Exporters(
        image=_exporters(symbols, image),
        host=tuple(dict.fromkeys(on_host)),
    )


def _exporters(symbols: Collection[str], directory: Path) -> tuple[str, ...]:
    try:
        with (directory / FILE).open(errors="replace") as file:
            return exporters(symbols, file.read(MOST_BYTES))
    except OSError:
        return ()


def exporters(symbols: Collection[str], text: str) -> tuple[str, ...]:
    """Return the modules that a modules.symbols names for these symbols."""
    names = (match[2] for match in _ALIAS.finditer(text) if match[1] in symbols)
    return tuple(dict.fromkeys(names))


def told(lack: Missing, known: Exporters) -> str:
    """Say what is missing, who has it, and what helps."""
    others = f" and {len(lack.symbols) - 1} more" if len(lack.symbols) > 1 else ""
    needs = f"{lack.module} needs symbol {lack.symbols[0]}{others}, which"
    if known.image:
        names = ", ".join(known.image)
        return f"{needs} the image has in {names}: run depmod over it, its modules.dep is old"
    if known.host:
        names = ", ".join(known.host)
        return (
            f"{needs} the host has in {names}: add that to the image and run depmod, or have the "
            "host load it"
        )
    return f"{needs} no loaded module has: add the module that exports it to the image, run depmod"
