"""SIGKILL at any point of a node's life: journal, kernel, disk and reports agree afterwards."""

import asyncio
import json
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from kmm_common.logs import Fact
from support import history
from support.badregistry import BadRegistry
from support.crashnode import FIRMWARE, Order, generations, whereabouts
from support.crashwindow import Window
from support.journals import UNUSABLE
from support.layers import file, layer
from support.modulefile import module_bytes
from support.node import UID
from support.tmpkernel import KERNEL
from support.verdict import TALLY

ROUNDS = int(os.environ.get("KMM_CRASH_ROUNDS", "160"))
SEED = int(os.environ.get("KMM_CRASH_SEED", "1"))
STEPS_IN_A_WINDOW = (1, 2, 3)
TESTS = Path(__file__).parents[1]
SETTLED: list[tuple[dict[str, str], list[str]]] = [
    ({"left": "l1", "shared": "s", "solo": "o"}, ["left.bin"]),
    ({"left": "l1", "right": "r", "shared": "s"}, ["left.bin"]),
    ({"left": "l2", "right": "r", "shared": "s"}, ["left.bin"]),
    ({"right": "r", "shared": "s"}, []),
    ({}, []),
]
"""By generation: srcversions in the kernel, and firmware on the host."""


def _module(name: str, srcversion: str, depends: str = "") -> Any:
    content = module_bytes(
        {"name": name, "srcversion": srcversion, "depends": depends, "vermagic": KERNEL}
    )
    return file(f"opt/lib/modules/{KERNEL}/{name}.ko", content)


def push_images(registry: BadRegistry) -> dict[str, str]:
    shared, firmware = _module("shared", "s"), file(f"{FIRMWARE[1:]}/left.bin", b"firmware")
    images = {
        "left": (_module("left", "l1", "shared"), shared, firmware),
        "left2": (_module("left", "l2", "shared"), shared, firmware),
        "right": (_module("right", "r", "shared"), shared),
        "solo": (_module("solo", "o"),),
    }
    return {name: registry.push(name, "1", [layer(*files)]) for name, files in images.items()}


