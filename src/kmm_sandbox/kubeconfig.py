"""Kubeconfig files that carry their certificates with them."""

import base64
from pathlib import Path

import yaml

from kmm_sandbox.pki import Credential, write_secret


def kubeconfig(*, server: str, ca_pem: bytes, user: str, credential: Credential) -> str:
    """Return the text of a kubeconfig for one user of one cluster."""
    cluster = {"server": server, "certificate-authority-data": _base64(ca_pem)}
    login = {
        "client-certificate-data": _base64(credential.cert_pem),
        "client-key-data": _base64(credential.key_pem),
    }
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sandbox", "cluster": cluster}],
            "users": [{"name": user, "user": login}],
            "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": user}}],
            "current-context": "sandbox",
        },
        sort_keys=False,
    )


def write_kubeconfig(
    path: Path, *, server: str, ca_pem: bytes, user: str, credential: Credential
) -> Path:
    """Write a kubeconfig that only its owner can read; return its path."""
    text = kubeconfig(server=server, ca_pem=ca_pem, user=user, credential=credential)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_secret(path, text.encode())
    return path


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
