"""What KMM's own requests cost, counted from the API server's audit log."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kmm_sandbox.programs import USER

VERBS = {"create", "update", "patch", "delete"}
PER_NODE = {"nodemodulesstates", "nodes", "events"}
PER_MODULE = {"modules"}
ELECTION = "kmm-cp."
"""How the name of an event begins that says who leads: with that of the Lease."""
REFUSED = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiWrites:
    """Writes that were carried out, by `verb resource`; those that cost little, apart."""

    per_pair: float
    """For each node and module; writes of Modules are divided by the nodes."""
    by_kind: Mapping[str, int] = field(default_factory=dict)
    apart: Mapping[str, int] = field(default_factory=dict)
    """Leases with the events of elections, ConfigMaps and anything else."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Refused by the API server: conflicts, mostly."""

    @property
    def in_vain(self) -> dict[str, int]:
        """Refused writes of nodes and Modules; a ConfigMap is patched before it is created."""
        resources = {name: name.split()[1].partition("/")[0] for name in self.failed}
        limited = PER_NODE | PER_MODULE
        return {name: n for name, n in self.failed.items() if resources[name] in limited}


def counted(lines: Iterable[str], *, nodes: int, modules: int, user: str = USER) -> ApiWrites:
    """Count the writes in lines of an audit log at level Metadata."""
    done: Counter[str] = Counter()
    apart: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for event in _events(lines, user):
        reference = event["objectRef"]
        parts = [reference["resource"], reference.get("subresource", "")]
        name = f"{event['verb']} {'/'.join(part for part in parts if part)}"
        if event["responseStatus"]["code"] >= REFUSED:
            failed[name] += 1
        elif reference["resource"] in PER_NODE | PER_MODULE and not _of_election(reference):
            done[name] += 1
        else:
            apart[name] += 1
    return ApiWrites(
        per_pair=_per_pair(done, nodes=nodes, modules=modules),
        by_kind=dict(sorted(done.items())),
        apart=dict(sorted(apart.items())),
        failed=dict(sorted(failed.items())),
    )


def _of_election(reference: Mapping[str, str]) -> bool:
    return reference["resource"] == "events" and reference.get("name", "").startswith(ELECTION)


def _events(lines: Iterable[str], user: str) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            # The last line may be half written.
            continue
        mine = event.get("user", {}).get("username") == user
        if mine and event["verb"] in VERBS and event["stage"] == "ResponseComplete":
            yield event


def _per_pair(done: Mapping[str, int], *, nodes: int, modules: int) -> float:
    """Every write is one node's or one Module's; either way it is spread over all pairs."""
    return sum(done.values()) / (nodes * modules)
