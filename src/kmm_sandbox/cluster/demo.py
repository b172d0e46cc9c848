"""`make sandbox-cluster`: KMM applied, one Module loaded, then the stage is the user's."""

import contextlib
import time
from pathlib import Path

from kmm_sandbox import samples
from kmm_sandbox.cluster.cluster import Cluster
from kmm_sandbox.outcome import Outcome
from kmm_sandbox.progress import Progress
from kmm_sandbox.relay import Relay

LOOK_SECONDS = 1.0
NAME = "slip"


def run(cluster: Cluster, relay: Relay, progress: Progress) -> int:
    """Show a load, say how to go on, stay until interrupted. Raises SandboxError."""
    with progress.step(f"Module {NAME}: applied, loaded on {len(cluster.nodes)} nodes"):
        image = samples.push(cluster, NAME, (NAME,))
        cluster.kubectl.apply(samples.module(NAME, image, NAME, placement=cluster.placement))
        Outcome(cluster, NAME, NAME).wait_loaded()
    kubeconfig = cluster.directory / "kubeconfig"
    server = f"https://127.0.0.1:{relay.port}"
    cluster.plane.write_kubeconfig(kubeconfig, "admin", ("system:masters",), server=server)
    _show(cluster, kubeconfig)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(LOOK_SECONDS)
            cluster.require_alive()
    return 0


def _show(cluster: Cluster, kubeconfig: Path) -> None:
    for asked in (("nodes", "-o", "wide"), ("pods", "-A", "-o", "wide"), ("nodemodulesstates",)):
        print(f"\n$ kubectl get {' '.join(asked)}\n{cluster.kubectl('get', *asked)}")
    print(
        f"""The cluster is up. In another shell, from this checkout:

  export KUBECONFIG={kubeconfig} PATH=$PWD/.venv/bin:$PATH

  kubectl -n kmm-operator-system logs daemonset/kmm-daemon
  kubectl -n kmm-operator-system rollout restart deployment/kmm-cp
  kubectl delete module {NAME}

Every node has a real kubelet and containerd; logs are in {cluster.directory}.
There is no DNS, and no NetworkPolicy is enforced. kube-proxy is on the node `host` only, which
is the router of the others. Ctrl-C ends everything and leaves nothing behind.""",
        flush=True,
    )
