"""A fleet as text for people, with colours on a terminal only, and as JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from kmm_cli.fleet import DISCONNECTED, Failure, Fleet, Warned
from kmm_cli.problems import Problem, Unmatched
from kmm_common.api.names import Condition
from kmm_common.desired import ModuleState

_RED, _GREEN, _YELLOW, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"
_COLUMNS = (
    ModuleState.LOADED,
    ModuleState.PENDING,
    ModuleState.PULLING,
    ModuleState.LOADING,
    ModuleState.UNLOADING,
    ModuleState.FAILED,
    DISCONNECTED,
)
_NAMED = 10
"""Nodes that are named: without a session, and paused."""


def as_json(fleet: Fleet) -> str:
    """Return the fleet as one JSON object."""
    return json.dumps(asdict(fleet), indent=2)


def as_text(fleet: Fleet, *, colour: bool) -> str:
    """Return the fleet as a table, and below it what is wrong: with Modules, then on nodes."""
    troubled = {problem.module for problem in fleet.problems}
    elsewhere = [each for each in fleet.unmatched if each.module not in troubled]
    held = [each for each in fleet.problems if each.about == Condition.PAUSED]
    others = [each for each in fleet.problems if each.about != Condition.PAUSED]
    sections = (
        ("On no node:", [_nowhere(each) for each in elsewhere]),
        ("Not ready:", [_problem(each, colour=colour) for each in others]),
        ("Held by hand:", [_problem(each, colour=colour) for each in held]),
        ("Failures:", [_told(each, colour=colour) for each in fleet.failures]),
        ("Warnings:", [_warned(each, colour=colour) for each in fleet.warnings]),
    )
    parts = [_head(fleet), "", _table(fleet, colour=colour)]
    for heading, lines in sections:
        if lines:
            parts += ["", heading, *lines]
    return "\n".join(parts)


def _head(fleet: Fleet) -> str:
    nodes = "1 node" if fleet.nodes == 1 else f"{fleet.nodes} nodes"
    counted = f"{nodes}, {fleet.connected} connected"
    told = (("not connected", fleet.disconnected), ("paused", fleet.paused))
    return "; ".join([counted, *(f"{what}: {_some(nodes)}" for what, nodes in told if nodes)])


def _some(nodes: Sequence[str]) -> str:
    more = len(nodes) - _NAMED
    return ", ".join(nodes[:_NAMED]) + (f" and {more} more" if more > 0 else "")


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


def _nowhere(unmatched: Unmatched) -> str:
    return f"  {unmatched.module}: {unmatched.reason}: {unmatched.message}"


def _problem(problem: Problem, *, colour: bool) -> str:
    head = f"{problem.module}: {problem.reason} ({problem.about})"
    shade = _YELLOW if problem.about in (Condition.READY, Condition.PAUSED) else _RED
    return f"  {_shaded(head, shade, colour=colour)}\n    {problem.message}"


def _told(failure: Failure, *, colour: bool) -> str:
    head = _shaded(f"{failure.module} on {failure.node}: {failure.reason}", _RED, colour=colour)
    log = [f"    kernel: {line}" for line in failure.kernel_log]
    return "\n".join([f"  {head}", f"    {failure.message}", *log])


def _warned(warned: Warned, *, colour: bool) -> str:
    head = _shaded(f"{warned.module} on {warned.node}", _YELLOW, colour=colour)
    return f"  {head}\n    {warned.message}"


def _shaded(text: str, shade: str, *, colour: bool) -> str:
    return f"{shade}{text}{_PLAIN}" if colour else text
