"""Flux's own kustomize-controller, fed from a local git repository.

Flux's source-controller requires a module that no proxy serves. What it does is played: it serves
a commit as an archive, and writes into the GitRepository's status where that is.
"""

import functools
import hashlib
import http.server
import json
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kmm_common.clock import SystemClock, rfc3339
from kmm_sandbox.cache import cache_directory
from kmm_sandbox.gotoolchain import find_go
from kmm_sandbox.kubeapi import KubeApi, Object
from kmm_sandbox.ports import KeptPorts
from kmm_sandbox.processes import Launcher, wait_until
from kmm_sandbox.progress import Progress
from support.cluster import Cluster
from support.goprogram import GoProgram

KUSTOMIZE_CONTROLLER = GoProgram(
    name="kustomize-controller",
    source=Path(__file__).parent,
    package="github.com/fluxcd/kustomize-controller",
    upstream="github.com/fluxcd/kustomize-controller",
    crds="config/crd/bases",
)
SOURCES = "github.com/fluxcd/source-controller@v1.9.6"
"""Of which only the definitions are taken."""
SOURCES_SUM = "h1:nG534/bI6nVpyHra7ONAk6xDB3xPsVT+EOLHZHXPrrc="
NAMESPACE = "flux-system"
BRANCH = "main"
LIMIT_SECONDS = 600.0
REMOVAL_SECONDS = 60.0
_REPOSITORIES = f"/apis/source.toolkit.fluxcd.io/v1/namespaces/{NAMESPACE}/gitrepositories"
_KUSTOMIZATIONS = f"/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/{NAMESPACE}/kustomizations"


def flux_built() -> None:
    """Build the controller, for some minutes, if this machine has none."""
    KUSTOMIZE_CONTROLLER.find(Progress())


@contextmanager
def running_flux(cluster: Cluster, directory: Path) -> Iterator[None]:
    """Install the definitions and run the controller until the end of the block."""
    found = KUSTOMIZE_CONTROLLER.find(Progress())
    cluster.kubectl.apply_crds([*found.crds, *_source_definitions()])
    cluster.api.ensure("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    env = {"RUNTIME_NAMESPACE": NAMESPACE, "KUBECONFIG": str(cluster.kubeconfig)}
    launcher = Launcher(logs=directory, leashed=True)
    with KeptPorts() as ports:
        addresses = [f"--{name}-addr={ports.address()}" for name in ("metrics", "health")]
        argv = [str(found.program), *addresses, "--events-addr="]
        process = launcher.start("kustomize-controller", argv, env=env)
        try:
            yield
            process.require_alive()
        finally:
            process.kill()


def _source_definitions() -> list[Path]:
    """Return the definitions of what a Kustomization can be made from."""
    argv = [str(find_go(cache_directory(), Progress())), "mod", "download", "-json", SOURCES]
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            argv, cwd=elsewhere, check=True, capture_output=True, text=True, timeout=LIMIT_SECONDS
        )
    told = json.loads(done.stdout)
    assert told["Sum"] == SOURCES_SUM
    return sorted((Path(told["Dir"]) / "config/crd/bases").glob("*.yaml"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GitSource:
    """A repository, the GitRepository that stands for it, and a Kustomization of all its files."""

    name: str
    api: KubeApi
    repository: Path
    served: Path
    """Directory of the archives."""
    url: str
    """Of the same."""

    def create(self, namespace: str) -> None:
        """Make repository and objects; `namespace` is where what is in it belongs."""
        self.repository.mkdir()
        self._git("init", "-q", "-b", BRANCH)
        self._create(_REPOSITORIES, "GitRepository", {"interval": "1h", "url": self.url})
        spec = {
            "interval": "1h",
            "retryInterval": "2s",
            "timeout": "2m",
            "prune": True,
            "wait": True,
            "targetNamespace": namespace,
            "sourceRef": {"kind": "GitRepository", "name": self.name},
        }
        self._create(_KUSTOMIZATIONS, "Kustomization", spec)

    def commit(self, **objects: Object) -> str:
        """Commit objects as files of their names; return the revision as Flux writes it."""
        for name, content in objects.items():
            (self.repository / f"{name}.yaml").write_text(yaml.safe_dump(content))
        self._git("add", "-A")
        who = ("-c", "user.name=test", "-c", "user.email=test@kmm.test")
        self._git(*who, "commit", "-q", "-m", "change")
        commit = self._git("rev-parse", "HEAD").decode().strip()
        revision = f"{BRANCH}@sha1:{commit}"
        self._announce(revision, f"{commit}.tar.gz")
        return revision

    def remove(self) -> None:
        """Remove the Kustomization, and with it all that it has applied; then the GitRepository."""
        path = f"{_KUSTOMIZATIONS}/{self.name}"
        self.api.delete(path)
        wait_until(
            lambda: self.api.find(path) is None, seconds=REMOVAL_SECONDS, what=f"end of {path}"
        )
        self.api.delete(f"{_REPOSITORIES}/{self.name}")

    def kustomization(self) -> Object:
        """Return the Kustomization."""
        return self.api.get(f"{_KUSTOMIZATIONS}/{self.name}")

    def _create(self, collection: str, kind: str, spec: Object) -> None:
        group = collection.split("/")[2]
        metadata = {"name": self.name}
        body = {"apiVersion": f"{group}/v1", "kind": kind, "metadata": metadata, "spec": spec}
        self.api.create(collection, body)

    def _announce(self, revision: str, path: str) -> None:
        content = self._git("archive", "--format=tar.gz", "HEAD")
        (self.served / path).write_bytes(content)
        now = rfc3339(SystemClock().now())
        found = self.api.get(f"{_REPOSITORIES}/{self.name}")
        generation = found["metadata"]["generation"]
        artifact: dict[str, Any] = {
            "path": path,
            "url": f"{self.url}/{path}",
            "revision": revision,
            "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
            "size": len(content),
            "lastUpdateTime": now,
        }
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "Succeeded",
            "message": "stored artifact",
            "lastTransitionTime": now,
            "observedGeneration": generation,
        }
        status = {"observedGeneration": generation, "artifact": artifact, "conditions": [ready]}
        self.api.merge(f"{_REPOSITORIES}/{self.name}/status", {"status": status})

    def _git(self, *words: str) -> bytes:
        argv = ["git", "-C", str(self.repository), *words]
        return subprocess.run(argv, check=True, capture_output=True, timeout=LIMIT_SECONDS).stdout


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing of requests."""


@contextmanager
def git_source(cluster: Cluster, name: str, directory: Path) -> Iterator[GitSource]:
    """Return a new, empty repository whose archives are served until the end of the block."""
    served = directory / "served"
    served.mkdir(parents=True)
    handler = functools.partial(_QuietHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="git source")
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield GitSource(
                name=name,
                api=cluster.api,
                repository=directory / "repository",
                served=served,
                url=url,
            )
        finally:
            server.shutdown()
            thread.join()
