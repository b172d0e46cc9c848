"""Nodes leave a real cluster, and join it."""

import pytest

from kmm_sandbox import samples
from support.kubelets import Kubelets
from support.stage import STATES, Stage

pytestmark = pytest.mark.nightly

LEAVES, JOINS = "node3", "node4"


def test_a_drained_node_keeps_its_module_until_it_is_deleted_and_has_it_when_it_joins_again(
    stage: Stage[Kubelets], kubelets: Kubelets
) -> None:
    cluster = kubelets.cluster
    outcome = stage.apply("slip", samples.push(cluster, "slip", ("slip",)), "slip")
    outcome.wait_loaded()

    cluster.kubectl("drain", LEAVES, "--ignore-daemonsets")
    outcome.wait_settled()
    assert "slip" in cluster.nodes[LEAVES].loaded_modules()

    cluster.leave(LEAVES)
    stage.until(
        lambda: cluster.api.find(f"{STATES}/{LEAVES}") is None,
        "NodeModulesState goes with its Node",
    )
    outcome.wait_loaded()
    outcome.wait_settled()

    cluster.join(LEAVES)
    outcome.wait_loaded()
    outcome.wait_settled()


def test_a_node_that_joins_later_gets_what_the_others_have(
    stage: Stage[Kubelets], kubelets: Kubelets
) -> None:
    cluster = kubelets.cluster
    outcome = stage.apply("slip", samples.push(cluster, "slip", ("slip",)), "slip")
    outcome.wait_loaded()

    cluster.join(JOINS)
    outcome.wait_loaded()
    outcome.wait_settled()

    stage.delete("slip")
    outcome.wait_gone()
    cluster.leave(JOINS)
