"""What a token says of itself is reason enough to refuse it, whatever it is."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.tls import PodIdentity
from kmm_cp.serving.token import AUDIENCE, TokenError, claimed
from support.tokens import unsigned

NOW = 1000.0
POD = {
    "namespace": "ns",
    "serviceaccount": {"name": "sa", "uid": "1"},
    "pod": {"name": "p", "uid": "u"},
}
CLAIMS = {"aud": [AUDIENCE], "exp": 1001, "kubernetes.io": POD}


def test_token_of_a_pod_names_it() -> None:
    expected = PodIdentity(namespace="ns", service_account="sa", name="p", uid="u")
    assert claimed(unsigned(CLAIMS), now=NOW) == expected
    assert claimed(unsigned({**CLAIMS, "aud": AUDIENCE}), now=NOW) == expected


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"aud": ["https://kubernetes.default.svc"]}, "another audience"),
        ({"aud": None}, "another audience"),
        ({"exp": NOW}, "has expired"),
        ({"exp": "late"}, "has expired"),
        ({"kubernetes.io": {**POD, "pod": {}}}, "bound to no Pod"),
        ({"kubernetes.io": {**POD, "pod": {"name": "p"}}}, "bound to no Pod"),
        ({"kubernetes.io": "text"}, "bound to no Pod"),
    ],
)
def test_token_of_no_use_is_refused_with_a_remedy(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(TokenError, match=f"^token: .*{why}.*; "):
        claimed(unsigned({**CLAIMS, **changes}), now=NOW)


@given(st.one_of(st.text(max_size=80), st.binary(max_size=60).map(lambda raw: f"a.{raw!r}.b")))
def test_text_that_is_no_token_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(TokenError) as caught:
        claimed(text, now=NOW)
    assert caught.value.__cause__ is None


@given(st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5))
def test_claims_that_are_no_mapping_are_refused(claims: Any) -> None:
    with pytest.raises(TokenError):
        claimed(unsigned(claims), now=NOW)


def test_deep_claims_are_refused() -> None:
    payload = base64.urlsafe_b64encode(b"[" * 9000).decode().rstrip("=")
    with pytest.raises(TokenError):
        claimed(f"e30.{payload}.sig", now=NOW)
