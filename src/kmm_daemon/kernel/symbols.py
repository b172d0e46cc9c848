"""Symbols that a module needs and does not get, and which module would bring those missing."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

FILE = "modules.symbols"
"""What depmod writes: `alias symbol:<symbol> <module>` in each line."""
MOST_BYTES = 16 * 1024 * 1024
_ALIAS = re.compile(r"^alias symbol:(\S+) ([\w-]+)$", re.ASCII | re.MULTILINE)
_NO_SYMBOL = re.compile(r"(\S+): Unknown symbol (\S+)(?! \(err -22\))(?!\S)")
_NOT_GIVEN = re.compile(r"(\S+): Unknown symbol (\S+) \(err -22\)")
"""EINVAL: the kernel has the symbol, but not for this module."""
_OTHER_VERSION = re.compile(r"(\S+): disagrees about version of symbol (\S+)")
_NOT_IMPORTED = re.compile(
    r"(\S+): module uses symbol \(?([^\s()]+)\)? from namespace (\S+), but does not import it"
)


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


def withheld(kernel_log: Collection[str]) -> str:
    """Say of a symbol that the kernel has why a module does not get it; empty if it gets all.

    The kernel calls such a symbol unknown, too, in the line after the one that says why.
    """
    if found := _all(_OTHER_VERSION, kernel_log):
        return _of_another_build(found[0][1], found[0][2])
    refusals = _all(_NOT_GIVEN, kernel_log)
    if not refusals:
        return ""
    module, symbol = refusals[0].groups()
    # Without a refusal the line is a warning: kernels may be built to load such a module.
    for match in _all(_NOT_IMPORTED, kernel_log):
        if match.group(1, 2) == (module, symbol):
            return (
                f"{module} uses symbol {symbol} without importing its namespace {match[3]}: give "
                "its source a MODULE_IMPORT_NS for that, and build it again"
            )
    return _of_another_build(module, symbol)


def _of_another_build(module: str, symbol: str) -> str:
    return (
        f"{module} was built against another version of symbol {symbol}: build it against the "
        "headers of this node's kernel, and of the very module that exports it here, which may be "
        "a vendor's (as ib_core of OFED)"
    )


def _all(pattern: re.Pattern[str], kernel_log: Iterable[str]) -> list[re.Match[str]]:
    return [match for match in map(pattern.search, kernel_log) if match]


def missing(kernel_log: Iterable[str]) -> Missing | None:
    """Return what is missing; None if the kernel does not say so."""
    found = _all(_NO_SYMBOL, kernel_log)
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
