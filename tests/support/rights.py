"""The rights that are shipped, held against every request that the API server's audit log has."""

import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from kmm_sandbox.programs import USER

_MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
MANIFEST = _MANIFESTS / "base/rbac.yaml"
ENROLMENT = _MANIFESTS / "builtin-ca/rbac.yaml"
"""Besides, where daemons enrol."""
SCRAPER = _MANIFESTS / "daemon-metrics/builtin-ca/rbac.yaml"
"""Besides, where it signs for Prometheus."""
COLLECTED = "KMM_RIGHTS_DIR"
"""Variable of the environment: where each cluster leaves what became of the rights in it."""
AGENT, LEADER = "kmm-cp", "kmm-cp-leader"
"""User agents of what every replica does, and of what the leader does; also names of roles."""
LOOKED_FOR = ("daemonsets.apps", "delete")
"""By OwnerReferencesPermissionEnforcement when the DaemonSet is adopted, which no request shows."""
FORBIDDEN = 403
START = timedelta(seconds=15)


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One verb on one resource."""

    role: str
    namespace: str
    """Of a Role; "*" if bound for the cluster; "bound" if bound by whoever owns a namespace."""
    resource: str
    """resource.group, with its subresource: deployments/scale.apps, pods."""
    verb: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = "" if self.namespace == "*" else f", {self.namespace}"
        names = f" {' '.join(self.names)}" if self.names else ""
        return f"{self.role}{where}: {self.verb} {self.resource}{names}"

    def covers(self, call: "Call") -> bool:
        """Tell whether it allows a call; where it is bound by others, the API server knew."""
        return (
            (self.resource, self.verb) == (call.resource, call.verb)
            and self.namespace in ("*", "bound", call.namespace)
            and (not self.names or call.name in self.names)
            and (call.leads or self.role != LEADER)
        )


@dataclass(frozen=True, slots=True, order=True)
class Call:
    """What one request asked for."""

    verb: str
    resource: str
    namespace: str
    name: str
    allowed: bool
    leads: bool = field(default=True, compare=False)
    """It was asked as the leader, so the rights of the leader alone count too."""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} {self.namespace}/{self.name}"


def rights(*manifests: Path) -> list[Right]:
    """Return every right that manifests give; of all that are shipped, if none is named."""
    texts = (manifest.read_text() for manifest in manifests or (MANIFEST, ENROLMENT, SCRAPER))
    objects = [one for text in texts for one in yaml.safe_load_all(text)]
    everywhere = {o["roleRef"]["name"] for o in objects if o["kind"] == "ClusterRoleBinding"}
    return [
        Right(role["metadata"]["name"], _where(role, everywhere), resource, verb, names)
        for role in objects
        if role["kind"] in ("Role", "ClusterRole")
        for rule in role["rules"]
        for resource in _resources(rule)
        for verb in rule["verbs"]
        for names in [tuple(rule.get("resourceNames", ()))]
    ]


def _where(role: Mapping[str, Any], everywhere: Iterable[str]) -> str:
    if role["kind"] == "Role":
        return str(role["metadata"]["namespace"])
    return "*" if role["metadata"]["name"] in everywhere else "bound"


def _resources(rule: Mapping[str, Any]) -> Iterator[str]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            yield f"{resource}.{group}" if group else resource


def calls(lines: Iterable[str]) -> list[Call]:
    """Return kmm-cp's requests for resources from an audit log; a watch counts as it begins.

    An API server that has just started refuses everybody, as it does not know the roles yet.
    """
    made, starts = list[tuple[datetime, Call]](), list[datetime]()
    seen = set[str]()
    for event in _events(lines):
        at = datetime.fromisoformat(event["requestReceivedTimestamp"])
        if _is_start(event):
            starts.append(at)
        elif _is_ours(event) and event["auditID"] not in seen:
            seen.add(event["auditID"])
            made.append((at, _call(event)))
    return [call for at, call in made if call.allowed or not _is_near(at, starts)]


def _events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            # The last line may be half written.
            continue
        if event.get("objectRef"):
            yield event


def _call(event: Mapping[str, Any]) -> Call:
    target = event["objectRef"]
    return Call(
        verb=event["verb"],
        resource=_resource(target),
        namespace=target.get("namespace", ""),
        name=target.get("name") or _selected(event["requestURI"]),
        allowed=event.get("responseStatus", {}).get("code") != FORBIDDEN,
        leads=event["userAgent"] == LEADER,
    )


def _is_start(event: Mapping[str, Any]) -> bool:
    """Tell whether an API server sees to the roles that are its own, as it does when it starts."""
    own = event["user"].get("username") == "system:apiserver"
    return bool(own and event["objectRef"]["resource"] == "clusterroles")


def _is_near(at: datetime, starts: Iterable[datetime]) -> bool:
    return any(abs(at - start) < START for start in starts)


def _is_ours(event: Mapping[str, Any]) -> bool:
    """Tell whether kmm-cp itself asked, and not a test with its login."""
    return event["user"].get("username") == USER and event.get("userAgent") in (AGENT, LEADER)


def _resource(target: Mapping[str, Any]) -> str:
    group = target.get("apiGroup", "")
    parts = (target["resource"], target.get("subresource", ""))
    resource = "/".join(part for part in parts if part)
    return f"{resource}.{group}" if group else resource


def _selected(uri: str) -> str:
    """Return the name that a list or watch is limited to by its field selector."""
    found = re.search(r"fieldSelector=metadata\.name(?:%3D|=)([^&]+)", uri)
    return found[1] if found else ""


@dataclass(slots=True)
class Use:
    """What became of the rights in one cluster, or in several."""

    used: Counter[str] = field(default_factory=Counter)
    """Calls by right."""
    beyond: Counter[str] = field(default_factory=Counter)
    """Calls that were allowed though no shipped right covers them."""
    refused: Counter[str] = field(default_factory=Counter)
    """Calls that were forbidden, and no test meant that."""

    def unused(self, shipped: Iterable[Right]) -> list[str]:
        """Return the rights that no call needed, and no admission plugin looked for."""
        told = (right for right in shipped if (right.resource, right.verb) != LOOKED_FOR)
        return [str(right) for right in told if not self.used[str(right)]]

    def add(self, other: "Use") -> None:
        """Take in another cluster's."""
        self.used += other.used
        self.beyond += other.beyond
        self.refused += other.refused


