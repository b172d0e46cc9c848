"""The inner half of a sandbox with real kubelets."""

import argparse
import sys

from kmm_sandbox import inner
from kmm_sandbox.binaries import find_binaries
from kmm_sandbox.cluster import demo, kmm
from kmm_sandbox.cluster.cluster import Cluster
from kmm_sandbox.cluster.outer import IMAGES
from kmm_sandbox.cluster.programs import find_programs
from kmm_sandbox.lifeline import Lifeline
from kmm_sandbox.progress import Progress

MODE = "cluster"


def _run(options: argparse.Namespace, progress: Progress, lifeline: Lifeline) -> int:
    cluster = Cluster.start(
        options.directory,
        find_binaries(progress),
        find_programs(progress),
        nodes=options.nodes,
        progress=progress,
        seccomp=kmm.SECCOMP,
    )
    try:
        with progress.step("KMM, by its manifests and images"):
            kmm.install(cluster, options.directory / IMAGES)
        return demo.run(cluster, inner.started_relay(options, cluster.plane), progress)
    finally:
        lifeline.let_go()
        cluster.stop()


if __name__ == "__main__":
    sys.exit(inner.inside(_run, modes=[MODE]))
