"""What is said of Kubernetes' versions is what tests run against."""

import re
from pathlib import Path

import yaml

from kmm_sandbox.binaries import KubernetesRelease

REPOSITORY = Path(__file__).resolve().parents[2]
NEWEST, OLDEST = KubernetesRelease.NEWEST, KubernetesRelease.OLDEST


def test_table_has_the_supported_minors_and_the_versions_that_tests_run_against() -> None:
    page = (REPOSITORY / "docs/how-to/install.md").read_text()
    rows = re.findall(r"^\| (1\.\d+) \| yes \| (.*) \|$", page, re.MULTILINE)
    first, last = (int(each.minor.removeprefix("1.")) for each in (OLDEST, NEWEST))
    assert [minor for minor, _ in rows] == [f"1.{n}" for n in range(last, first - 1, -1)]
    how = dict(rows)
    for release in (NEWEST, OLDEST):
        assert f" {release.version.removeprefix('v')}" in how[release.minor]


def test_readme_and_changes_name_both_ends() -> None:
    span = f"Kubernetes {OLDEST.minor} to {NEWEST.minor} is"
    for name in ("README.md", "CHANGELOG.md"):
        assert span in (REPOSITORY / name).read_text()


def test_chart_is_refused_by_what_is_older_than_the_oldest() -> None:
    chart = yaml.safe_load((REPOSITORY / "charts/kmm/Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">={OLDEST.minor}.0-0"
