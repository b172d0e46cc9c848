"""`make sandbox`: one Module on all nodes, then the stage is the user's."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from kmm_common.api import names
from kmm_sandbox import samples
from kmm_sandbox.outcome import Outcome
from kmm_sandbox.progress import Progress
from kmm_sandbox.running import Running

LOOK_SECONDS = 1.0
NAME, KERNEL_MODULE, PARAMETER = "slip", "slip", "slip_maxdev=64"
READY = names.ready_label(samples.NAMESPACE, NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What is said at the end of one kind of nodes, lines of text."""

    commands: str
    """More commands to try, each with what it shows behind a `#`."""
    nodes: str
    """What these nodes are, and what is not as in other clusters."""


def run(sandbox: Running, progress: Progress, words: Words, *, port: int) -> int:
    """Show a load, say how to go on, stay until interrupted. Raises SandboxError.

    `port` is the API server's outside of the sandbox's network.
    """
    kubeconfig = _outside_kubeconfig(sandbox, port)
    manifest = sandbox.directory / "module.yaml"
    with progress.step(f"kmod image of {KERNEL_MODULE}, built and pushed"):
        image = samples.push(sandbox, NAME, (KERNEL_MODULE,))
        placement = sandbox.placement
        manifest.write_text(
            samples.module(NAME, image, KERNEL_MODULE, [PARAMETER], placement=placement)
        )
    with progress.step(f"Module {NAME}: applied, loaded on {len(sandbox.nodes)} nodes"):
        sandbox.kubectl.apply(manifest.read_text())
        Outcome(sandbox, NAME, KERNEL_MODULE).wait_loaded()
    _show(sandbox)
    with contextlib.suppress(KeyboardInterrupt):
        _explain(sandbox, words, kubeconfig, manifest)
        while True:
            time.sleep(LOOK_SECONDS)
            sandbox.require_alive()
    return 0


def _outside_kubeconfig(sandbox: Running, port: int) -> Path:
    """Write a kubeconfig that works outside of the sandbox's network."""
    path, server = sandbox.directory / "kubeconfig", f"https://127.0.0.1:{port}"
    return sandbox.plane.write_kubeconfig(path, "admin", ("system:masters",), server=server)


def _show(sandbox: Running) -> None:
    print(f"\n$ kubectl get nodemodulesstate\n{sandbox.kubectl('get', 'nodemodulesstate')}")
    for name, node in sandbox.nodes.items():
        modules = node.loaded_modules()
        rows = "\n".join(modules[each] for each in (KERNEL_MODULE, "slhc"))
        print(f"{name}: /proc/modules, Linux {sandbox.kernel.version}\n{rows}\n")
    labelled = sandbox.kubectl("get", "nodes", "-L", READY, "-l", READY)
    print(f"$ kubectl get nodes -l {READY}\n{labelled}")


def _explain(sandbox: Running, words: Words, kubeconfig: Path, manifest: Path) -> None:
    print(
        f"""The cluster is up. In another shell, from this checkout:

  export KUBECONFIG={kubeconfig} PATH=$PWD/.venv/bin:$PATH

  kubectl get nodemodulesstate --watch      # leave it running, then:
  kubectl edit module {NAME}                  # change {PARAMETER} and see it reload
  kubectl kmm status                        # the fleet at a glance
{words.commands}
The sample is {manifest}; logs are in {sandbox.directory}.
{words.nodes}
Ctrl-C ends everything and leaves nothing behind.""",
        flush=True,
    )
