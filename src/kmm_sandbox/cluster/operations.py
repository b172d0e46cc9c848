"""Operations on nodes with kubelets: power cuts, and kmm-cp as the Pods of its Deployment."""

from dataclasses import dataclass

from kmm_sandbox.cluster.cluster import Cluster
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.kubelet import NAMESPACE
from kmm_sandbox.processes import wait_until
from kmm_sandbox.programs import METRICS_PORT
from kmm_sandbox.replicas import Replicas

ROLLOUT_SECONDS = 300.0
_DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/kmm-cp"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app.kubernetes.io%2Fname%3Dkmm-cp"


@dataclass(frozen=True, slots=True)
class KubeletOperations:
    """On a cluster that KMM is installed on."""

    cluster: Cluster

    def reboot(self, node: str) -> str:
        """Cut a node's power, switch it on, wait until it is Ready; return the boot's id."""
        self.cluster.power_cycle(node)
        return self.cluster.node_info(node)["bootID"]

    def restart_control_plane(self) -> None:
        """Have the Deployment replace its Pods, and wait until the old ones are gone."""
        before = self._uids()
        self.cluster.kubectl("-n", NAMESPACE, "rollout", "restart", "deployment/kmm-cp")
        wait_until(
            lambda: self._rolled_out() and not before & self._uids(),
            seconds=ROLLOUT_SECONDS,
            what="new Pods in the place of all of kmm-cp",
        )

    def replicas(self) -> Replicas:
        """Return those of the Deployment, by the addresses of their Pods."""
        return Replicas([f"{pod['status']['podIP']}:{METRICS_PORT}" for pod in self._pods()])

    def _pods(self) -> list[Object]:
        return self.cluster.api.items(_PODS)

    def _uids(self) -> set[str]:
        return {pod["metadata"]["uid"] for pod in self._pods()}

    def _rolled_out(self) -> bool:
        self.cluster.require_alive()
        return rolled_out(self.cluster.api.get(_DEPLOYMENT))


def rolled_out(deployment: Object) -> bool:
    """Tell whether all Pods that a Deployment has are of its newest revision, and ready."""
    status, wanted = deployment["status"], deployment["spec"]["replicas"]
    numbers = (status.get(each) for each in ("replicas", "updatedReplicas", "readyReplicas"))
    current = status["observedGeneration"] == deployment["metadata"]["generation"]
    return current and all(number == wanted for number in numbers)
