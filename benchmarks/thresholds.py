"""Which figures are bad: limits on values or ratios, kept in thresholds.toml with their origin."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure

FILE = Path(__file__).with_name("thresholds.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """The most that a figure may be: by its value where it counts, by its ratio where it times."""

    figure: str
    value: float | None = None
    ratio: float | None = None

    def broken_by(self, figure: Figure) -> str:
        """Say by how much the figure is over; empty if it is not."""
        for kind, most, is_now in (
            ("value", self.value, figure.value),
            ("ratio", self.ratio, figure.ratio),
        ):
            if most is not None and is_now > most:
                return f"{figure.figure}: {kind} {is_now:.4g} is over {most:.4g}"
        return ""


def read(path: Path = FILE) -> dict[str, Threshold]:
    """Return the thresholds by their figures' names."""
    tables = tomllib.loads(path.read_text())["threshold"]
    return {
        table["figure"]: Threshold(
            figure=table["figure"], value=table.get("value"), ratio=table.get("ratio")
        )
        for table in tables
    }


def broken(figures: Iterable[Figure], thresholds: Mapping[str, Threshold]) -> list[str]:
    """Say of each figure that is over its threshold, or has none, what is wrong."""
    told = []
    for figure in figures:
        threshold = thresholds.get(figure.figure)
        if threshold is None:
            told.append(f"{figure.figure}: has no threshold in {FILE.name}")
        elif text := threshold.broken_by(figure):
            told.append(text)
    return told
