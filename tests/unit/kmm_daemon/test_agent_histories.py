"""Random histories of a node: whatever happens, quiet brings the kernel to what is desired."""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kmm_common.desired import DesiredModule, ModuleState
from kmm_common.logs import Fact, fields_of
from support.history import check
from support.node import Node, desired, ref, snapshot
from support.simkernel import Interrupted, SimFile

NAMES = ("base", "left", "right")
DIGESTS = ("sha256:aaaaaaaa", "sha256:bbbbbbbb")
FILES = {
    "left": SimFile("v-left", ("shared",)),
    "right": SimFile("v-right", ("shared",)),
    "shared": SimFile("v-shared"),
}
"""Images of left and right bring the module that both stand on; base stands alone."""

entries = st.lists(
    st.builds(
        lambda name, digest, parameters, uid: desired(
            name, digest=f"{digest}{name}", parameters=parameters, uid=uid
        ),
        st.sampled_from(NAMES),
        st.sampled_from(DIGESTS),
        st.sampled_from([(), ("a=1",)]),
        st.sampled_from(["u1", "u2"]),
    ),
    unique_by=lambda entry: entry.ref,
    max_size=3,
)


class Recorder(logging.Handler):
    """Keeps the fact lines of the daemon."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() in set(Fact):
            line = {"msg": record.getMessage(), "ts": len(self.lines), **fields_of(record)}
            self.lines.append(line)


class History(RuleBasedStateMachine):
    """Drives one node; `node` is made in initialize, where an event loop exists."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.node = Node()
        self.wanted: list[DesiredModule] = []
        self.published: list[dict[str, Any]] = []
        self.recorder = Recorder()
        self.logger = logging.getLogger("kmm_daemon")
        self.level, self.propagate = self.logger.level, self.logger.propagate

    @initialize()
    def begin(self) -> None:
        self.logger.addHandler(self.recorder)
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        for name in NAMES:
            files = {"base": SimFile("v-base")} if name == "base" else FILES
            for digest in DIGESTS:
                versions = {
                    key: replace(file, build=f"{file.build}-{digest[-8:]}")
                    if key != "shared"
                    else file
                    for key, file in files.items()
                }
                self.node.kernel.images.files[f"{digest}{name}"] = versions
        self.run(self.node.start())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @rule(modules=entries)
    def want(self, modules: list[DesiredModule]) -> None:
        self.wanted = modules
        generation = self.node.generation + 1
        lines = [
            {"ref": str(m.ref), "digest": m.image_digest, "hash": m.config_hash} for m in modules
        ]
        self.published.append(
            {
                "msg": Fact.PUBLISHED,
                "node": "n",
                "uid": "nms-1",
                "generation": generation,
                "modules": lines,
            }
        )
        self.run(self.node.want(*modules))

    @rule(name=st.sampled_from((*NAMES, "shared")))
    def somebody_opens(self, name: str) -> None:
        self.node.kernel.busy.add(name)

    @rule()
    def everybody_closes(self) -> None:
        self.node.kernel.busy.clear()

    @rule(name=st.sampled_from(NAMES))
    def pull_is_held_up(self, name: str) -> None:
        self.node.kernel.images.gates.setdefault(ref(name), asyncio.Event())

    @rule(name=st.sampled_from(NAMES))
    def load_is_held_up(self, name: str) -> None:
        self.node.kernel.gates.setdefault(ref(name), asyncio.Event())

    @rule(name=st.sampled_from(NAMES), where=st.sampled_from(["", "own", "below"]))
    def next_process_will_not_end(self, name: str, where: str) -> None:
        below = name if name == "base" else "shared"
        hangs = {"": "", "own": name, "below": below}
        self.node.kernel.stuck.setdefault(ref(name), hangs[where])

    @rule(live=st.booleans())
    def processes_end_after_all(self, live: bool) -> None:
        self.node.kernel.stuck.clear()
        for name in list(self.node.kernel.at_work):
            self.node.kernel.end(name, live=live)

    @rule()
    def held_up_go_on(self) -> None:
        self.run(self.release())

    @rule(interrupted=st.sampled_from(Interrupted))
    def daemon_restarts(self, interrupted: Interrupted) -> None:
        self.node.kernel.interrupted = interrupted
        self.run(self.node.restart())

    @rule()
    def node_reboots(self) -> None:
        self.run(self.reboot())

    @rule(seconds=st.sampled_from([1, 12, 61, 700]))
    def time_passes(self, seconds: int) -> None:
        self.run(self.node.clock.advance(seconds))

    @rule()
    def quiet(self) -> None:
        """After the last fault the kernel has what is desired, and nothing else of ours."""
        self.everybody_closes()
        self.processes_end_after_all(live=False)
        self.run(self.release())
        for _ in range(4):
            self.run(self.node.clock.advance(700))
        self.assert_converged()

    def assert_converged(self) -> None:
        kernel = self.node.kernel
        expected = {entry.name for entry in self.wanted}
        if expected & {"left", "right"}:
            expected.add("shared")
        assert expected <= set(kernel.rows) <= expected | kernel.left
        for entry in self.wanted:
            said = self.node.said(entry.name)
            assert said is not None and said.state is ModuleState.LOADED
            assert (said.config_hash, said.uid) == (entry.config_hash, entry.uid)
            assert kernel.parameters[entry.name] == entry.modprobe.parameters
        assert len(self.node.agent.reports.latest.modules) == len(self.wanted)

    @invariant()
    def promises_are_kept(self) -> None:
        assert check(self.published, {"n": self.recorder.lines}) == []
        assert self.node.kernel.piled_up == []

    async def release(self) -> None:
        for gates in (self.node.kernel.gates, self.node.kernel.images.gates):
            for gate in gates.values():
                gate.set()
            gates.clear()
        await self.node.clock.advance(0)

    async def reboot(self) -> None:
        """The control plane sends its state again to a daemon without a journal."""
        await self.node.reboot()
        if self.node.generation:
            await self.node.send(snapshot(self.node.generation, self.wanted))

    def teardown(self) -> None:
        try:
            if self.published:
                self.quiet()
        finally:
            self.run(self.node.stop())
            self.loop.close()
            self.logger.removeHandler(self.recorder)
            self.logger.setLevel(self.level)
            self.logger.propagate = self.propagate


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=60,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
