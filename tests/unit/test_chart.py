"""The chart belongs to this version of the programs."""

import tomllib
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


def test_chart_has_the_version_of_what_it_installs() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((REPOSITORY / "charts/kmm/Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == project["version"]
