"""The history checker: reads what control plane and daemons logged and asserts what must hold.

Input are the JSON log lines with the messages of kmm_common.logs.Fact, in the order each process
wrote them. A daemon's lines carry no node name: the caller knows whose file it is.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmm_common.logs import Fact

STARTED, STOPS = "control plane started", "control plane stops"
"""A start without the end of the life before: that was killed, and its last lines may be lost."""
FAILED = "reconcile failed"
DEPOSED = "leading no more"
"""Unless its replica ends: its reconciles were cut off, and may have done what they did not log."""
REPLICA = "replica_of"
"""The field that merged() adds."""
KILLED = "replica was killed"
"""The line that merged() adds at the end of a replica that has not said that it stops."""
LAST = "~"
"""After every moment."""
FACTS = {*(fact.value for fact in Fact), STARTED, STOPS, FAILED, DEPOSED}


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise; `invariant` is its name in docs/explanation/promises.md."""

    invariant: str
    node: str
    detail: str


Line = Mapping[str, Any]


@dataclass(slots=True)
class Published:
    """What the control plane persisted: per (node, uid, generation) the digest and hash by ref."""

    states: dict[tuple[str, str, int], dict[str, Line]] = field(default_factory=dict)
    _moments: dict[tuple[str, str, int], str] = field(default_factory=dict)
    _gaps: list[tuple[str, str]] = field(default_factory=list)
    """Moment, and node or empty for all: a write may have been done, and not logged."""

    @classmethod
    def read(cls, lines: Iterable[Line]) -> "Published":
        published = cls()
        # Of each replica: whether its life before has ended in order, and its last line.
        ended: dict[str, bool] = {}
        last: dict[str, str] = {}
        for line in lines:
            who = line.get(REPLICA, "")
            if line["msg"] == Fact.PUBLISHED:
                key = (line["node"], line["uid"], line["generation"])
                published.states[key] = {module["ref"]: module for module in line["modules"]}
                published._moments[key] = line.get("ts", "")
            elif line["msg"] == FAILED and line["controller"] == "node":
                # Its answer may have been lost after the write was done.
                published._gaps.append((line["ts"], line["key"]))
            elif line["msg"] == DEPOSED and not ended.get(who, True):
                published._gaps.append((line["ts"], ""))
            elif line["msg"] == STARTED:
                if not ended.get(who, True):
                    published._gaps.append((last[who], ""))
                ended[who] = False
            elif line["msg"] == STOPS:
                ended[who] = True
            elif line["msg"] == KILLED:
                published._gaps.append((line["ts"], ""))
            last[who] = line.get("ts", "")
        return published

    def may_lack(self, key: tuple[str, str, int], until: str) -> bool:
        """Tell whether a state may have been persisted by then without a line that says so.

        A failed write is logged late, but before the next one of the same node.
        """
        node, uid, generation = key
        of_node = {
            number: moment
            for (name, other, number), moment in self._moments.items()
            if (name, other) == (node, uid)
        }
        since = max((at for number, at in of_node.items() if number < generation), default="")
        following = min((at for number, at in of_node.items() if number > generation), default=LAST)
        return any(
            since <= ts <= (following if name else until) and name in ("", node)
            for ts, name in self._gaps
        )

    def newest(self, node: str) -> tuple[str, int] | None:
        """Return uid and generation of what was persisted last for a node."""
        of_node = [(uid, generation) for name, uid, generation in self.states if name == node]
        return of_node[-1] if of_node else None

    def digests(self, node: str, ref: str) -> set[str]:
        """Every digest that was ever desired for the Module on the node."""
        return {
            modules[ref]["digest"]
            for (name, _, _), modules in self.states.items()
            if name == node and ref in modules
        }


def facts(path: Path) -> Iterator[Line]:
    """Yield the fact lines of one JSON log file; a last line cut by a crash is left out."""
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and line.get("msg") in FACTS:
            yield line


