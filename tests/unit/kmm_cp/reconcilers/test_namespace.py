"""Which namespaces are marked as having Modules."""

from typing import Any

import pytest

from kmm_common.api.names import CONTAINS_MODULES_LABEL
from kmm_cp.reconcilers.namespace import NamespaceReconciler
from kmm_cp.runtime.controller import DONE
from support.kubecalls import KubeCalls
from support.policy import module

MARKED, PLAIN = {CONTAINS_MODULES_LABEL: "", "theirs": "1"}, {"theirs": "1"}
HERE, ELSEWHERE = "default/simple", "default-2/simple"
DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("modules", "unreadable", "labels", "written"),
    [
        ([HERE], (), PLAIN, ""),
        ([HERE], (), {}, ""),
        ([HERE], (), MARKED, "nothing"),
        ([], (), MARKED, None),
        ([], (), PLAIN, "nothing"),
        ([], (), None, "nothing"),
        ([ELSEWHERE], (), MARKED, None),
        ([], [HERE], MARKED, "nothing"),
        ([], [HERE], PLAIN, ""),
    ],
    ids=[
        "first Module",
        "no labels",
        "marked already",
        "last Module gone",
        "no Module, no mark",
        "no namespace",
        "Module of another namespace",
        "unreadable Module left",
        "unreadable Module",
    ],
)
async def test_namespace_is_marked_exactly_while_it_has_modules(
    modules: list[str], unreadable: list[str], labels: dict[str, str] | None, written: str | None
) -> None:
    client, observed = KubeCalls(), list[dict[str, Any]]()
    reconciler = NamespaceReconciler(
        client=client,
        modules={key: module(metadata=DELETED) for key in modules},
        unreadable=unreadable,
        namespaces={} if labels is None else {"default": labels},
        observe=observed.append,
    )
    assert await reconciler.reconcile("default") == DONE
    if written == "nothing":
        assert (client.calls, observed) == ([], [])
        return
    call = client.only()
    assert (call.verb, call.resource, call.name) == ("patch", "namespaces", "default")
    assert call.body == {"metadata": {"labels": {CONTAINS_MODULES_LABEL: written}}}
    assert [each["metadata"]["name"] for each in observed] == ["default"]
