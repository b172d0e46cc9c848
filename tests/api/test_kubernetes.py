"""The release of Kubernetes that the tier means is the one that it runs against."""

from kmm_sandbox.processes import run
from support.cluster import Cluster, release


def test_server_and_kubectl_are_of_the_release_that_the_tier_is_for(kubernetes: Cluster) -> None:
    served = kubernetes.api.get("/version")
    assert f"{served['major']}.{served['minor']}" == release().minor, served["gitVersion"]
    assert f"v{release().minor}." in run(
        [str(kubernetes.kubectl.program), "version", "--client"], limit=60
    )
