"""The inner half of a sandbox with real kubelets."""

import argparse
import sys

from kmm_sandbox.binaries import find_binaries
from kmm_sandbox.cluster import kmm
from kmm_sandbox.cluster.cluster import Cluster
from kmm_sandbox.cluster.nodebinaries import find_node_binaries
from kmm_sandbox.cluster.operations import KubeletOperations
from kmm_sandbox.cluster.outer import IMAGES
from kmm_sandbox.demo import Words
from kmm_sandbox.inner import inside, relayed
from kmm_sandbox.kubelet import NAMESPACE
from kmm_sandbox.lifeline import Lifeline
from kmm_sandbox.modes import act
from kmm_sandbox.progress import Progress

WORDS = Words(
    commands=f"""\
  kubectl get pods -A -o wide               # what the kubelets run
  kubectl -n {NAMESPACE} logs daemonset/kmm-daemon
  kubectl -n {NAMESPACE} rollout restart deployment/kmm-cp
""",
    nodes="""\
Every node has a real kubelet and containerd. `host` is this machine's own kernel: KMM's control
plane is there, and no Module gets in. There is no DNS, and no NetworkPolicy is enforced.""",
)


def _run(options: argparse.Namespace, progress: Progress, lifeline: Lifeline) -> int:
    cluster = Cluster.start(
        options.directory,
        find_binaries(progress),
        find_node_binaries(progress),
        nodes=options.nodes,
        progress=progress,
        seccomp=kmm.SECCOMP,
    )
    try:
        with progress.step("KMM: its manifests and images, daemons enrolled"):
            kmm.install(cluster, options.directory / IMAGES)
        return act(
            options.mode,
            cluster,
            KubeletOperations(cluster),
            progress,
            WORDS,
            api_port=lambda: relayed(options, cluster),
        )
    finally:
        lifeline.let_go()
        cluster.stop()


if __name__ == "__main__":
    sys.exit(inside(_run))
