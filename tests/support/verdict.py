"""What the history checker says of all the histories of a run, in one line at its end."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from support import history
from support.history import Line, Violation


@dataclass(slots=True)
class Tally:
    """Counts; a history that is checked again as it grows is one history."""

    events: dict[str, int] = field(default_factory=dict)
    """Facts, by history."""
    violations: dict[str, list[Violation]] = field(default_factory=dict)
    seeds: dict[str, set[int]] = field(default_factory=dict)
    """What random choices came from, by what was chosen."""

    def seeded(self, what: str, seeds: Iterable[int]) -> None:
        """Note the seeds of a test."""
        self.seeds.setdefault(what, set()).update(seeds)

    def check(
        self,
        name: str,
        control_plane: Iterable[Line],
        daemons: Mapping[str, Iterable[Line]],
        *,
        reachable: Collection[str] = (),
    ) -> list[Violation]:
        """Return what history.check() says of a history, and count it under its name."""
        above = list(control_plane)
        below = {node: list(lines) for node, lines in daemons.items()}
        found = history.check(above, below, reachable=reachable)
        self.events[name] = len(above) + sum(map(len, below.values()))
        self.violations[name] = found
        return found

    def verdict(self) -> str:
        """Return the line; empty if nothing was checked."""
        if not self.events:
            return ""
        violations = sum(map(len, self.violations.values()))
        told = (
            f"history checker: {len(self.events)} histories, {sum(self.events.values())} events,"
            f" {violations} violations"
        )
        seeds = [f"{what} {_ranges(sorted(self.seeds[what]))}" for what in sorted(self.seeds)]
        return f"{told}; seeds: {'; '.join(seeds)}" if seeds else told


def _ranges(numbers: list[int]) -> str:
    """Return ascending numbers as 1-3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in runs)


TALLY = Tally()
"""Of this run of pytest."""
