"""A figure: a value beside the reference that makes it mean something."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the result."""

    figure: str
    value: float
    unit: str
    reference: str
    """What the value is held against, in words."""
    reference_value: float
    """In the same unit."""

    @property
    def ratio(self) -> float:
        """Return value to reference; 0 where the reference is nothing."""
        return self.value / self.reference_value if self.reference_value else 0.0

    def as_json(self) -> str:
        """Return the line for programs."""
        return json.dumps(
            {
                "figure": self.figure,
                "value": round(self.value, 4),
                "unit": self.unit,
                "reference": f"{self.reference}: {self.reference_value:.4g} {self.unit}",
                "ratio": round(self.ratio, 2),
            }
        )


def median_and_worst(
    name: str, values: Sequence[float], *, unit: str, reference: str, against: Sequence[float]
) -> list[Figure]:
    """Return two figures: median beside median, worst beside worst."""
    parts = (("median", statistics.median), ("worst", max))
    return [
        Figure(
            figure=f"{name}, {part} of {len(values)}",
            value=chosen(values),
            unit=unit,
            reference=f"{reference}, {part}",
            reference_value=chosen(against),
        )
        for part, chosen in parts
    ]


def table(figures: Sequence[Figure]) -> str:
    """Return the figures for people."""
    rows = [("figure", "value", "reference", "ratio")]
    rows += [
        (
            each.figure,
            f"{each.value:.4g} {each.unit}",
            f"{each.reference}: {each.reference_value:.4g} {each.unit}",
            f"{each.ratio:.2f}",
        )
        for each in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
