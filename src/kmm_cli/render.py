"""A fleet as text for people, with colours on a terminal only, and as JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from kmm_cli.fleet import Failure, Fleet
from kmm_common.desired import ModuleState

_RED, _GREEN, _YELLOW, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"
_COLUMNS = (
    ModuleState.LOADED,
    ModuleState.PENDING,
    ModuleState.PULLING,
    ModuleState.LOADING,
    ModuleState.UNLOADING,
    ModuleState.FAILED,
)


def as_json(fleet: Fleet) -> str:
    """Return the fleet as one JSON object."""
    return json.dumps(asdict(fleet), indent=2)


def as_text(fleet: Fleet, *, colour: bool) -> str:
    """Return the fleet as a table, and each failure with its reason below it."""
    parts = [f"{fleet.nodes} nodes, {fleet.connected} connected", "", _table(fleet, colour=colour)]
    if fleet.unmatched:
        parts += [
            "",
            f"On no node: {', '.join(fleet.unmatched)} (see: kubectl describe module NAME)",
        ]
    if fleet.failures:
        parts += ["", "Failures:", *[_told(failure, colour=colour) for failure in fleet.failures]]
    return "\n".join(parts)


def _table(fleet: Fleet, *, colour: bool) -> str:
    if not fleet.rows:
        return "No Module has an entry on any node."
    shown = [s for s in _COLUMNS if any(row.states.get(s) for row in fleet.rows)]
    heading = ["MODULE", "KERNEL", "NODES", *[state.upper() for state in shown]]
    rows = [
        [row.module, row.kernel, str(row.nodes), *[str(row.states.get(s, 0)) for s in shown]]
        for row in fleet.rows
    ]
    widths = [max(len(cell) for cell in column) for column in zip(heading, *rows, strict=True)]
    lines = [_line(heading, widths)]
    for row, cells in zip(fleet.rows, rows, strict=True):
        whole = row.states.get(ModuleState.LOADED, 0) == row.nodes
        shade = _GREEN if whole else _RED if row.states.get(ModuleState.FAILED) else _YELLOW
        lines.append(_shaded(_line(cells, widths), shade, colour=colour))
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "   ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _told(failure: Failure, *, colour: bool) -> str:
    head = _shaded(f"{failure.module} on {failure.node}: {failure.reason}", _RED, colour=colour)
    log = [f"    kernel: {line}" for line in failure.kernel_log]
    return "\n".join([f"  {head}", f"    {failure.message}", *log])


def _shaded(text: str, shade: str, *, colour: bool) -> str:
    return f"{shade}{text}{_PLAIN}" if colour else text
