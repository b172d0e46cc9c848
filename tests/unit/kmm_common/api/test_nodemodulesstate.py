"""Spec and status keep everything on their way through JSON, and no more than is set."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmm_common.api.nodemodulesstate import (
    DaemonStatus,
    NodeStatus,
    Summary,
    spec_from_json,
    spec_hash,
    spec_to_json,
    status_from_json,
    status_to_json,
    summary,
)
from kmm_common.desired import (
    DesiredModule,
    ModuleFailure,
    ModuleState,
    ReportedModule,
)
from support.desired import DESIRED, REPORTED, TEXT

bounded = REPORTED.map(
    lambda module: replace(module, error=module.error and module.error.bounded())
)


@given(st.lists(DESIRED, max_size=3, unique_by=lambda module: module.ref))
def test_spec_comes_back_ordered_and_whole(modules: list[DesiredModule]) -> None:
    ordered = tuple(sorted(modules, key=lambda module: module.ref))
    assert spec_from_json(spec_to_json(modules)) == ordered


@given(
    st.builds(
        NodeStatus,
        observed_generation=st.integers(-1, 100),
        boot_id=TEXT,
        kernel_version=TEXT,
        daemon=st.builds(DaemonStatus, connected=st.booleans(), sequence=st.integers(0, 9)),
        modules=st.lists(bounded, max_size=3).map(tuple),
        summary=st.builds(Summary, desired=st.integers(0, 9), error=TEXT),
        conditions=st.just(({"type": "Ready", "status": "True"},)),
    )
)
def test_status_comes_back_whole(status: NodeStatus) -> None:
    assert status_from_json(status_to_json(status)) == status


TIMED = {"lastTransitionTime": "soon"}


@pytest.mark.parametrize(
    "status",
    [
        {"daemon": {"since": "yesterday"}},
        {"daemon": {"since": "2026-11-25T10:00:00"}},
        {"modules": [{"namespace": "n", "name": "m", "uid": "u", "state": "Loaded"} | TIMED]},
        {"modules": [{"namespace": "n", "name": "m", "uid": "u", "state": "Lost"}]},
        {"modules": [{"namespace": "n"}]},
    ],
    ids=["no time", "no zone", "module", "state", "field"],
)
def test_what_is_no_status_is_refused(status: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        status_from_json(status)


def test_a_missing_status_is_unobserved() -> None:
    assert status_from_json(None).observed_generation == -1


def test_what_has_its_default_is_not_written() -> None:
    module = DesiredModule(namespace="ns", name="m", uid="u", kernel_version="6.1", image="i:1")
    assert spec_to_json([module]) == {
        "modules": [
            {"namespace": "ns", "name": "m", "uid": "u", "kernelVersion": "6.1", "image": "i:1"}
        ]
    }


def test_the_first_failure_and_the_counts_are_summarised() -> None:
    error = ModuleFailure(reason="InUse", message="held by ppp_generic")
    modules = tuple(
        ReportedModule(namespace="ns", name=name, uid="u", state=state, error=problem)
        for name, state, problem in [
            ("a", ModuleState.LOADED, None),
            ("b", ModuleState.FAILED, error),
        ]
    )
    written = status_to_json(NodeStatus(summary=summary(modules, desired=2)))
    assert written["summary"] == {"desired": 2, "loaded": 1, "failed": 1, "error": "ns/b: InUse"}


def test_the_hash_of_a_spec_is_of_what_is_written_whatever_the_order() -> None:
    one, two = (
        DesiredModule(namespace="ns", name=name, uid="u", kernel_version="6.1", image="i:1")
        for name in "ab"
    )
    assert spec_hash((one, two)) == spec_hash((two, one))
    assert spec_hash((one, two)) != spec_hash((one,))
    # Pinned: else a release that adds a field would make every spec look edited.
    assert spec_hash((one,)).startswith("e0f761c52aaa")
