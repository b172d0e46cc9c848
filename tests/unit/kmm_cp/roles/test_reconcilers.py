import asyncio

from kmm_cp.kube.informer import Informer
from kmm_cp.kube.resources import MODULES, NODES
from kmm_cp.roles.reconcilers import once_settled
from kmm_cp.runtime.controller import DONE, Result
from support.kubecalls import KubeCalls
from support.virtualclock import VirtualClock, rest


async def test_reconcile_is_put_off_until_all_caches_it_decides_by_are_settled() -> None:
    caches = [
        Informer(KubeCalls(), resource, str, clock=VirtualClock()) for resource in (MODULES, NODES)
    ]
    modules, nodes = caches
    reconciled: list[str] = []

    async def reconcile(key: str) -> Result:
        reconciled.append(key)
        return DONE

    modules.settled.set()
    task = asyncio.ensure_future(once_settled(caches, reconcile)("a"))
    await rest()
    # The first one is interrupted again while the second one is waited for.
    modules.settled.clear()
    nodes.settled.set()
    await rest()
    assert reconciled == []
    modules.settled.set()
    assert await task == DONE
    assert reconciled == ["a"]
