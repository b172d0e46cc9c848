import base64
import json

import pytest

from kmm_common.errors import TerminalError
from kmm_common.oci.credentials import RegistryCredential, credential_for, credentials_of_secret
from kmm_common.oci.reference import parse_reference

MATCHES = {
    "the host": (["r.example"], "r.example/a/m", "r.example"),
    "the longest path": (
        ["r.example", "r.example/a", "r.example/a/m"],
        "r.example/a/m",
        "r.example/a/m",
    ),
    "a path by whole parts": (["r.example/te", "r.example"], "r.example/team/m", "r.example"),
    "no other path": (["r.example/b"], "r.example/a/m", None),
    "no other host": (["q.example"], "r.example/m", None),
    "no other port": (["r.example:5000"], "r.example/m", None),
    "the port": (["r.example", "r.example:5000"], "r.example:5000/m", "r.example:5000"),
    "a key with a scheme": (["https://r.example"], "r.example/m", "https://r.example"),
    "a key with an api": (["https://r.example/v2/"], "r.example/m", "https://r.example/v2/"),
    "docker's own key": (["https://index.docker.io/v1/"], "m", "https://index.docker.io/v1/"),
    "docker by name": (["docker.io/team"], "team/m", "docker.io/team"),
    "a wildcard": (["*.example"], "r.example/m", "*.example"),
    "a wildcard for one part only": (["*.example"], "a.b.example/m", None),
    "a name before a wildcard": (["*.example", "r.example"], "r.example/m", "r.example"),
    "a path before a name": (["r.example", "*.example/a"], "r.example/a/m", "*.example/a"),
    "nothing": ([], "r.example/m", None),
}


@pytest.mark.parametrize(("keys", "image", "chosen"), MATCHES.values(), ids=MATCHES)
def test_the_credential_with_the_longest_match_is_chosen(keys, image, chosen):
    credentials = [RegistryCredential(registry=key) for key in keys]
    found = credential_for(credentials, parse_reference(image))
    assert (found.registry if found else None) == chosen


def test_a_credential_shows_no_secret():
    credential = RegistryCredential(
        registry="r.example", username="u", password="hunter2", identity_token="t0ken"
    )
    assert repr(credential) == str(credential)
    assert "hunter2" not in repr(credential)
    assert "t0ken" not in repr(credential)


def secret(auths: object) -> dict[str, bytes]:
    return {".dockerconfigjson": json.dumps({"auths": auths}).encode()}


def encoded(pair: str) -> str:
    return base64.b64encode(pair.encode()).decode()


def test_entries_are_read_in_all_their_forms():
    found = credentials_of_secret(
        "team/pull",
        secret(
            {
                "a": {"auth": encoded("user:pass:word")},
                "b": {"username": "user", "password": "pass"},
                "c": {"identitytoken": "token"},
                "d": {"auth": encoded("new:er"), "username": "old", "password": "old"},
            }
        ),
    )
    assert [(one.username, one.password, one.identity_token) for one in found] == [
        ("user", "pass:word", ""),
        ("user", "pass", ""),
        ("", "", "token"),
        ("new", "er", ""),
    ]


def test_the_old_format_is_read():
    data = {".dockercfg": json.dumps({"a": {"auth": encoded("u:p")}}).encode()}
    assert credentials_of_secret("team/pull", data)[0].password == "p"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {".dockerconfigjson": b"hunter2"},
        {".dockerconfigjson": b'["hunter2"]'},
        secret(["hunter2"]),
        secret({"a": "hunter2"}),
        secret({"a": {"auth": "hunter2!"}}),
        {".dockercfg": b"\xff hunter2"},
    ],
)
def test_a_broken_secret_is_named_and_not_quoted(data):
    with pytest.raises(TerminalError, match="Secret team/pull") as caught:
        credentials_of_secret("team/pull", data)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
