"""checkov judges manifests: rights of Pods and accounts, limits, probes, images by digest.

It has a Python environment of its own, since it asks for a hundred packages in versions of its own.
"""

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kmm_sandbox.cache import cache_directory, only_builder
from kmm_sandbox.processes import run
from kmm_sandbox.progress import Progress

_LOCK = Path(__file__).with_name("requirements.lock")
_LIMIT_SECONDS = 900.0


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A check that an object failed."""

    check: str
    """Such as CKV_K8S_43."""
    resource: str
    """Kind, namespace and name, with dots between them."""


def findings(manifest: str, directory: Path) -> set[Finding]:
    """Return what checkov has to say against a manifest, of which it must know the Pods."""
    file = directory / "manifest.yaml"
    file.write_text(manifest)
    argv = [str(_python()), "-m", "checkov.main", "--framework", "kubernetes", "--file", str(file)]
    report = json.loads(
        run([*argv, "--output", "json", "--skip-download", "--soft-fail"], limit=_LIMIT_SECONDS)
    )
    if report["summary"]["parsing_errors"] or not report["summary"]["passed"]:
        raise AssertionError(f"checkov could not judge {file}: {report['summary']}")
    return {Finding(one["check_id"], one["resource"]) for one in report["results"]["failed_checks"]}


@cache
def _python() -> Path:
    """Return the interpreter of its environment; make that first if this machine has none."""
    version = f"py{sys.version_info[0]}.{sys.version_info[1]}"
    fingerprint = hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:12]
    directory = cache_directory() / f"checkov-{fingerprint}-{version}"
    home, ready = directory / "venv", directory / "ready"
    with only_builder(directory, Progress()):
        if not ready.exists():
            shutil.rmtree(home, ignore_errors=True)
            run([sys.executable, "-m", "venv", str(home)], limit=_LIMIT_SECONDS)
            pip = [str(home / "bin/pip"), "install", "-q", "--no-input", "--require-hashes"]
            run([*pip, "-r", str(_LOCK)], limit=_LIMIT_SECONDS)
            ready.touch()
    return home / "bin/python"