@dataclass
class Cradle:
    """The program that gives and takes lives."""

    process: asyncio.subprocess.Process
    registry: str
    digests: dict[str, str] = field(repr=False)

    def order(self, directory: Path, fuse: int = 0) -> Order:
        return Order(
            directory=str(directory), registry=self.registry, digests=self.digests, fuse=fuse
        )

    async def live(self, order: Order) -> int:
        """Have a life lived; return its exit code, or minus the signal."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        answer = await self.process.stdout.readline()
        code: int = json.loads(answer)["exit"]
        return code


@asynccontextmanager
async def cradle(registry: BadRegistry) -> AsyncIterator[Cradle]:
    paths = os.pathsep.join((str(TESTS.parent / "src"), str(TESTS)))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.crashnode"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    try:
        yield Cradle(process, registry.host, push_images(registry))
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()


def lines(path: Path) -> list[Any]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


DEPENDENCY = "shared"
"""What no Module asks for by name."""


def in_kernel(order: Order) -> set[str]:
    rows, _ = json.loads((order.root / "kernel.json").read_text())
    return {row["name"] for row in rows}


def require_agreement(order: Order, nobodys: frozenset[str] = frozenset()) -> None:
    """Hold kernel, firmware, reports, disk and history of a node against what was desired.

    `nobodys` may stay in the kernel: it is not known any more who brought it.
    """
    root = order.root
    settled = lines(root / "settled.jsonl")
    assert settled[-1]["generation"] == len(SETTLED)
    for each in settled:
        kernel, firmware = SETTLED[each["generation"] - 1]
        wanted = {module.name for module in generations(order)[each["generation"] - 1]}
        there = {name: of for name, of in each["kernel"].items() if name not in nobodys - {*kernel}}
        assert there == kernel, each
        assert each["firmware"] == firmware, each
        assert each["said"] == {name: ["Loaded", True] for name in wanted}, each
    assert loaded_twice(root) == []
    assert list((root / "store/tmp").iterdir()) == []
    assert all((tree / "meta.json").exists() for tree in (root / "store/trees").iterdir())
    assert list((root / "run/modules").iterdir()) == []
    daemons = {"n": history.facts(root / "daemon.log")}
    assert TALLY.check(str(root), published(order), daemons, reachable=daemons) == []


def loaded_twice(root: Path) -> list[Any]:
    """Return every modprobe of a module that was in the kernel already."""
    loads = [
        (line["argv"], line["loaded"])
        for line in lines(root / "commands.jsonl")
        if line["argv"][0].endswith("modprobe") and "-r" not in line["argv"]
    ]
    return [argv for argv, loaded in loads if set(argv) & set(loaded)]


def published(order: Order) -> list[dict[str, Any]]:
    return [
        {
            "msg": Fact.PUBLISHED,
            "node": "n",
            "uid": UID,
            "generation": number,
            "modules": [
                {"ref": str(m.ref), "digest": m.image_digest, "hash": m.config_hash}
                for m in modules
            ],
        }
        for number, modules in enumerate(generations(order), start=1)
    ]


async def test_node_without_a_crash_goes_through_all_generations(tmp_path: Path) -> None:
    async with BadRegistry().run() as registry, cradle(registry) as lives:
        order = lives.order(tmp_path / "node")
        assert await lives.live(order) == 0
        require_agreement(order)
        assert lines(order.root / "steps.jsonl")[0] > 100


async def test_killed_between_dependency_and_module_the_dependency_goes_with_it(
    tmp_path: Path,
) -> None:
    async with BadRegistry().run() as registry, cradle(registry) as lives:
        order = lives.order(tmp_path / "node")
        assert await lives.live(replace(order, dies_with="shared")) == -9
        assert await lives.live(order) == 0
        require_agreement(order)


@pytest.mark.parametrize("window", Window)
async def test_killed_in_each_window_the_next_life_finishes_the_work(
    tmp_path: Path, window: Window
) -> None:
    async with BadRegistry().run() as registry, cradle(registry) as lives:
        for number in STEPS_IN_A_WINDOW:
            order = lives.order(tmp_path / str(number))
            killed = replace(order, dies_in=window, fuse=number)
            assert await lives.live(killed) == -9, f"step {number}"
            assert window in whereabouts(order)
            assert await lives.live(order) == 0, f"step {number}"
            require_agreement(order)


@pytest.mark.parametrize("damage", UNUSABLE.values(), ids=UNUSABLE)
async def test_journal_that_cannot_be_used_is_never_replayed_and_never_fatal(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """What is in the kernel is taken over from there: nothing is loaded twice."""
    async with BadRegistry().run() as registry, cradle(registry) as lives:
        order = lives.order(tmp_path / "node")
        killed = replace(order, dies_in=Window.JOURNAL_REPORT, fuse=1)
        assert await lives.live(killed) == -9
        journal = order.root / "run/journal.json"
        damaged = damage(journal.read_bytes())
        journal.write_bytes(damaged)
        nobodys = frozenset({DEPENDENCY} & in_kernel(order))
        assert await lives.live(order) == 0
        assert (order.root / "run/journal.unusable.json").read_bytes() == damaged
        require_agreement(order, nobodys)


@pytest.mark.timeout(900)
async def test_killed_at_any_step_the_next_life_finishes_the_work(tmp_path: Path) -> None:
    async with BadRegistry().run() as registry, cradle(registry) as lives:
        whole = lives.order(tmp_path / "whole")
        assert await lives.live(whole) == 0
        steps = lines(whole.root / "steps.jsonl")[0]
        killed_in: Counter[Window] = Counter()
        TALLY.seeded("crashes", range(SEED, SEED + ROUNDS))
        for seed in range(SEED, SEED + ROUNDS):
            killed_in += await _killed_and_continued(lives, tmp_path / str(seed), seed, steps)
    assert killed_in.keys() == set(Window)


async def _killed_and_continued(
    lives: Cradle, directory: Path, seed: int, steps: int
) -> Counter[Window]:
    """Return where it was killed."""
    chance = random.Random(seed)  # noqa: S311 a seed, no secret
    fuses = [chance.randint(1, steps) for _ in range(chance.choice((1, 1, 2, 3)))]
    ends, killed_in = [], Counter[Window]()
    for fuse in fuses:
        order = lives.order(directory, fuse)
        ends.append(await lives.live(order))
        killed_in.update(whereabouts(order) if ends[-1] == -9 else ())
    assert set(ends) <= {-9, 0}, f"seed {seed}, fuses {fuses}: {ends}"
    last = lives.order(directory)
    assert await lives.live(last) == 0, f"seed {seed}, fuses {fuses}"
    try:
        require_agreement(last)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, fuses {fuses}: {error}") from error
    return killed_in
