"""How many branches of a parser its inputs reach, counted by coverage in a fresh process."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fuzz.targets import CORPUS, TARGETS


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Branches of the covered modules."""

    taken: int
    all: int

    @property
    def percent(self) -> int:
        return 100 * self.taken // self.all if self.all else 100


def reached(target: str, inputs: Iterable[bytes]) -> Reached:
    """Replay the corpus and these inputs."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        new = place / "inputs"
        new.mkdir()
        for number, content in enumerate(inputs):
            (new / f"{number}").write_bytes(content)
        data, report = place / "coverage", place / "report.json"
        tool = [sys.executable, "-m", "coverage"]
        files = ",".join(_file(module) for module in TARGETS[target].covered)
        replay = ["-m", "fuzz.replay", target, str(CORPUS / target), str(new)]
        run = [*tool, "run", "--branch", f"--data-file={data}", f"--include={files}", *replay]
        subprocess.run(run, check=True, capture_output=True)
        write = [*tool, "json", f"--data-file={data}", "-q", "-o", str(report)]
        subprocess.run(write, check=True, capture_output=True)
        return counted(json.loads(report.read_text()), TARGETS[target].apart)


def counted(report: Mapping[str, Any], apart: frozenset[str]) -> Reached:
    """Return the branches of coverage's report, but for those of some functions, by name."""
    functions = [
        (name, each["summary"])
        for file in report["files"].values()
        for name, each in file["functions"].items()
    ]
    unknown = apart - {name for name, _ in functions}
    assert not unknown, f"no function of the covered modules is {sorted(unknown)}"
    summaries = [summary for name, summary in functions if name not in apart]
    return Reached(
        taken=sum(each["covered_branches"] for each in summaries),
        all=sum(each["num_branches"] for each in summaries),
    )


def _file(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    return spec.origin
