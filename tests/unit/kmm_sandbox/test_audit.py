"""What counts as a write for a node or a Module."""

import json

from kmm_sandbox.audit import counted
from kmm_sandbox.programs import USER


def line(verb: str, resource: str, name: str = "x", *, code: int = 201) -> str:
    return json.dumps(
        {
            "verb": verb,
            "stage": "ResponseComplete",
            "user": {"username": USER},
            "objectRef": {"resource": resource, "name": name},
            "responseStatus": {"code": code},
        }
    )


def test_what_a_replica_says_of_itself_counts_apart() -> None:
    lines = [
        line("create", "events", "node1.0123456789abcdef"),
        line("create", "events", "kmm-cp.0123456789abcdef"),
        line("update", "leases", "kmm-cp"),
        line("patch", "nodes", "node1", code=409),
        '{"cut": ',
    ]
    writes = counted(lines, nodes=1, modules=1)
    assert writes.by_kind == {"create events": 1}
    assert writes.apart == {"create events": 1, "update leases": 1}
    assert writes.in_vain == {"patch nodes": 1}
    assert writes.per_pair == 1.0