def merged(replicas: Mapping[str, Iterable[Line]], *, gone: Collection[str] = ()) -> Iterator[Line]:
    """Yield the lines of several replicas by their time; all by one machine's clock.

    `gone` are those that run no more, and that nothing of their name follows.
    """
    lines = [{**line, REPLICA: name} for name, told in replicas.items() for line in told]
    last = {line[REPLICA]: line for line in lines}
    lines += [
        {"ts": last[name]["ts"], "msg": KILLED, REPLICA: name}
        for name in gone
        if name in last and last[name]["msg"] != STOPS
    ]
    return iter(sorted(lines, key=lambda line: str(line.get("ts", ""))))


def check(
    control_plane: Iterable[Line],
    daemons: Mapping[str, Iterable[Line]],
    *,
    reachable: Collection[str] = (),
) -> list[Violation]:
    """Return every violation in the history; empty when all promises were kept.

    `reachable` nodes have had a session, and time, since the last fault: they are up to date.
    """
    control_plane = list(control_plane)
    published = Published.read(control_plane)
    violations: list[Violation] = []
    for node, lines in daemons.items():
        history = list(lines)
        violations += ordered(node, history)
        violations += authentic(node, history, published)
        violations += fenced(node, history)
        violations += once(node, history)
        violations += quiet(node, history, published)
        violations += honest(node, history)
        if node in reachable:
            violations += live(node, history, published)
    return [*violations, *labelled(control_plane, daemons)]


def ordered(node: str, history: Iterable[Line]) -> Iterator[Violation]:
    """The accepted generation of a uid never decreases; a uid that was left never comes back."""
    newest: dict[str, int] = {}
    current = ""
    for line in history:
        if line["msg"] != Fact.ACCEPTED:
            continue
        uid, generation = line["uid"], line["generation"]
        if generation < newest.get(uid, 0):
            yield Violation("ordered", node, f"{uid}: {generation} after {newest[uid]}")
        if uid != current and uid in newest:
            yield Violation("ordered", node, f"{uid} accepted again after {current}")
        newest[uid], current = max(generation, newest.get(uid, 0)), uid


def authentic(node: str, history: Iterable[Line], published: Published) -> Iterator[Violation]:
    """What is loaded was in a desired state persisted for the node."""
    for line in history:
        if line["msg"] != Fact.STEP_STARTED or line["step"] != "load":
            continue
        wanted = published.digests(node, line["ref"])
        # An entry without a digest leaves the choice to the node.
        if line["digest"] not in wanted and "" not in wanted:
            yield Violation("authentic", node, f"{line['ref']} {line['digest']} was never desired")


def fenced(node: str, history: Iterable[Line]) -> Iterator[Violation]:
    """No step is started for an older desired state than the newest accepted one."""
    accepted = ("", 0)
    for line in history:
        if line["msg"] == Fact.ACCEPTED:
            accepted = (line["uid"], line["generation"])
        if line["msg"] == Fact.STEP_STARTED and (line["uid"], line["generation"]) != accepted:
            given = f"{line['uid']}/{line['generation']}"
            yield Violation("fenced", node, f"{line['step']} {line['ref']} for {given}")


def once(node: str, history: Iterable[Line]) -> Iterator[Violation]:
    """Nothing is loaded twice in one boot without an unload, or its disappearance, between."""
    inside: set[tuple[str, str]] = set()
    for line in history:
        if line["msg"] == Fact.REPORTED:
            absent = {m["ref"] for m in line["modules"] if not m["in_kernel"]}
            inside = {key for key in inside if key[1] not in absent}
        if line["msg"] != Fact.STEP_ENDED or not line["ok"]:
            continue
        key = (line["boot_id"], line["ref"])
        if line["step"] == "load" and key in inside:
            yield Violation("once", node, f"{line['ref']} loaded twice in boot {line['boot_id']}")
        if line["step"] == "load":
            inside.add(key)
        if line["step"] == "unload":
            inside.discard(key)


