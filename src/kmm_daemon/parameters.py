"""Whether a loaded module has the parameters that a Module asks for: pure.

The kernel shows a value as the parameter's own type prints it. Only what certainly means something
else counts as different: a driver may take "64K" or "auto" and show a number, or hide the value.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import starmap

from kmm_daemon.values import kernel_name

_BOOLEAN = {
    **dict.fromkeys(("y", "yes", "t", "true", "on"), True),
    **dict.fromkeys(("n", "no", "f", "false", "off"), False),
}
_DECIMAL = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_HEXADECIMAL = re.compile(r"[+-]?0[xX][0-9a-fA-F]+")
_OCTAL = re.compile(r"[+-]?0[0-7]+")
_WORD = re.compile(r"[\w./:+@-]+")
_UNSET = "(null)"
"""How the kernel shows a text that nobody has set."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A parameter with the value asked for and the one that the kernel has."""

    name: str
    wanted: str
    has: str


def difference(wanted: Iterable[str], has: Mapping[str, str]) -> Difference | None:
    """Return the first parameter, given as modprobe takes them, that certainly has another value.

    `has` is what /sys/module shows, which is not every parameter.
    """
    shown = {kernel_name(name): value.strip() for name, value in has.items()}
    for name, value in dict(map(_split, wanted)).items():
        if name in shown and _differs(value, shown[name]):
            return Difference(name, value, shown[name])
    return None


def _split(word: str) -> tuple[str, str]:
    """Read name=value; a name alone is a boolean that is set."""
    name, equals, value = word.partition("=")
    return kernel_name(name), value.strip().strip('"') if equals else "Y"


def _differs(wanted: str, has: str) -> bool:
    if wanted == has:
        return False
    if has == _UNSET:
        return wanted != ""
    # Of an array that is larger than what was given the kernel shows the rest, too.
    return any(starmap(_one_differs, zip(wanted.split(","), has.split(","), strict=False)))


def _one_differs(wanted: str, has: str) -> bool:
    numbers = _number(wanted), _number(has)
    if None not in numbers:
        return numbers[0] != numbers[1]
    truths = _truth(wanted), _truth(has)
    if None not in truths:
        return truths[0] != truths[1]
    comparable = not any(map(_is_typed, (wanted, has)))
    return comparable and wanted.casefold() != has.casefold()


def _number(text: str) -> int | None:
    if _OCTAL.fullmatch(text):
        return int(text, 8)
    if _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    return int(text) if _DECIMAL.fullmatch(text) else None


def _truth(text: str) -> bool | None:
    number = _number(text)
    return _BOOLEAN.get(text.lower()) if number not in (0, 1) else bool(number)


def _is_typed(text: str) -> bool:
    """Tell whether a value is a number or a truth, or so written that it may be anything."""
    typed = _number(text) is not None or _truth(text) is not None
    return typed or not _WORD.fullmatch(text)
