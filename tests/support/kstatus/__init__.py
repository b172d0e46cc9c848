"""The kstatus library: what Flux, and whoever else builds on it, reads from an object."""

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.kubeapi import Object
from kmm_sandbox.progress import Progress
from support.goprogram import GoProgram

KSTATUS = GoProgram(
    name="kstatus",
    source=Path(__file__).parent,
    package=".",
    upstream="sigs.k8s.io/cli-utils",
    crds="",
)
LIMIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one object: InProgress, Failed, Current or Terminating, and why."""

    status: str
    message: str


def verdicts(objects: Iterable[Object]) -> list[Verdict]:
    """Return what kstatus says of each object, in their order."""
    ran = subprocess.run(
        [KSTATUS.find(Progress()).program],
        input="".join(f"{json.dumps(each)}\n" for each in objects),
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [Verdict(**json.loads(line)) for line in ran.stdout.splitlines()]
