"""The half that every replica runs: what daemons talk to."""

from dataclasses import dataclass

from kmm_common.clock import Clock
from kmm_common.tls import ServerTls, TlsFiles
from kmm_cp.kube.client import KubeClient
from kmm_cp.kube.informer import Change
from kmm_cp.policy.values import NodeState
from kmm_cp.roles.adapters import (
    ConfigMapWriter,
    PodCache,
    SecretReader,
    StateReader,
    target_of,
)
from kmm_cp.roles.caches import SERVED_LABELS, Caches
from kmm_cp.roles.leases import ReplicaLeases
from kmm_cp.serving.credentials import PullCredentials
from kmm_cp.serving.fragments import Fragments
from kmm_cp.serving.identity import DaemonPods, Identities
from kmm_cp.serving.listener import Listener
from kmm_cp.serving.notifier import Notifier
from kmm_cp.serving.ports import Observer
from kmm_cp.serving.presence import Presence
from kmm_cp.serving.sender import Sender
from kmm_cp.serving.served import Served
from kmm_cp.serving.service import NodeLink
from kmm_cp.serving.sessions import Sessions
from kmm_cp.serving.status import StatusWriter
from kmm_cp.serving.turns import Turns
from kmm_cp.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What a replica runs to serve daemons."""

    sessions: Sessions
    listener: Listener
    status: StatusWriter
    served: Served
    presence: Presence


def serving(
    client: KubeClient,
    caches: Caches,
    observer: Observer,
    *,
    settings: Settings,
    replica: str,
    clock: Clock,
) -> Serving:
    """Build everything and connect it to the informers; nothing runs yet."""
    sessions = Sessions(clock=clock, observer=observer)
    status = StatusWriter(api=client, clock=clock)
    _listen(caches, Notifier(sessions), status)
    states = StateReader(client, caches.states.store)
    service = NodeLink(
        identities=_identities(caches, observer, settings),
        sessions=sessions,
        sender=Sender(
            states=states,
            claims=status,
            fragments=Fragments(),
            observer=observer,
            clock=clock,
            turns=Turns(),
        ),
        reports=status,
        credentials=PullCredentials(states=states, secrets=SecretReader(client), clock=clock),
        ready=lambda: all(cache.synced.is_set() for cache in caches.all()),
        clock=clock,
    )
    served = Served(
        replica=replica,
        sessions=sessions,
        config_maps=ConfigMapWriter(
            client=client, namespace=settings.namespace, labels=SERVED_LABELS
        ),
        clock=clock,
    )
    caches.history.follow(served.renew)
    beats = ReplicaLeases(client=client, namespace=settings.namespace, replica=replica, clock=clock)
    files = TlsFiles(cert=settings.tls.cert, key=settings.tls.key, ca=settings.tls.ca)
    return Serving(
        sessions=sessions,
        listener=Listener(
            settings.listen,
            service=service,
            sessions=sessions,
            server_tls=ServerTls(files),
            observer=observer,
            clock=clock,
        ),
        status=status,
        served=served,
        presence=Presence(beats=beats, served=served, clock=clock),
    )


def daemon_pods(settings: Settings) -> DaemonPods:
    """Return which pods are daemons."""
    return DaemonPods(
        namespace=settings.namespace,
        service_account=settings.daemon_service_account,
        owner=f"DaemonSet/{settings.daemon_daemonset}" if settings.daemon_daemonset else "",
    )


def _identities(caches: Caches, observer: Observer, settings: Settings) -> Identities:
    return Identities(
        pods=PodCache(caches.pods.store),
        daemons=daemon_pods(settings),
        trust_domain=settings.trust_domain,
        observer=observer,
        holder=lambda node: _holder(caches.states.store.get(node)),
    )


def _holder(state: NodeState | None) -> str:
    """Return the pod that has a node's session, with whichever replica, as persisted."""
    return state.daemon.pod_name if state and state.daemon.connected else ""


def _listen(caches: Caches, notifier: Notifier, status: StatusWriter) -> None:
    def changed(change: Change[NodeState]) -> None:
        old, new = change.old, change.new
        if new is None:
            if old is not None:
                notifier.deleted(change.key, uid=old.uid)
            return
        before, now = target_of(old), target_of(new)
        if now is not None and now != before:
            notifier.changed(change.key, before, now)
        status.observed(change.key, new.uid, new.status, listed=not change.fresh)

    caches.states.add_handler(changed)
