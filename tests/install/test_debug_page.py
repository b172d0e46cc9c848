"""What docs/how-to/debug-a-node.md runs in KMM's containers, which have no shell, works there."""

import pytest

from support.docsteps import arguments, commands
from support.installation import REPOSITORY
from support.kubelets import Kubelets
from support.stage import Stage

pytestmark = pytest.mark.nightly

PAGE = REPOSITORY / "docs/how-to/debug-a-node.md"
NODE = "node1"


def test_node_is_asked_and_both_programs_tell_where_they_are(
    stage: Stage[Kubelets], kubelets: Kubelets
) -> None:
    pod = f"pod/{kubelets.nodes[NODE].pod()}"
    (status,) = in_containers("2. Ask the node's daemon", pod)
    tasks, profile = in_containers("5. Ask the program where it is", pod)

    assert "session        with the control plane, since " in kubelets.kubectl(*status)

    kubelets.kubectl(*tasks)
    stage.until(lambda: '"msg": "tasks told"' in stage.daemon_log(NODE), "daemon tells its tasks")
    assert "most recent call first" in stage.daemon_log(NODE)

    kubelets.kubectl(*profile)
    stage.until(lambda: '"msg": "profile ended"' in control_plane_log(stage), "profile of kmm-cp")
    assert '"msg": "profiled"' in control_plane_log(stage)


def in_containers(heading: str, pod: str) -> list[list[str]]:
    """Return the arguments of kubectl in a section's commands that run in KMM's containers."""
    ours = [each for each in commands(PAGE, heading) if " exec " in each]
    return [[pod if word == "$POD" else word for word in arguments(each)] for each in ours]


def control_plane_log(stage: Stage[Kubelets]) -> str:
    """Return what all replicas have logged: which one a Deployment's command ran in is not told."""
    return "".join(path.read_text() for path in stage.sandbox.control_plane_logs)