def quiet(node: str, history: Iterable[Line], published: Published) -> Iterator[Violation]:
    """No unload without a desired state that was published and asked for it."""
    for line in history:
        if line["msg"] != Fact.STEP_STARTED or line["step"] != "unload":
            continue
        key = (node, line["uid"], line["generation"])
        if key not in published.states and not published.may_lack(key, line["ts"]):
            told = f"{line['ref']} unloaded for {line['uid']}/{line['generation']}, never published"
            yield Violation("quiet", node, told)
        wanted = published.states.get(key, {}).get(line["ref"])
        if wanted is not None and wanted["hash"] == line["hash"]:
            yield Violation("quiet", node, f"{line['ref']} unloaded though {line['uid']} wants it")


def honest(node: str, history: Iterable[Line]) -> Iterator[Violation]:
    """No report says Loaded right after the unload of that config ended well."""
    unloaded: dict[str, str] = {}
    for line in history:
        if line["msg"] == Fact.STEP_ENDED and line["ok"]:
            if line["step"] == "unload":
                unloaded[line["ref"]] = line["hash"]
            else:
                unloaded.pop(line["ref"], None)
        if line["msg"] != Fact.REPORTED:
            continue
        for module in line["modules"]:
            said = module["state"] == "Loaded" and unloaded.get(module["ref"]) == module["hash"]
            if said:
                yield Violation("honest", node, f"{module['ref']} reported Loaded after its unload")


def live(node: str, history: Iterable[Line], published: Published) -> Iterator[Violation]:
    """What was published last is what was accepted last."""
    newest = published.newest(node)
    accepted = [
        (line["uid"], line["generation"]) for line in history if line["msg"] == Fact.ACCEPTED
    ]
    held = accepted[-1] if accepted else ("", 0)
    # A newer one than the last that was logged: its line was lost with its control plane.
    ahead = newest is not None and held[0] == newest[0] and held[1] > newest[1]
    if newest is not None and held != newest and not ahead:
        yield Violation("live", node, f"has {held[0]}/{held[1]}, not {newest[0]}/{newest[1]}")


def labelled(
    control_plane: Iterable[Line], daemons: Mapping[str, Iterable[Line]]
) -> Iterator[Violation]:
    """No ready label is added unless a daemon of that node reported the Module as Loaded.

    It must have done so in the boot that the label is for, and since the Module was last reported
    not to be there before its label was removed.
    """
    reported = {node: _reports(lines) for node, lines in daemons.items()}
    removed: dict[tuple[str, str], str] = {}
    for line in control_plane:
        if line["msg"] != Fact.LABELLED or line["node"] not in reported:
            continue
        for ref in line["added"]:
            reports = [each for each in reported[line["node"]] if each.ts <= line["ts"]]
            since = _last_absence(reports, ref, removed.get((line["node"], ref), ""))
            if not any(
                each.boot == line["boot_id"] and each.ts > since and ref in each.loaded
                for each in reports
            ):
                yield Violation("labelled", line["node"], f"{ref} labelled at {line['ts']}")
        removed |= {(line["node"], ref): line["ts"] for ref in line["removed"]}


@dataclass(frozen=True, slots=True)
class _Report:
    """What a daemon said at one moment."""

    ts: str
    boot: str
    loaded: frozenset[str]


def _reports(lines: Iterable[Line]) -> list[_Report]:
    """Return a node's reports; a report's boot is that of what its daemon has last taken up."""
    reports, boot = [], ""
    for line in lines:
        boot = line.get("boot_id", boot)
        if line["msg"] == Fact.REPORTED:
            loaded = {each["ref"] for each in line["modules"] if each["state"] == "Loaded"}
            reports.append(_Report(ts=line["ts"], boot=boot, loaded=frozenset(loaded)))
    return reports


def _last_absence(reports: Iterable[_Report], ref: str, removal: str) -> str:
    """Return when a Module was last reported not to be Loaded before its label was removed."""
    return max(
        (each.ts for each in reports if each.ts < removal and ref not in each.loaded), default=""
    )
