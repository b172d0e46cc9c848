"""How requests are held against the rights that are shipped."""

import json
from pathlib import Path
from typing import Any

import pytest

from kmm_sandbox.programs import USER
from support import rights
from support.rights import Call, Right

NODES = Right("cp", "*", "nodes", "list")
PODS = Right("cp", "ours", "pods", "watch")
SECRETS = Right("pull", "bound", "secrets", "get")
LABEL = Right("kmm-cp-leader", "*", "nodes", "patch")
LEASE = Right("cp", "*", "leases.coordination.k8s.io", "list", ("one",))


AT = "2026-01-01T00:00:00.000000Z"


def line(
    verb: str, resource: str, *, code: int = 200, uri: str = "/", at: str = AT, **target: str
) -> str:
    event: dict[str, Any] = {
        "auditID": f"{verb}{resource}{target}",
        "verb": verb,
        "requestReceivedTimestamp": at,
        "user": {"username": USER},
        "userAgent": "kmm-cp",
        "requestURI": uri,
        "objectRef": {"resource": resource, **target},
        "responseStatus": {"code": code},
    }
    return json.dumps(event)


@pytest.mark.parametrize(
    ("right", "call", "covered"),
    [
        (NODES, Call("list", "nodes", "", "", True), True),
        (NODES, Call("watch", "nodes", "", "", True), False),
        (NODES, Call("list", "nodes/status", "", "", True), False),
        (PODS, Call("watch", "pods", "ours", "", True), True),
        (PODS, Call("watch", "pods", "theirs", "", True), False),
        (PODS, Call("watch", "pods", "", "", True), False),
        (SECRETS, Call("get", "secrets", "theirs", "s", True), True),
        (LEASE, Call("list", LEASE.resource, "", "one", True), True),
        (LEASE, Call("list", LEASE.resource, "", "", True), False),
        (LABEL, Call("patch", "nodes", "", "a", True, leads=True), True),
        (LABEL, Call("patch", "nodes", "", "a", True, leads=False), False),
    ],
)
def test_a_right_covers_its_verb_and_resource_where_it_is_bound(
    right: Right, call: Call, covered: bool
) -> None:
    assert right.covers(call) is covered


def test_requests_are_read_from_the_audit_log_once_each() -> None:
    selected = "/apis/x?fieldSelector=metadata.name%3Done&watch=1"
    lines = [
        line("patch", "nodes", subresource="status", name="a"),
        line("patch", "nodes", subresource="status", name="a"),
        line("list", "leases", apiGroup="coordination.k8s.io", uri=selected),
        line("get", "secrets", namespace="n", name="s", code=403),
        line("get", "secrets").replace(USER, "somebody"),
        line("list", "secrets").replace('"kmm-cp"', '"kubectl"'),
        line("patch", "nodes").replace('"kmm-cp"', '"kmm-cp-leader"'),
        json.dumps({"user": {"username": USER}, "requestURI": "/version"}),
        '{"half',
    ]
    made = rights.calls(lines)
    assert made == [
        Call("patch", "nodes/status", "", "a", True),
        Call("list", "leases.coordination.k8s.io", "", "one", True),
        Call("get", "secrets", "n", "s", False),
        Call("patch", "nodes", "", "", True),
    ]
    assert [call.leads for call in made] == [False, False, False, True]


def test_an_api_server_that_has_just_started_refuses_nobody_for_good() -> None:
    starts = line("get", "clusterroles", at="2026-01-01T00:00:10.5Z")
    lines = [
        line("list", "nodes", code=403, at="2026-01-01T00:00:09.9Z"),
        starts.replace(USER, "system:apiserver"),
        line("list", "pods", code=403, at="2026-01-01T00:00:12Z"),
        line("list", "secrets", code=403, at="2026-01-01T00:02:00Z"),
        line("list", "modules", at="2026-01-01T00:00:13Z"),
    ]
    assert [call.resource for call in rights.calls(lines)] == ["secrets", "modules"]


def test_what_is_unused_beyond_or_refused_is_told_and_what_a_test_meant_is_not() -> None:
    shipped = [NODES, PODS]
    meant = Call("get", "secrets", "n", "s", False)
    refused = Call("delete", "nodes", "", "a", False)
    made = [
        Call("list", "nodes", "", "", True),
        Call("get", "nodes", "", "a", True),
        meant,
        refused,
    ]
    use = rights.use_of(made, shipped, [meant])
    assert rights.problems(use, shipped) == [
        "never used, take it out: cp, ours: watch pods",
        "allowed, though no shipped rule does: get nodes /a (1)",
        "forbidden, and no test meant it: delete nodes /a (1)",
    ]
    assert "      1 cp: list nodes" in rights.table(use, shipped)


def test_what_clusters_leave_is_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(rights.COLLECTED, raising=False)
    log = tmp_path / "audit.log"
    log.write_text(line("list", "nodes") + "\n")
    rights.leave(log)
    monkeypatch.setenv(rights.COLLECTED, str(tmp_path))
    rights.leave(log)
    rights.leave(log)
    assert rights.collected(tmp_path).used == {"kmm-cp: list nodes": 2}


def test_manifest_lets_secrets_be_listed_by_nobody_and_read_for_the_cluster_by_nobody() -> None:
    shipped = rights.rights()
    on_secrets = [right for right in shipped if right.resource == "secrets"]
    assert not [right for right in on_secrets if right.namespace == "*"]
    assert not {right.verb for right in on_secrets} & {"list", "watch", "create"}
    assert {right.verb for right in on_secrets if not right.names} == {"get"}
    assert not [right for right in shipped if "*" in (right.verb, right.resource)]


def test_enrolment_gives_one_secret_of_our_own_namespace_and_none_to_create() -> None:
    shipped = rights.rights(rights.ENROLMENT)
    secrets = [right for right in shipped if right.resource == "secrets"]
    assert {(one.namespace, one.names) for one in secrets} == {("kmm-operator-system", ("kmm-ca",))}
    assert {right.verb for right in secrets} == {"get", "update"}
    (other,) = [right for right in shipped if right not in secrets]
    assert str(other) == "kmm-cp-enrolment: create tokenreviews.authentication.k8s.io"
