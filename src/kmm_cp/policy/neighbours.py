"""Who else works on the Module CRD of this cluster: upstream KMM, or a copy that others bundle."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

LEASE = "kmm.sigs.x-k8s.io"
"""What the leader of upstream, or of the AMD GPU operator's copy, holds in its namespace."""
_GONE_AFTER = timedelta(minutes=10)
"""A Lease of such an age is nobody's, also by a clock that is wrong by some minutes."""
_POD = re.compile(r"(?P<deployment>.+)-[a-z0-9]{5,10}-[a-z0-9]{5}_")
"""controller-runtime's identity of a leader: its Pod's name and a UUID."""

# Their failurePolicy is Fail.
_WEBHOOKS = (
    "Once stopped, it leaves webhooks behind that refuse every change of a Module: delete its "
    "ValidatingWebhookConfiguration, too, which has vmodule.kb.io. Newer releases serve it from a "
    "second Deployment, such as kmm-operator-webhook: stop that as well"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """Who holds upstream's Lease in a namespace."""

    namespace: str
    identity: str
    renewed: str
    """spec.renewTime as it is there: only whether it changes says whether somebody is alive."""
    duration: float
    """How long the others wait for it, in seconds."""

    @property
    def deployment(self) -> str:
        """Name of its Deployment; empty if its identity does not tell."""
        found = _POD.match(self.identity)
        return found["deployment"] if found else ""

    def __str__(self) -> str:
        name = f"Deployment {self.namespace}/{self.deployment}" if self.deployment else ""
        return name or f"{self.identity} in namespace {self.namespace}"


def neighbours_in(leases: Iterable[Mapping[str, Any]], now: datetime) -> list[Neighbour]:
    """Return who may be alive, of the holders of Leases (coordination.k8s.io/v1)."""
    found = (_decoded(lease) for lease in leases)
    return [each for each in found if each.identity and not _is_gone(each, now)]


def alive(before: Iterable[Neighbour], now: Iterable[Neighbour]) -> list[Neighbour]:
    """Return who has shown to be there between two looks; a clock is not asked."""
    seen = {each.namespace: each for each in before}
    return [each for each in now if seen.get(each.namespace, each) != each]


def remedy(neighbour: Neighbour) -> str:
    """Return what is wrong with a neighbour, and what to do."""
    command = (
        f"`kubectl scale deployment -n {neighbour.namespace} {neighbour.deployment} --replicas=0`"
        if neighbour.deployment
        else f"scale its Deployment in namespace {neighbour.namespace} to 0"
    )
    return (
        f"another KMM is active: {neighbour} holds Lease {neighbour.namespace}/{LEASE}. Two would "
        f"load and unload each other's modules. Stop it ({command}), or leave it out of what "
        f"installs it (kmm.enabled=false in the AMD GPU operator's chart). {_WEBHOOKS}"
    )


def _decoded(lease: Mapping[str, Any]) -> Neighbour:
    spec = lease.get("spec") or {}
    return Neighbour(
        namespace=lease["metadata"]["namespace"],
        identity=spec.get("holderIdentity") or "",
        renewed=spec.get("renewTime") or "",
        duration=float(spec.get("leaseDurationSeconds") or 0),
    )


def _is_gone(neighbour: Neighbour, now: datetime) -> bool:
    if not neighbour.renewed:
        return False
    return now - datetime.fromisoformat(neighbour.renewed) > _GONE_AFTER
