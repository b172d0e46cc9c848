"""Manifests go in the way a user's do: through kubectl."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.processes import run, wait_until

LIMIT_SECONDS = 180.0
ESTABLISHED_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubectl:
    """The real kubectl as one user."""

    program: Path
    kubeconfig: Path
    limit: float = LIMIT_SECONDS
    """Seconds for one command."""

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl and return what it prints. Raises SandboxError with its stderr."""
        argv = [str(self.program), "--kubeconfig", str(self.kubeconfig), *arguments]
        return run(argv, limit=self.limit, stdin=stdin)

    def apply(self, manifest: str) -> str:
        """Apply the text of a manifest."""
        return self("apply", "-f", "-", stdin=manifest)

    def apply_crds(self, files: Sequence[Path]) -> None:
        """Apply CustomResourceDefinitions and wait until the server serves them."""
        if files:
            names = [argument for file in files for argument in ("-f", str(file))]
            self("apply", "--server-side", *names)
            wait_until(
                lambda: self._established(names), seconds=ESTABLISHED_SECONDS, what="CRDs served"
            )

    def _established(self, names: Sequence[str]) -> bool:
        try:
            self("wait", "--for=condition=Established", f"--timeout={ESTABLISHED_SECONDS}s", *names)
        except SandboxError as error:
            # A new definition has `conditions: null` for a moment, which kubectl takes for damage.
            if "accessor error" not in str(error):
                raise
            return False
        return True
