"""Several kmm-cp processes over one cluster, seen by tests as one control plane."""

import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmm_cp.settings import LeaseSettings
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.processes import wait_until
from support.balancer import Balancer
from support.certificates import NAMESPACE, Certificates
from support.cluster import Cluster
from support.history import Line, merged
from support.kmmcp import KmmCp, new_control_plane, prepare_cluster

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{LeaseSettings().name}"
QUICK = {"duration_seconds": 6, "renew_deadline_seconds": 4, "retry_period_seconds": 1}
"""An election that a test can wait for on a busy machine."""
PATIENT = 60.0


@dataclass(slots=True, kw_only=True)
class Replicas:
    """Has what a fleet asks of a KmmCp."""

    cluster: Cluster
    directory: Path
    certificates: Certificates
    all: Sequence[KmmCp]
    balancer: Balancer = field(init=False)
    """Running."""
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4), repr=False)

    @property
    def alive(self) -> bool:
        return any(each.alive for each in self.all)

    @property
    def port(self) -> int:
        """Where daemons connect; behind it are all."""
        return self.balancer.port

    @property
    def ports(self) -> list[int]:
        return [each.port for each in self.all]

    def start(self) -> None:
        """Start those that do not run, at once; wait until all are ready."""
        list(self._pool.map(lambda each: each.start(), [r for r in self.all if not r.alive]))

    def stop(self) -> list[int]:
        """End all as Kubernetes does; return the exit codes."""
        return list(self._pool.map(lambda each: each.stop(), [r for r in self.all if r.alive]))

    def close(self) -> None:
        for each in self.all:
            each.close()
        self._pool.shutdown()

    def lease(self) -> Object:
        """Return the spec of the Lease; empty if there is none."""
        found = self.cluster.api.find(LEASE)
        return dict(found["spec"]) if found else {}

    def leading(self) -> list[KmmCp]:
        """Return the replicas that say that they lead."""
        return [each for each in self.all if each.alive and each.leads()]

    def leader(self) -> KmmCp:
        """Wait until one leads; return it."""
        wait_until(lambda: len(self.leading()) == 1, seconds=PATIENT, what="a leader")
        return self.leading()[0]

    def other(self, replica: KmmCp) -> KmmCp:
        """Return another replica."""
        return next(each for each in self.all if each is not replica)

    def facts(self) -> Iterator[Line]:
        """Yield the facts of all, by time."""
        return merged({each.name: each.facts() for each in self.all})

    def told(self, message: str, **fields: object) -> list[Line]:
        return [
            line for each in self.all if each.log.exists() for line in each.told(message, **fields)
        ]

    def audited(self, since: int = 0) -> Iterator[Line]:
        return self.all[0].audited(since)

    def reconciles(self) -> Counter[str]:
        """Count the reconciles of those that run now."""
        return sum((each.reconciles() for each in self.all if each.alive), Counter())


def new_replicas(
    cluster: Cluster,
    directory: Path,
    *,
    names: Sequence[str] = ("one", "two"),
    lease: Mapping[str, Any] | None = None,
) -> Replicas:
    """Return replicas that are not started yet; the cluster is prepared for them."""
    prepare_cluster(cluster)
    certificates = Certificates(directory / "link-pki")
    replicas = []
    for name in names:
        (directory / name).mkdir(parents=True)
        each = new_control_plane(cluster, directory / name, certificates=certificates)
        each.settings |= {"replica": name, "lease": dict(lease or QUICK)}
        replicas.append(each)
    return Replicas(cluster=cluster, directory=directory, certificates=certificates, all=replicas)


@contextmanager
def frozen(replica: KmmCp) -> Iterator[None]:
    """Have a process do nothing, and know nothing, meanwhile."""
    assert replica.process is not None
    replica.process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        replica.process.signal(signal.SIGCONT)
