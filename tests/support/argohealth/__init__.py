"""What Argo CD reads from an object by the shipped script, in the interpreter that it has."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import yaml

from kmm_sandbox.kubeapi import Object
from kmm_sandbox.repository import REPOSITORY
from support.goprogram import GoProgram
from support.kstatus import Verdict

ARGO_HEALTH = GoProgram(
    name="argohealth",
    source=Path(__file__).parent,
    package=".",
    upstream="github.com/yuin/gopher-lua",
    crds="",
)
_MANIFEST = REPOSITORY / "manifests/samples/argocd-health.yaml"
_KEY = "resource.customizations.health.kmm.sigs.x-k8s.io_Module"


def healths(objects: Iterable[Object]) -> list[Verdict]:
    """Return what the script says of each object: Progressing, Degraded or Healthy, and why."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(yaml.safe_load(_MANIFEST.read_text())["data"][_KEY])
        script.flush()
        return [Verdict(**answer) for answer in ARGO_HEALTH.answers(objects, script.name)]
