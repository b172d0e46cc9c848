"""How far a NodeModulesState's status tells what is in a node's kernel now."""

from enum import Enum

from kmm_common.desired import DesiredModule, ModuleState, ReportedModule, config_hash
from kmm_cp.policy.values import Node, NodeState


class Truth(Enum):
    """What a status is worth."""

    UNKNOWN = "nothing was said yet"
    CURRENT = "it is about the running boot"
    PAST = "the node has booted since: nothing it says is in the kernel"


def truth_of(node: Node, state: NodeState | None, *, live: bool) -> Truth:
    """Judge a node's status; `live`: a session of the node stands, so its boot id is the truth."""
    if state is None or not state.status.boot_id:
        return Truth.UNKNOWN
    if live or node.boot_id in ("", state.status.boot_id):
        return Truth.CURRENT
    return Truth.PAST


def is_loaded(entry: DesiredModule, report: ReportedModule | None, state: NodeState) -> bool:
    """Tell whether a report of the running boot says that exactly this entry is loaded."""
    if report is None or report.uid != entry.uid or report.state is not ModuleState.LOADED:
        return False
    if entry.image_digest:
        return report.in_kernel and report.config_hash == entry.config_hash
    # The hash does not cover the image's name: only a daemon that is done with this very spec
    # speaks of this image.
    told = config_hash(entry, image_digest=report.image_digest)
    return report.in_kernel and state.settled and report.config_hash == told
