"""Encoding a desired state once and joining its fragments, beside encoding it whole."""

import time
from collections.abc import Callable

from benchmarks.figures import Figure
from kmm_common.desired import DesiredModule, Modprobe, config_hash
from kmm_common.wire import convert, fragments
from kmm_common.wire.gen.kmm import v1 as pb

MODULES = 10
ROUNDS = 300


def run() -> list[Figure]:
    """Return the time of one update of ten modules, both ways, in one process."""
    modules = [_module(number) for number in range(MODULES)]
    cached = [fragments.upsert(module) for module in modules]
    return [
        Figure(
            figure=f"update of {MODULES} modules from cached fragments",
            value=_microseconds(lambda: fragments.update(_header(), cached)),
            unit="us",
            reference="encoded whole",
            reference_value=_microseconds(lambda: _whole(modules)),
        )
    ]


def _module(number: int) -> DesiredModule:
    module = DesiredModule(
        namespace="drivers",
        name=f"driver-{number}",
        uid=f"5f0c1b9e-0000-4000-8000-{number:012d}",
        kernel_version="6.1.176",
        image=f"registry.example/drivers/driver-{number}:6.1.176",
        image_digest="sha256:" + "ab" * 32,
        modprobe=Modprobe(module_name=f"driver_{number}", parameters=("debug=1", "queues=8")),
    )
    return DesiredModule(
        **{
            **{name: getattr(module, name) for name in module.__slots__},
            "config_hash": config_hash(module),
        }
    )


def _header() -> bytes:
    return fragments.header(
        kind=pb.UpdateKind.SNAPSHOT,
        session_id="s" * 32,
        protocol_version=1,
        uid="u" * 36,
        generation=7,
        base_generation=0,
        content_hash=b"h" * 32,
        removals=(),
    )


def _whole(modules: list[DesiredModule]) -> bytes:
    return bytes(pb.Update(upserts=[convert.desired_to_message(each) for each in modules]))


def _microseconds(work: Callable[[], object]) -> float:
    work()
    started = time.perf_counter()
    for _ in range(ROUNDS):
        work()
    return (time.perf_counter() - started) / ROUNDS * 1e6
