"""How many nodes may fail before a Module is Stalled."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kmm_common.api.names import TOLERATED_FAILURES_ANNOTATION

_AMOUNT = re.compile(r"(?P<number>[0-9]{1,9})(?P<percent>%)?")
_SHOWN = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """A number of nodes, or a share of them."""

    number: int = 0
    percent: bool = False
    problem: str = ""
    """Why an annotation was not taken."""

    def of(self, nodes: int) -> int:
        """Return how many of these nodes may fail; a share is rounded down."""
        return nodes * self.number // 100 if self.percent else self.number


def tolerance(annotations: Mapping[str, str], setting: str) -> Tolerance:
    """Return what the annotation says, else the setting."""
    default = _parsed(setting) or Tolerance()
    value = annotations.get(TOLERATED_FAILURES_ANNOTATION)
    if value is None:
        return default
    problem = (
        f"annotation {TOLERATED_FAILURES_ANNOTATION} is {value[:_SHOWN]!r} and not taken: write a "
        "number of nodes, or a share such as 10%"
    )
    return _parsed(value) or replace(default, problem=problem)


def _parsed(text: str) -> Tolerance | None:
    amount = _AMOUNT.fullmatch(text)
    if amount is None:
        return None
    return Tolerance(number=int(amount["number"]), percent=bool(amount["percent"]))
