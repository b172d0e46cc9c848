"""The kstatus library: what Flux, and whoever else builds on it, reads from an object."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.kubeapi import Object
from support.goprogram import GoProgram

KSTATUS = GoProgram(
    name="kstatus",
    source=Path(__file__).parent,
    package=".",
    upstream="sigs.k8s.io/cli-utils",
    crds="",
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one object: InProgress, Failed, Current or Terminating, and why."""

    status: str
    message: str


def verdicts(objects: Iterable[Object]) -> list[Verdict]:
    """Return what kstatus says of each object, in their order."""
    return [Verdict(**answer) for answer in KSTATUS.answers(objects)]
