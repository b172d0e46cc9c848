"""Kubeconfigs that are of no use are told so, without what is secret in them."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from kmm_common.errors import TerminalError
from kmm_cp.kube.client import KubeClient
from kmm_sandbox.kubeconfig import write_kubeconfig
from kmm_sandbox.pki import Authority, Identity

URL = "https://127.0.0.1:1"


def kubeconfig(
    *, cluster: object = None, user: object = None, **fields: object
) -> dict[str, object]:
    """Return one that is whole but for what the test gives."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": URL} if cluster is None else cluster}],
        "users": [{"name": "u", "user": {"token": "secret"} if user is None else user}],
        **fields,
    }


async def refused(path: Path) -> str:
    with pytest.raises(TerminalError) as caught:
        await KubeClient.connect(path, user_agent="test", field_manager="test")
    assert caught.value.reason == "InvalidSettings"
    told = str(caught.value)
    assert told.startswith(f"kubeconfig {path}: ")
    return told


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "there is no such file"),
        (b"apiVersion: v1\nkind: Config\n", "current-context"),
        (b"", "of its type"),
        (b"- a list", "of its type"),
        (b"{", "flow"),
        (b"\xff\xfe\xff", "UTF-8"),
    ],
    ids=["none", "no context", "empty", "list", "no YAML", "no text"],
)
async def test_file_that_is_no_kubeconfig_is_named(
    tmp_path: Path, content: bytes | None, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_bytes(content)
    assert problem in await refused(path)
    assert caplog.messages == [], "one line is enough"


DATA = {"server": URL, "certificate-authority-data": "aGVsbG8="}
PAIR = {"client-certificate-data": "aGVsbG8=", "client-key-data": "aGVsbG8="}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"cluster": {}}, "a cluster needs a server"),
        ({"cluster": {"insecure-skip-tls-verify": True}}, "the cluster's server is ''"),
        ({"cluster": {"server": "api.example"}}, "'api.example', no URL such as https://"),
        ({"cluster": {"server": 3}}, "not of its type"),
        ({"cluster": {"server": URL, "certificate-authority": "/none"}}, "/none"),
        ({"cluster": DATA}, "is no PEM"),
        ({"cluster": {**DATA, "certificate-authority-data": "abc"}}, "-data is no base64"),
        ({"user": PAIR}, "client-key"),
        ({"clusters": 3}, "clusters, contexts and users are lists"),
        ({"users": [{"name": "u", "token": "secret"}]}, "Expected key user in"),
        ({"users": [{"user": {"token": "secret"}}]}, "to have 'name' key"),
        ({"users": []}, "clusters, contexts and users are lists"),
    ],
    ids=str,
)
async def test_field_that_is_of_no_use_is_named_and_no_secret_told(
    tmp_path: Path, fields: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(kubeconfig(**fields)))
    told = await refused(path)
    assert problem in told
    assert "secret" not in told.removeprefix(f"kubeconfig {path}")


async def test_key_in_a_kubeconfig_is_left_in_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, scratch = Authority("test"), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    path = write_kubeconfig(
        tmp_path / "kubeconfig",
        server="https://127.0.0.1:1",
        ca_pem=authority.credential.cert_pem,
        user="kmm-cp",
        credential=authority.issue(Identity(common_name="kmm-cp", client=True)),
    )
    for _ in range(2):
        client = await KubeClient.connect(path, user_agent="test", field_manager="test")
        await client.close()
        assert list(scratch.iterdir()) == []


async def test_pod_without_a_service_account_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(TerminalError, match="in cluster"):
        await KubeClient.connect(None, user_agent="test", field_manager="test")
