"""When a rollout of the control plane is over."""

import pytest

from kmm_sandbox.cluster.operations import rolled_out
from kmm_sandbox.kubeapi import Object


def deployment(**status: int | None) -> Object:
    """A Deployment of generation 2 that wants two replicas and has them, but for these fields."""
    whole: Object = {
        "observedGeneration": 2,
        "replicas": 2,
        "updatedReplicas": 2,
        "readyReplicas": 2,
        **status,
    }
    known = {key: value for key, value in whole.items() if value is not None}
    return {"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": known}


def test_rollout_is_over_when_all_are_new_and_ready() -> None:
    assert rolled_out(deployment())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("observedGeneration", 1),
        ("replicas", 3),
        ("updatedReplicas", 1),
        ("readyReplicas", 1),
        ("readyReplicas", None),
    ],
)
def test_rollout_is_not_over(field: str, value: int | None) -> None:
    assert not rolled_out(deployment(**{field: value}))
