"""Manifests go in the way a user's do: through kubectl."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.processes import run

LIMIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubectl:
    """The real kubectl as one user."""

    program: Path
    kubeconfig: Path

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl and return what it prints. Raises SandboxError with its stderr."""
        argv = [str(self.program), "--kubeconfig", str(self.kubeconfig), *arguments]
        return run(argv, limit=LIMIT_SECONDS, stdin=stdin)

    def apply(self, manifest: str) -> str:
        """Apply the text of a manifest."""
        return self("apply", "-f", "-", stdin=manifest)

    def apply_crds(self, files: Sequence[Path]) -> None:
        """Apply CustomResourceDefinitions and wait until the server serves them."""
        if files:
            names = [argument for file in files for argument in ("-f", str(file))]
            self("apply", "--server-side", *names)
            self("wait", "--for=condition=Established", "--timeout=30s", *names)
