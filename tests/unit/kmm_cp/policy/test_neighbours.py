from datetime import timedelta

import pytest

from kmm_cp.policy.neighbours import LEASE, Neighbour, alive, neighbours_in, remedy
from support.policy import NOW

POD = "kmm-operator-controller-6d5f9c8b7d-x2x4z_0b6d5a3e-7f53-4c07-8f53-9a4f3c1b2d3e"

EVENT_CHARACTERS = 1024
"""What the API server takes."""


def lease(namespace="kmm", identity=POD, age=1.0, duration=15):
    renewed = (NOW - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": identity, "renewTime": renewed, "leaseDurationSeconds": duration}
    return {"metadata": {"name": LEASE, "namespace": namespace}, "spec": spec}


def neighbour(**changes):
    (found,) = neighbours_in([lease(**changes)], NOW)
    return found


@pytest.mark.parametrize(
    "nobody",
    [
        lease(identity=""),
        lease(identity=None),
        lease(age=601),
        {"metadata": {"name": LEASE, "namespace": "kmm"}},
    ],
    ids=["released", "null", "old", "empty"],
)
def test_nobody_holds_a_lease_that_was_released_or_is_old(nobody):
    assert neighbours_in([nobody], NOW) == []


@pytest.mark.parametrize("age", [1.0, 599.0, -3600.0])
def test_whoever_holds_a_lease_may_be_alive_whatever_our_clocks_say(age):
    assert neighbour(age=age).deployment == "kmm-operator-controller"


def test_lease_that_was_never_renewed_may_be_somebodys():
    held = {"metadata": {"namespace": "kmm"}, "spec": {"holderIdentity": POD}}
    assert neighbours_in([held], NOW) == [
        Neighbour(namespace="kmm", identity=POD, renewed="", duration=0)
    ]


def test_only_who_renews_between_two_looks_is_alive():
    stale, renewed = neighbour(), neighbour(namespace="amd")
    before = [stale, neighbour(namespace="amd", age=3)]
    assert alive(before, [stale, renewed]) == [renewed]
    assert alive([], [renewed]) == []
    assert alive([stale], [neighbour(identity="other")]) == [neighbour(identity="other")]


@pytest.mark.parametrize(
    ("identity", "name", "command"),
    [
        (
            POD,
            "Deployment kmm/kmm-operator-controller holds Lease kmm/kmm.sigs.x-k8s.io",
            "`kubectl scale deployment -n kmm kmm-operator-controller --replicas=0`",
        ),
        (
            "laptop_uuid",
            "laptop_uuid in namespace kmm holds Lease kmm/kmm.sigs.x-k8s.io",
            "scale its Deployment in namespace kmm to 0",
        ),
    ],
)
def test_neighbour_is_named_with_what_to_do(identity, name, command):
    text = remedy(neighbour(identity=identity))
    assert text.startswith(f"another KMM is active: {name}")
    assert command in text
    assert "delete its ValidatingWebhookConfiguration, too, which has vmodule.kb.io" in text
    assert len(text) < EVENT_CHARACTERS
