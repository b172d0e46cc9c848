import pytest

from kmm_common.tls import PodIdentity, pod_uri
from kmm_cp.serving.identity import (
    DaemonPods,
    Identities,
    NodeIdentityError,
    UnknownPodError,
    node_of,
    outranks,
)
from kmm_cp.serving.ports import PodFacts, Refusal
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


def identities_of(world: World) -> Identities:
    return Identities(
        pods=world,
        daemons=DAEMONS,
        trust_domain=TRUST_DOMAIN,
        observer=world,
        holder=lambda node: world.holders.get(node, ""),
    )


def test_pod_speaks_for_the_node_it_is_on() -> None:
    assert node_of(IDENTITY, facts("a"), DAEMONS) == "a"


@pytest.mark.parametrize(
    ("peer", "known", "refusal"),
    [
        (identity(namespace="default"), facts("a"), Refusal.NOT_A_DAEMON),
        (
            identity(service_account="default"),
            facts("a", service_account="default"),
            Refusal.NOT_A_DAEMON,
        ),
        (identity(uid="former"), facts("a"), Refusal.EARLIER_POD),
        (IDENTITY, facts("a", service_account="default"), Refusal.OTHER_SERVICE_ACCOUNT),
        (IDENTITY, facts("a", owner=""), Refusal.OTHER_OWNER),
        (IDENTITY, facts("a", owner="DaemonSet/other"), Refusal.OTHER_OWNER),
        (IDENTITY, facts("a", deleting=True), Refusal.POD_DELETING),
        (identity(namespace="default"), None, Refusal.NOT_A_DAEMON),
    ],
)
def test_pod_that_is_no_daemon_speaks_for_no_node(
    peer: PodIdentity, known: PodFacts | None, refusal: Refusal
) -> None:
    with pytest.raises(NodeIdentityError) as caught:
        node_of(peer, known, DAEMONS)
    assert (caught.value.reason, caught.value.refusal) == ("IdentityRefused", refusal)


@pytest.mark.parametrize("known", [None, facts("a", scheduled="")])
def test_pod_that_is_not_known_yet_may_try_again(known: PodFacts | None) -> None:
    with pytest.raises(UnknownPodError):
        node_of(IDENTITY, known, DAEMONS)


def test_owner_is_not_asked_for_where_none_is_configured() -> None:
    daemons = DaemonPods(namespace=NAMESPACE, service_account=SERVICE_ACCOUNT)
    assert node_of(IDENTITY, facts("a", owner=""), daemons) == "a"


OTHER = PodIdentity(
    namespace=NAMESPACE, service_account=SERVICE_ACCOUNT, name="kmm-daemon-other", uid="other"
)
EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"


@pytest.mark.parametrize(
    ("rival", "wins"),
    [
        (facts("a", uid="other", created=LATE), True),
        (facts("a", uid="other", created=EARLY), False),
        (facts("a", uid="other", created=LATE, deleting=True), False),
        (facts("a", uid="other", created=LATE, owner="Job/x"), False),
        (facts("a", uid="another", created=LATE), False),
        (facts("a", uid="other", created=LATE, scheduled="b"), False),
        (None, False),
    ],
    ids=["newer", "as old", "going", "no daemon", "another now", "elsewhere", "gone"],
)
def test_pod_outranks_another_if_it_is_newer_and_still_the_nodes_daemon(
    rival: PodFacts | None, wins: bool
) -> None:
    assert outranks(OTHER, rival, facts("a", created=EARLY), DAEMONS) is wins


def test_refusals_are_told_and_waiting_is_not() -> None:
    world = World()
    identities = identities_of(world)
    certificate = {"subjectAltName": (("URI", pod_uri(IDENTITY, TRUST_DOMAIN)),)}
    with pytest.raises(UnknownPodError):
        identities.identify(certificate)
    assert world.refusals == []
    world.pods[IDENTITY.name] = facts("a", deleting=True)
    for shown in (certificate, {}, None):
        with pytest.raises(NodeIdentityError):
            identities.identify(shown)
    assert world.refusals == [Refusal.POD_DELETING, Refusal.NO_POD, Refusal.NO_POD]
    world.pods[IDENTITY.name] = facts("a")
    assert identities.identify(certificate) == (IDENTITY, "a")


@pytest.mark.parametrize(
    ("known", "valid", "refusal"),
    [
        (facts("a"), 60.0, None),
        (facts("a"), 0.0, Refusal.CERTIFICATE_EXPIRED),
        (facts("a", scheduled="b"), 60.0, Refusal.POD_MOVED),
        (facts("a", uid="another"), 60.0, Refusal.EARLIER_POD),
        (facts("a", deleting=True), 60.0, Refusal.POD_DELETING),
    ],
    ids=["as before", "expired", "moved", "made anew", "deleted"],
)
def test_session_is_confirmed_as_long_as_its_pod_speaks_for_its_node(
    known: PodFacts, valid: float, refusal: Refusal | None
) -> None:
    world = World()
    world.pods[IDENTITY.name] = known
    identities = identities_of(world)
    if refusal is None:
        identities.confirm(IDENTITY, "a", valid=valid)
        assert world.refusals == []
        return
    with pytest.raises(NodeIdentityError):
        identities.confirm(IDENTITY, "a", valid=valid)
    assert world.refusals == [refusal]
