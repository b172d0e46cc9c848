import pytest

from kmm_common.tls import PodIdentity, pod_uri
from kmm_cp.serving.identity import (
    DaemonPods,
    Identities,
    NodeIdentityError,
    UnknownPodError,
    node_of,
)
from kmm_cp.serving.ports import PodFacts
from kmm_sandbox.pki import TRUST_DOMAIN
from support.certificates import NAMESPACE, SERVICE_ACCOUNT, pod_of
from support.serving import World, facts

DAEMONS = DaemonPods(
    namespace=NAMESPACE, service_account=SERVICE_ACCOUNT, owner="DaemonSet/kmm-daemon"
)
IDENTITY = pod_of("a")


def identity(**changes: str) -> PodIdentity:
    known = {"namespace": NAMESPACE, "service_account": SERVICE_ACCOUNT, "name": IDENTITY.name}
    return PodIdentity(**{**known, "uid": IDENTITY.uid, **changes})


def test_pod_speaks_for_the_node_it_is_on() -> None:
    assert node_of(IDENTITY, facts("a"), DAEMONS) == "a"


@pytest.mark.parametrize(
    ("peer", "known"),
    [
        (identity(namespace="default"), facts("a")),
        (identity(service_account="default"), facts("a", service_account="default")),
        (identity(uid="former"), facts("a")),
        (IDENTITY, facts("a", service_account="default")),
        (IDENTITY, facts("a", owner="")),
        (IDENTITY, facts("a", owner="DaemonSet/other")),
        (IDENTITY, facts("a", deleting=True)),
        (identity(namespace="default"), None),
    ],
)
def test_pod_that_is_no_daemon_speaks_for_no_node(
    peer: PodIdentity, known: PodFacts | None
) -> None:
    with pytest.raises(NodeIdentityError) as caught:
        node_of(peer, known, DAEMONS)
    assert caught.value.reason == "IdentityRefused"


@pytest.mark.parametrize("known", [None, facts("a", scheduled="")])
def test_pod_that_is_not_known_yet_may_try_again(known: PodFacts | None) -> None:
    with pytest.raises(UnknownPodError):
        node_of(IDENTITY, known, DAEMONS)


def test_owner_is_not_asked_for_where_none_is_configured() -> None:
    daemons = DaemonPods(namespace=NAMESPACE, service_account=SERVICE_ACCOUNT)
    assert node_of(IDENTITY, facts("a", owner=""), daemons) == "a"


def test_refusals_are_told_and_waiting_is_not() -> None:
    world = World()
    identities = Identities(pods=world, daemons=DAEMONS, trust_domain=TRUST_DOMAIN, observer=world)
    certificate = {"subjectAltName": (("URI", pod_uri(IDENTITY, TRUST_DOMAIN)),)}
    with pytest.raises(UnknownPodError):
        identities.identify(certificate)
    assert world.refusals == []
    world.pods[IDENTITY.name] = facts("a", deleting=True)
    for shown in (certificate, {}, None):
        with pytest.raises(NodeIdentityError):
            identities.identify(shown)
    assert len(world.refusals) == 3
    world.pods[IDENTITY.name] = facts("a")
    assert identities.identify(certificate) == (IDENTITY, "a")
