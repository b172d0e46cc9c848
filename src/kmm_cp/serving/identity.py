"""Which node a peer speaks for: its certificate names a pod, the pod's spec names the node."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kmm_common.errors import TerminalError, TransientError
from kmm_common.tls import PeerIdentityError, PodIdentity, pod_identity
from kmm_cp.serving.ports import Observer, PodFacts, Pods, Refusal


class NodeIdentityError(TerminalError):
    """The peer is not the daemon of any node."""

    def __init__(self, refusal: Refusal, why: str) -> None:
        super().__init__(f"not a daemon of this cluster: {why}", reason="IdentityRefused")
        self.refusal = refusal


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
        raise NodeIdentityError(Refusal.NOT_A_DAEMON, "its certificate is not that of a daemon")
    if facts is None:
        raise UnknownPodError("the pod of the certificate is not known; try again")
    if facts.uid != identity.uid:
        raise NodeIdentityError(Refusal.EARLIER_POD, "its certificate is that of an earlier pod")
    if facts.service_account != identity.service_account:
        raise NodeIdentityError(
            Refusal.OTHER_SERVICE_ACCOUNT, "its pod has another service account"
        )
    if daemons.owner and facts.owner != daemons.owner:
        raise NodeIdentityError(Refusal.OTHER_OWNER, f"its pod does not belong to {daemons.owner}")
    if facts.deleting:
        raise NodeIdentityError(Refusal.POD_DELETING, "its pod is being deleted")
    if not facts.node:
        raise UnknownPodError("the pod of the certificate is on no node yet; try again")
    return facts.node


def outranks(
    rival: PodIdentity, theirs: PodFacts | None, ours: PodFacts, daemons: DaemonPods
) -> bool:
    """Tell whether a rival is a newer pod than ours, and still the daemon of our node."""
    try:
        same_node = node_of(rival, theirs, daemons) == ours.node
    except (NodeIdentityError, UnknownPodError):
        return False
    return theirs is not None and same_node and theirs.created > ours.created


class Identities:
    """Tells for every call which node it comes from."""

    def __init__(
        self,
        *,
        pods: Pods,
        daemons: DaemonPods,
        trust_domain: str,
        observer: Observer,
        holder: Callable[[str], str],
    ) -> None:
        """`holder` returns the pod that is said to have a node's session; empty for none."""
        self._pods = pods
        self._daemons = daemons
        self._trust_domain = trust_domain
        self._observer = observer
        self._holder = holder

    def identify(self, certificate: Mapping[str, Any] | None) -> tuple[PodIdentity, str]:
        """Return pod and node of a peer. NodeIdentityError or UnknownPodError."""
        try:
            identity = pod_identity(certificate, self._trust_domain)
        except PeerIdentityError as error:
            refused = NodeIdentityError(Refusal.NO_POD, str(error))
            self._tell(None, refused)
            raise refused from error
        return identity, self._node(identity)

    def confirm(self, identity: PodIdentity, node: str, *, valid: float) -> None:
        """Raise as identify() if a pod must not speak for a node any more.

        `valid` is how many seconds its certificate is still good for.
        """
        if valid <= 0:
            why, refusal = "the certificate has expired", Refusal.CERTIFICATE_EXPIRED
        elif self._node(identity) != node:
            why, refusal = "the pod is on another node", Refusal.POD_MOVED
        else:
            return
        refused = NodeIdentityError(refusal, why)
        self._tell(identity, refused)
        raise refused

    def require_newest(self, identity: PodIdentity, node: str, *, here: PodIdentity | None) -> None:
        """Raise NodeIdentityError if another pod of the node is newer, and has its session.

        `here` is who has it with this replica; who has it with another one is asked for.
        """
        ours = self._pods.lookup(identity.namespace, identity.name)
        for rival in (here, self._elsewhere(node)):
            if ours is None or rival is None or rival == identity:
                continue
            theirs = self._pods.lookup(rival.namespace, rival.name)
            if outranks(rival, theirs, ours, self._daemons):
                why = "a newer pod of its node has the session"
                refused = NodeIdentityError(Refusal.OLDER_POD, why)
                self._tell(identity, refused)
                raise refused

    def _elsewhere(self, node: str) -> PodIdentity | None:
        namespace, name = self._daemons.namespace, self._holder(node)
        facts = self._pods.lookup(namespace, name) if name else None
        if facts is None:
            return None
        account = self._daemons.service_account
        return PodIdentity(namespace=namespace, service_account=account, name=name, uid=facts.uid)

    def _node(self, identity: PodIdentity) -> str:
        facts = self._pods.lookup(identity.namespace, identity.name)
        try:
            return node_of(identity, facts, self._daemons)
        except NodeIdentityError as error:
            self._tell(identity, error)
            raise

    def _tell(self, identity: PodIdentity | None, error: NodeIdentityError) -> None:
        self._observer.refused(identity, error.refusal, str(error))
