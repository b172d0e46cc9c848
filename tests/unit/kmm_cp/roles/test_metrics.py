"""What Prometheus reads of the control plane."""

from collections.abc import Iterator

from kmm_cp.roles.metrics import Metrics
from kmm_cp.runtime.controller import DONE, Controller, Outcome, Result
from support.virtualclock import VirtualClock


def samples(metrics: Metrics) -> Iterator[str]:
    lines = metrics.exposition().decode().splitlines()
    return (line for line in lines if not line.startswith("#") and "_created" not in line)


async def nothing(_: str) -> Result:
    return DONE


async def test_modules_sessions_and_queues_are_read_at_the_moment_of_the_scrape() -> None:
    metrics = Metrics(version="1.2.3")
    modules: dict[str, None] = {}
    nodes: set[str] = set()
    controller = Controller("node", nothing, clock=VirtualClock(), observer=metrics)
    metrics.watch_modules(modules)
    metrics.watch_sessions(lambda: nodes)
    metrics.watch_controller(controller)
    modules["default/m"] = None
    nodes.add("a")
    controller.queue.add("a")
    controller.queue.add("b")
    seen = set(samples(metrics))
    assert {
        'kmm_cp_build_info{version="1.2.3"} 1.0',
        "kmm_module_num 1.0",
        "kmm_cp_sessions 1.0",
        'kmm_cp_queue_depth{controller="node"} 2.0',
    } <= seen


async def test_every_result_is_there_before_it_happens_and_counted_then() -> None:
    metrics = Metrics(version="1")
    metrics.watch_controller(Controller("node", nothing, clock=VirtualClock(), observer=metrics))
    zero = {f'kmm_cp_reconciles_total{{controller="node",result="{o.value}"}} 0.0' for o in Outcome}
    assert zero <= set(samples(metrics))
    metrics.reconciled("node", Outcome.CRASH, 0.5)
    seen = set(samples(metrics))
    assert 'kmm_cp_reconciles_total{controller="node",result="crash"} 1.0' in seen
    assert 'kmm_cp_reconcile_duration_seconds_sum{controller="node"} 0.5' in seen


def test_writes_are_counted_by_what_they_were_and_the_answer() -> None:
    metrics = Metrics(version="1")
    for code in ("200", "200", "409"):
        metrics.written(resource="nodemodulesstates/status", verb="patch", code=code)
    line = 'kmm_cp_api_writes_total{code="%s",resource="nodemodulesstates/status",verb="patch"} %s'
    assert {line % ("200", "2.0"), line % ("409", "1.0")} <= set(samples(metrics))
