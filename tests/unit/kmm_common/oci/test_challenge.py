import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.oci.challenge import FetchToken, GiveUp, SendBasic, answer
from kmm_common.oci.credentials import RegistryCredential
from kmm_common.oci.destination import refusal

ROBOT = RegistryCredential(registry="r.example", username="robot", password="hunter2")
URL = "https://r.example"
BEARER = 'Bearer realm="https://auth.example/token",service="r",scope="repository:a/m:pull,push"'


@pytest.mark.parametrize("credential", [ROBOT, None])
@pytest.mark.parametrize("sent", ["", "Bearer stale"])
def test_a_bearer_challenge_is_answered_with_a_fresh_token(credential, sent):
    assert answer(BEARER, url=URL, sent=sent, credential=credential) == FetchToken(
        realm="https://auth.example/token", service="r", scope="repository:a/m:pull,push"
    )


def test_a_basic_challenge_is_answered_once():
    first = answer('Basic realm="x"', url=URL, sent="", credential=ROBOT)
    assert isinstance(first, SendBasic)
    assert first.header == "Basic cm9ib3Q6aHVudGVyMg=="
    assert "cm9ib3Q" not in repr(first)
    again = answer('Basic realm="x"', url=URL, sent=first.header, credential=ROBOT)
    assert again == GiveUp(message="the registry refuses the user name or the password")


def test_bearer_is_preferred_where_both_are_offered():
    both = f'Basic realm="Bearer, basic", {BEARER}'
    assert isinstance(answer(both, url=URL, sent="", credential=ROBOT), FetchToken)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Negotiate",
        "Bearer",
        'Bearer realm=""',
        'Bearer realm="auth"',
        'Bearer realm="file:///x"',
        'Bearer realm="https://[x"',
    ],
)
def test_there_is_no_answer_to_what_is_not_understood(header):
    assert isinstance(answer(header, url=URL, sent="", credential=ROBOT), GiveUp)


def test_a_password_is_needed_for_basic():
    assert isinstance(answer("Basic", url=URL, sent="", credential=None), GiveUp)


def test_a_token_is_not_fetched_over_plain_http_for_a_registry_with_tls():
    header = BEARER.replace("https://auth", "http://auth")
    decision = answer(header, url=URL, sent="", credential=ROBOT)
    assert isinstance(decision, GiveUp)
    assert "plain HTTP" in decision.message


@given(st.text(max_size=300))
def test_any_header_gets_an_answer(header):
    assert answer(header, url=URL, sent="", credential=ROBOT) is not None


DESTINATIONS = {
    "another host": (URL, "https://cdn.example/blob", True),
    "another port of the host": ("http://r.example:5000", "http://r.example:5001/", True),
    "from plain to tls": ("http://r.example", "https://cdn.example/", True),
    "loopback by loopback": ("http://127.0.0.1:1", "http://localhost:2/", True),
    "a metadata host on itself": ("http://169.254.1.1", "http://169.254.1.1/v2/", True),
    "from tls to plain": (URL, "http://cdn.example/", False),
    "metadata": (URL, "https://169.254.169.254/", False),
    "metadata by name": (URL, "https://metadata.google.internal/", False),
    "metadata in IPv6": (URL, "https://[fe80::1]/", False),
    "metadata as IPv4 in IPv6": (URL, "https://[::ffff:169.254.169.254]/", False),
    "loopback": (URL, "https://127.0.0.1/", False),
    "loopback by name": (URL, "https://localhost/", False),
    "nowhere": (URL, "https://0.0.0.0/", False),
    "a file": (URL, "file:///etc/shadow", False),
    "no address": (URL, "https://[x", False),
    "nothing": (URL, "", False),
}


@pytest.mark.parametrize(("origin", "target", "allowed"), DESTINATIONS.values(), ids=DESTINATIONS)
def test_a_registry_cannot_send_us_where_only_the_node_gets(origin, target, allowed):
    assert (refusal(origin=origin, target=target) == "") is allowed
