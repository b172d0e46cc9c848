"""The control plane that every test above unit stands on."""

import json

import pytest

from kmm_sandbox.errors import SandboxError
from kmm_sandbox.manifests import Kubectl
from support.cluster import Cluster


def test_user_without_a_role_is_refused(kubernetes: Cluster) -> None:
    kubectl = Kubectl(
        program=kubernetes.kubectl.program, kubeconfig=kubernetes.kubeconfig_for("nobody")
    )
    with pytest.raises(SandboxError, match='User "nobody" cannot list resource "nodes"'):
        kubectl("get", "nodes")


def test_write_is_in_the_audit_log_when_it_was_made(kubernetes: Cluster) -> None:
    body = {"metadata": {"name": "audited"}}
    kubernetes.api.create("/api/v1/namespaces/default/configmaps", body)
    lines = map(json.loads, kubernetes.audit_log.read_text().splitlines())
    verbs = [
        line["verb"]
        for line in lines
        if line.get("objectRef", {}).get("name") == "audited"
        and line["user"]["username"] == "admin"
    ]
    assert verbs == ["create"]


def test_version_is_one_that_clients_can_parse(kubernetes: Cluster) -> None:
    version = json.loads(kubernetes.kubectl("version", "-o", "json"))["serverVersion"]
    assert version["gitVersion"].startswith(f"v{version['major']}.{version['minor']}.")
