"""Which node a peer speaks for: its certificate names a pod, the pod's spec names the node."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kmm_common.errors import TerminalError, TransientError
from kmm_common.tls import PeerIdentityError, PodIdentity, pod_identity
from kmm_cp.serving.ports import Observer, PodFacts, Pods


class NodeIdentityError(TerminalError):
    """The peer is not the daemon of any node."""


class UnknownPodError(TransientError):
    """The pod is not in the cache, perhaps not yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonPods:
    """Which pods are daemons."""

    namespace: str
    service_account: str
    owner: str = ""
    """kind/name of their controller; empty where anything may have made them."""


def node_of(identity: PodIdentity, facts: PodFacts | None, daemons: DaemonPods) -> str:
    """Return the node a pod's certificate speaks for. NodeIdentityError or UnknownPodError."""
    expected = (daemons.namespace, daemons.service_account)
    if (identity.namespace, identity.service_account) != expected:
        raise _refused("its certificate is not that of a daemon")
    if facts is None:
        raise UnknownPodError("the pod of the certificate is not known; try again")
    if facts.uid != identity.uid:
        raise _refused("its certificate is that of an earlier pod")
    if facts.service_account != identity.service_account:
        raise _refused("its pod has another service account")
    if daemons.owner and facts.owner != daemons.owner:
        raise _refused(f"its pod does not belong to {daemons.owner}")
    if facts.deleting:
        raise _refused("its pod is being deleted")
    if not facts.node:
        raise UnknownPodError("the pod of the certificate is on no node yet; try again")
    return facts.node


class Identities:
    """Tells for every call which node it comes from."""

    def __init__(
        self, *, pods: Pods, daemons: DaemonPods, trust_domain: str, observer: Observer
    ) -> None:
        self._pods = pods
        self._daemons = daemons
        self._trust_domain = trust_domain
        self._observer = observer

    def identify(self, certificate: Mapping[str, Any] | None) -> tuple[PodIdentity, str]:
        """Return pod and node of a peer. NodeIdentityError or UnknownPodError."""
        try:
            identity = pod_identity(certificate, self._trust_domain)
        except PeerIdentityError as error:
            self._observer.refused(None, str(error))
            raise _refused(str(error)) from error
        return identity, self.node(identity)

    def node(self, identity: PodIdentity) -> str:
        """Return the node of a pod as of now. NodeIdentityError or UnknownPodError."""
        facts = self._pods.lookup(identity.namespace, identity.name)
        try:
            return node_of(identity, facts, self._daemons)
        except NodeIdentityError as error:
            self._observer.refused(identity, str(error))
            raise


def _refused(reason: str) -> NodeIdentityError:
    return NodeIdentityError(f"not a daemon of this cluster: {reason}", reason="IdentityRefused")
