"""KMM is removed as docs/how-to/uninstall.md says, and installed again."""

from dataclasses import replace
from pathlib import Path

import pytest

from kmm_common.api.names import CONTAINS_MODULES_LABEL
from kmm_sandbox import samples
from kmm_sandbox.cluster import kmm
from kmm_sandbox.cluster.kmm import DAEMON
from kmm_sandbox.kmmcp import CRDS
from support.docsteps import arguments, commands
from support.installation import REPOSITORY, inventory
from support.kubelets import Kubelets
from support.stage import NODES, Stage

pytestmark = pytest.mark.nightly

PAGE = REPOSITORY / "docs/how-to/uninstall.md"
SECONDS = 400.0
NAME = "slip"
KEEP = "Keep the modules loaded"
UNINSTALLS = "kubectl delete --ignore-not-found -k ."


@pytest.mark.parametrize("heading", ["Unload everything", KEEP])
def test_removal_by_the_docs_leaves_nothing_but_what_it_says_and_kmm_comes_back(
    stage: Stage[Kubelets], kubelets: Kubelets, archives: Path, heading: str
) -> None:
    image = samples.push(stage.sandbox, NAME, (NAME,))
    stage.apply(NAME, image, NAME).wait_loaded()
    before = directories(stage)

    follow(kubelets, heading)

    left = {line for line in inventory(kubelets.cluster) - kubelets.before if not of_node(line)}
    assert left == set()
    for name in kubelets.cluster.nodes:
        labels = kubelets.api.get(f"{NODES}/{name}")["metadata"]["labels"]
        assert not [label for label in labels if "kmm.node" in label]
    for namespace in kubelets.api.items("/api/v1/namespaces"):
        assert CONTAINS_MODULES_LABEL not in namespace["metadata"]["labels"]
    keeps = heading == KEEP
    assert directories(stage) == (before if keeps else dict.fromkeys(before, ""))
    assert processes(stage) == {}

    if keeps:
        # As the page says: a control plane that knows of no Module has it unloaded.
        kubelets.kubectl.apply_crds(sorted(CRDS.glob("*.yaml")))
        stage.apply(NAME, image, NAME)
    kmm.install(kubelets.cluster, archives)
    outcome = stage.apply(NAME, image, NAME)
    outcome.wait_loaded()
    if keeps:
        assert directories(stage) == before


def follow(kubelets: Kubelets, heading: str) -> None:
    """Run the commands of a section of the page."""
    kubectl = replace(kubelets.kubectl, limit=SECONDS)
    for command in commands(PAGE, heading):
        if command == UNINSTALLS:
            place = str(kubelets.cluster.directory / kmm.DIRECTORY)
            kubectl(*arguments(command)[:-1], place)
        else:
            kubectl(*arguments(command.replace("NAMESPACE", "default").replace("NAME", NAME)))


def directories(stage: Stage[Kubelets]) -> dict[str, str]:
    """Return the directory that each kernel has made for the module; empty where there is none."""
    argv = ("stat", "-c", "%i", f"/sys/module/{NAME}")
    return {name: node.execute(*argv).stdout for name, node in stage.sandbox.nodes.items()}


def processes(stage: Stage[Kubelets]) -> dict[str, str]:
    """Return the processes of daemons, by node."""
    found = {
        name: node.execute("pgrep", "-fa", f"/usr/local/bin/{DAEMON}").stdout
        for name, node in stage.sandbox.nodes.items()
    }
    return {name: told for name, told in found.items() if told}


def of_node(line: str) -> bool:
    """Tell whether an object is one that a cluster has for each node, by `kind namespace/name`."""
    return line.split()[0] in ("Node", "CSINode")
