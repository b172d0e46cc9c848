"""NodeModulesStates, as the API server has them."""

from kmm_common.api import names
from kmm_sandbox.kubeapi import KubeApi

STATES = f"/apis/{names.API_VERSION}/{names.NODE_MODULES_STATES}"


def connected(api: KubeApi) -> set[str]:
    """Return the nodes whose daemons have a session with the control plane."""
    return {
        each["metadata"]["name"]
        for each in api.items(STATES)
        if each.get("status", {}).get("daemon", {}).get("connected")
    }
