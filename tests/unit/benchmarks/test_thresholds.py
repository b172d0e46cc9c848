"""Figures over their limits, or without one, are told."""

import pytest

from benchmarks import thresholds
from benchmarks.figures import Figure
from benchmarks.thresholds import Threshold


def figure(value: float, reference: float = 2.0) -> Figure:
    return Figure(
        figure="load", value=value, unit="s", reference="alone", reference_value=reference
    )


@pytest.mark.parametrize(
    ("threshold", "told"),
    [
        (Threshold(figure="load", value=4.0), ""),
        (Threshold(figure="load", value=3.9), "load: value 4 is over 3.9"),
        (Threshold(figure="load", ratio=2.0), ""),
        (Threshold(figure="load", ratio=1.9), "load: ratio 2 is over 1.9"),
    ],
)
def test_figure_is_held_against_its_limit(threshold: Threshold, told: str) -> None:
    found = thresholds.broken([figure(4.0)], {"load": threshold})
    assert found == ([told] if told else [])


def test_figure_without_a_limit_is_bad() -> None:
    assert thresholds.broken([figure(4.0)], {}) == ["load: has no threshold in thresholds.toml"]


def test_every_threshold_bounds_something() -> None:
    assert all(each.value or each.ratio for each in thresholds.read().values())
