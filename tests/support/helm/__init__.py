"""The real helm, and what it makes of the chart that is shipped."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from kmm_sandbox.kubeapi import Object
from kmm_sandbox.processes import run
from kmm_sandbox.progress import Progress
from support.certificates import NAMESPACE
from support.goprogram import GoProgram

CHART = Path(__file__).resolve().parents[3] / "charts/kmm"
HELM = GoProgram(
    name="helm",
    # Its go.mod has the versions of cert-manager's, so that what both use is compiled once.
    source=Path(__file__).parent,
    package="helm.sh/helm/v4/cmd/helm",
    upstream="helm.sh/helm/v4",
    crds="",
)
LIMIT_SECONDS = 60.0
MODES = {"default": "certManager", "builtin-ca": "builtin"}
"""Which value of certificates.mode stands for which overlay."""
_OF_HELM = ("helm.sh/", "app.kubernetes.io/managed-by")


@cache
def _program() -> Path:
    return HELM.find(Progress()).program


@dataclass(frozen=True, slots=True, kw_only=True)
class Helm:
    """helm with files of its own."""

    home: Path

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Run it and return what it prints. Raises SandboxError with its stderr."""
        environment = [f"{name}={self.home}" for name in ("HOME", "HELM_CACHE_HOME")]
        argv = ["env", *environment, str(_program()), *arguments]
        return run(argv, limit=LIMIT_SECONDS, stdin=stdin)

    def template(self, values: Mapping[str, Any], *, namespace: str = NAMESPACE) -> str:
        """Return the objects that the chart gives with some values set."""
        arguments = ("template", "kmm", str(CHART), "--namespace", namespace, "--values", "-")
        return self(*arguments, stdin=yaml.safe_dump(dict(values)))

    def lint(self, values: Mapping[str, Any]) -> str:
        """Judge the chart strictly with some values set."""
        return self(
            "lint", "--strict", str(CHART), "--values", "-", stdin=yaml.safe_dump(dict(values))
        )


def without_helm(one: Object) -> Object:
    """Return an object without the labels and annotations by which helm knows its own."""
    metadata = dict(one["metadata"])
    for name in ("labels", "annotations"):
        kept = {k: v for k, v in metadata.pop(name, {}).items() if not k.startswith(_OF_HELM)}
        if kept:
            metadata[name] = kept
    return {**one, "metadata": metadata}
