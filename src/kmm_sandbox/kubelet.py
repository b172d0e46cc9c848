"""Plays kubelet for a node, openly: its Node and Lease, kept true, and the daemon's Pod."""

import contextlib
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kmm_common.clock import SystemClock, rfc3339
from kmm_sandbox.kubeapi import ApiError, KubeApi, Object
from kmm_sandbox.pod import DaemonPod

PERIOD_SECONDS = 1.0
LEASE_SECONDS = 40
LOOK_SECONDS = 5.0
"""Between two looks at what others have made of the status."""
STALE_SECONDS = 10.0
"""A guest whose heartbeat is older is down."""
NAMESPACE = "kmm-operator-system"
SERVICE_ACCOUNT = "kmm-daemon"
DAEMON_SET = "kmm-daemon"

_NODES = "/api/v1/nodes"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


class Machine(Protocol):
    """What a kubelet is of."""

    @property
    def system(self) -> str:
        """For people: what the Node's osImage says."""

    def facts(self) -> Object | None:
        """Return `boot_id` and `kernel` of the running boot; None while it is down."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A virtual machine that says by a heartbeat, a file, that it lives."""

    heartbeat: Path
    system: str = "User-Mode Linux"

    def facts(self) -> Object | None:
        """Return the newest heartbeat; None while it is old."""
        try:
            age = SystemClock().now().timestamp() - self.heartbeat.stat().st_mtime
            content: Object = json.loads(self.heartbeat.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return content if age < STALE_SECONDS else None


@dataclass(slots=True, kw_only=True)
class Kubelet:
    """One node's; a thread that says once a second what its machine says."""

    node: str
    address: str
    machine: Machine
    api: KubeApi
    labels: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    """Says nothing while this is set, as a kubelet that has died."""
    pod_uid: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _said: tuple[object, ...] = ()
    _look_at: float = 0.0

    def register(self) -> None:
        """Create the Node, its Lease and the daemon's Pod. Raises ApiError."""
        labels = {
            "kubernetes.io/hostname": self.node,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "node-role.kubernetes.io/worker": "",
            **self.labels,
        }
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node}}
        node["metadata"] = {"name": self.node, "labels": labels}
        self.api.ensure(_NODES, node)
        self.api.ensure(_LEASES, self._lease())
        self.api.ensure(_PODS, self._pod())
        self.pod_uid = self.api.get(f"{_PODS}/{self.pod}")["metadata"]["uid"]

    @property
    def pod(self) -> str:
        """Name of the daemon's Pod."""
        return f"{DAEMON_SET}-{self.node}"

    def start(self) -> None:
        """Speak until stop()."""
        self._thread = threading.Thread(target=self._run, name=f"kubelet {self.node}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Say nothing more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def say_again(self) -> None:
        """Say everything anew, as a kubelet does that starts."""
        self._said = ()

    def facts(self) -> Object | None:
        """Return what the machine says of its boot; None while it is down."""
        return self.machine.facts()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_SECONDS):
            if self.silent:
                continue
            # The next second is the next chance; the API server may be away.
            with contextlib.suppress(ApiError, OSError):
                self._speak(self.facts())

    def _speak(self, facts: Object | None) -> None:
        """Renew the Lease while the machine lives; write the status when it is not what it was."""
        if facts is None:
            return
        self.api.merge(f"{_LEASES}/{self.node}", {"spec": self._lease()["spec"]})
        said = (facts["boot_id"], facts["kernel"])
        if said == self._said and not self._overruled():
            return
        self.api.merge(f"{_NODES}/{self.node}/status", {"status": self._status(facts)})
        self.api.merge(f"{_PODS}/{self.pod}/status", {"status": {"phase": "Running"}})
        self._said = said

    def _overruled(self) -> bool:
        """Tell whether the controller manager has taken the node for lost; look now and then."""
        now = SystemClock().monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_SECONDS
        conditions = self.api.get(f"{_NODES}/{self.node}")["status"].get("conditions") or ()
        return not any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def _status(self, facts: Object) -> Object:
        now = rfc3339(SystemClock().now())
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "SandboxKubelet",
            "message": "the machine is up",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        return {
            "conditions": [ready],
            "addresses": [{"type": "InternalIP", "address": self.address}],
            "nodeInfo": {
                "kernelVersion": facts["kernel"],
                "bootID": facts["boot_id"],
                "architecture": "amd64",
                "operatingSystem": "linux",
                "osImage": self.machine.system,
                "machineID": self.node,
                "systemUUID": self.node,
                "containerRuntimeVersion": "none://sandbox",
                "kubeletVersion": "sandbox",
                "kubeProxyVersion": "",
            },
        }

    def _lease(self) -> Object:
        now = SystemClock().now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            "holderIdentity": self.node,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": now,
        }
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.node, "namespace": "kube-node-lease"},
            "spec": spec,
        }

    def _pod(self) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.pod,
                "namespace": NAMESPACE,
                "labels": {"app.kubernetes.io/name": DAEMON_SET},
            },
            "spec": {
                **DaemonPod.read().spec,
                "nodeName": self.node,
                # A Pod of the sandbox has no kubelet that could say it has ended.
                "terminationGracePeriodSeconds": 0,
            },
        }