def use_of(made: Iterable[Call], shipped: Iterable[Right], meant: Iterable[Call] = ()) -> Use:
    """Hold calls against rights; refusals that a test `meant` are none."""
    use, shipped, expected = Use(), list(shipped), set(meant)
    for call in made:
        covering = [right for right in shipped if right.covers(call)]
        if not call.allowed:
            use.refused[str(call)] += call not in expected
        elif covering:
            use.used.update(map(str, covering))
        else:
            use.beyond[str(call)] += 1
    use.refused = +use.refused
    return use


def leave(audit_log: Path, meant: Iterable[Call] = ()) -> None:
    """Write what became of the rights in a cluster to where the run collects it, if it does."""
    directory = os.environ.get(COLLECTED)
    if directory and audit_log.exists():
        with audit_log.open() as lines:
            use = use_of(calls(lines), rights(), meant)
        content = {"used": use.used, "beyond": use.beyond, "refused": use.refused}
        Path(directory, f"{uuid.uuid4().hex}.json").write_text(json.dumps(content))


def collected(directory: Path) -> Use:
    """Return what all clusters of a run have left."""
    whole = Use()
    for file in sorted(directory.glob("*.json")):
        content = json.loads(file.read_text())
        whole.add(Use(*(Counter(content[key]) for key in ("used", "beyond", "refused"))))
    return whole


def table(use: Use, shipped: Iterable[Right]) -> str:
    """Return how often each right was used, for people."""
    rows = [f"  {use.used[str(right)]:>7} {right}" for right in shipped]
    return "\n".join(["Requests of kmm-cp by right:", *rows])


def problems(use: Use, shipped: Iterable[Right]) -> list[str]:
    """Return what is wrong with the rights, after all that needs them has run."""
    return [
        *(f"never used, take it out: {right}" for right in use.unused(shipped)),
        *(f"allowed, though no shipped rule does: {call} ({n})" for call, n in use.beyond.items()),
        *(f"forbidden, and no test meant it: {call} ({n})" for call, n in use.refused.items()),
    ]
