"""Who is given a certificate, and how often; what a real API server says is tested with one."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from kmm_common.errors import TransientError
from kmm_cp.serving.authority import turned
from kmm_cp.serving.enrolment import (
    BURST,
    REFILL_SECONDS,
    Buckets,
    Enrolment,
    EnrolRequest,
    TooManyRequestsError,
    admitted,
)
from kmm_cp.serving.identity import DaemonPods, NodeIdentityError, UnknownPodError
from kmm_cp.serving.issue import RequestError
from kmm_cp.serving.ports import PodFacts, Refusal, Review
from kmm_cp.serving.token import AUDIENCE, TokenError
from support.certificates import NAMESPACE, SERVICE_ACCOUNT, pod_of
from support.serving import World, facts
from support.tokens import unsigned
from support.virtualclock import START, VirtualClock

POD = pod_of("a")
DAEMONS = DaemonPods(
    namespace=NAMESPACE, service_account=SERVICE_ACCOUNT, owner="DaemonSet/kmm-daemon"
)
USERNAME = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"


def review(**changes: object) -> Review:
    known = {
        "audiences": frozenset({AUDIENCE}),
        "username": USERNAME,
        "pod": POD.name,
        "pod_uid": POD.uid,
    }
    return Review(**{**known, **changes})  # type: ignore[arg-type]


def test_token_of_the_daemons_pod_speaks_for_its_node() -> None:
    assert admitted(review(), POD, facts("a"), DAEMONS) == "a"


@pytest.mark.parametrize(
    ("reviewed", "known", "error"),
    [
        (None, facts("a"), TokenError),
        (review(audiences=frozenset()), facts("a"), TokenError),
        (review(username="system:serviceaccount:ns:other"), facts("a"), TokenError),
        (review(pod=""), facts("a"), TokenError),
        (review(pod_uid="another"), facts("a"), TokenError),
        (review(), None, UnknownPodError),
        (review(), facts("a", uid="former"), UnknownPodError),
        (review(), facts("a", scheduled=""), UnknownPodError),
        (review(), facts("a", owner="Job/x"), NodeIdentityError),
        (review(), facts("a", owner=""), NodeIdentityError),
        (review(), facts("a", deleting=True), NodeIdentityError),
        (review(), facts("a", service_account="other"), NodeIdentityError),
    ],
)
def test_nobody_else_is_admitted(
    reviewed: Review | None, known: PodFacts | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        admitted(reviewed, POD, known, DAEMONS)


async def test_bucket_of_a_pod_empties_and_fills_again_and_is_its_own() -> None:
    clock = VirtualClock()
    buckets = Buckets(clock)
    for _ in range(BURST):
        buckets.take("one")
    with pytest.raises(TooManyRequestsError) as caught:
        buckets.take("one")
    assert caught.value.retry_after == REFILL_SECONDS
    buckets.take("other")
    await clock.advance(REFILL_SECONDS)
    buckets.take("one")
    with pytest.raises(TooManyRequestsError):
        buckets.take("one")


class Tokens:
    """The API server's answer, and how often it was asked."""

    def __init__(self, answer: Review | None) -> None:
        self.answer = answer
        self.asked = 0

    async def review(self, token: str) -> Review | None:
        self.asked += 1
        return self.answer


def enrolment(world: World, tokens: Tokens, *, ready: bool = True) -> Enrolment:
    signer = turned(None, now=START, leaf=timedelta(days=1)).current
    return Enrolment(
        pods=world,
        tokens=tokens,
        daemons=DAEMONS,
        signer=lambda: signer,
        trust_domain="kmm.test",
        host="kmm-daemon.test",
        life=timedelta(days=1),
        ready=lambda: ready,
        observer=world,
        clock=VirtualClock(),
    )


def asked(**pod: str) -> EnrolRequest:
    bound = {
        "namespace": NAMESPACE,
        "serviceaccount": {"name": pod.get("account", SERVICE_ACCOUNT)},
        "pod": {"name": pod.get("name", POD.name), "uid": pod.get("uid", POD.uid)},
    }
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256())
    text = unsigned({"aud": AUDIENCE, "exp": 2**33, "kubernetes.io": bound})
    return EnrolRequest(token=text, csr=csr.public_bytes(Encoding.PEM))


async def test_certificate_names_the_pod_that_the_api_server_names() -> None:
    world, tokens = World(pods={POD.name: facts("a")}), Tokens(review())
    pem = await enrolment(world, tokens).enrol(asked())
    names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    uri = f"spiffe://kmm.test/ns/{NAMESPACE}/sa/{SERVICE_ACCOUNT}/pod/{POD.name}/{POD.uid}"
    assert list(names.value) == [
        x509.UniformResourceIdentifier(uri),
        x509.DNSName("kmm-daemon.test"),
    ]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": "unknown"}, UnknownPodError),
        ({"uid": "former"}, UnknownPodError),
        ({"account": "default"}, TokenError),
    ],
)
async def test_api_server_is_asked_for_nothing_but_daemons_pods_that_there_are(
    changes: dict[str, str], error: type[Exception]
) -> None:
    world, tokens = World(pods={POD.name: facts("a")}), Tokens(review())
    with pytest.raises(error):
        await enrolment(world, tokens).enrol(asked(**changes))
    assert tokens.asked == 0


async def test_pod_that_is_no_daemons_is_told_with_the_pod() -> None:
    world, tokens = World(pods={POD.name: facts("a", owner="Job/x")}), Tokens(review())
    with pytest.raises(NodeIdentityError):
        await enrolment(world, tokens).enrol(asked())
    assert world.refusals == [Refusal.OTHER_OWNER]


async def test_parser_of_requests_is_behind_the_token() -> None:
    world, tokens = World(pods={POD.name: facts("a")}), Tokens(None)
    request = EnrolRequest(token=asked().token, csr=b"anything")
    with pytest.raises(TokenError):
        await enrolment(world, tokens).enrol(request)
    tokens.answer = review()
    with pytest.raises(RequestError):
        await enrolment(world, tokens).enrol(request)


async def test_nobody_is_enrolled_before_the_pods_are_known() -> None:
    with pytest.raises(TransientError, match="not serving now"):
        await enrolment(World(), Tokens(review()), ready=False).enrol(asked())
