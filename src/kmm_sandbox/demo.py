"""`make sandbox`: one Module on three nodes, then the stage is the user's."""

import contextlib
import time
from pathlib import Path

from kmm_sandbox import samples
from kmm_sandbox.outcome import Outcome
from kmm_sandbox.relay import Relay
from kmm_sandbox.sandbox import Sandbox

LOOK_SECONDS = 1.0
NAME, KERNEL_MODULE, PARAMETER = "slip", "slip", "slip_maxdev=64"


def run(sandbox: Sandbox, relay: Relay) -> int:
    """Show a load, say how to go on, stay until interrupted. Raises SandboxError."""
    kubeconfig = _outside_kubeconfig(sandbox, relay)
    manifest = sandbox.directory / "module.yaml"
    with sandbox.progress.step(f"kmod image of {KERNEL_MODULE}, built and pushed"):
        image = samples.push(sandbox, NAME, (KERNEL_MODULE,))
        manifest.write_text(samples.module(NAME, image, KERNEL_MODULE, [PARAMETER]))
    with sandbox.progress.step(f"Module {NAME}: applied, loaded on {len(sandbox.nodes)} nodes"):
        sandbox.kubectl.apply(manifest.read_text())
        Outcome(sandbox, NAME, KERNEL_MODULE).wait_loaded()
    _show(sandbox)
    _explain(sandbox, kubeconfig, manifest)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(LOOK_SECONDS)
            sandbox.require_alive()
    return 0


def _outside_kubeconfig(sandbox: Sandbox, relay: Relay) -> Path:
    """Write a kubeconfig that works outside of the sandbox's network."""
    path = sandbox.directory / "kubeconfig"
    server = f"https://127.0.0.1:{relay.port}"
    return sandbox.plane.write_kubeconfig(path, "admin", ("system:masters",), server=server)


def _show(sandbox: Sandbox) -> None:
    print(f"\n$ kubectl get nodemodulesstate\n{sandbox.kubectl('get', 'nodemodulesstate')}")
    for name, node in sandbox.nodes.items():
        rows = "\n".join(node.loaded_modules()[each] for each in (KERNEL_MODULE, "slhc"))
        print(f"{name}: /proc/modules, Linux {sandbox.kernel.version}\n{rows}\n")
    labels = sandbox.kubectl(
        *("get", "nodes", "-L", f"kmm.node.kubernetes.io/default.{NAME}.ready"),
        *("-l", f"kmm.node.kubernetes.io/default.{NAME}.ready"),
    )
    print(f"$ kubectl get nodes -l kmm.node.kubernetes.io/default.{NAME}.ready\n{labels}")


def _explain(sandbox: Sandbox, kubeconfig: Path, manifest: Path) -> None:
    print(
        f"""The cluster is up. In another shell, from this checkout:

  export KUBECONFIG={kubeconfig} PATH=$PWD/.venv/bin:$PATH

  kubectl get nodemodulesstate --watch      # leave it running, then:
  kubectl edit module {NAME}                  # change {PARAMETER} and see it reload
  kubectl kmm status                        # the fleet at a glance

The sample is {manifest}; logs are in {sandbox.directory}.
On these nodes the sandbox plays kubelet: it keeps Nodes, Leases and the daemons' Pods true.
Ctrl-C ends everything and leaves nothing behind.""",
        flush=True,
    )
