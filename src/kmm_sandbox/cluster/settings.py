"""The settings files of a node: kubelet's, containerd's and the network plug-in's."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmm_sandbox.cluster.cgroups import Cgroups
from kmm_sandbox.cluster.images import PAUSE
from kmm_sandbox.cluster.nodebinaries import CNI_PLUGINS
from kmm_sandbox.network import HOST_ADDRESS, REGISTRY_PORT

Object = dict[str, Any]
REGISTRY = f"{HOST_ADDRESS}:{REGISTRY_PORT}"
"""The sandbox's, which speaks plain HTTP."""
SOCKET = "/run/containerd/containerd.sock"
NOTHING_IS_EVICTED = {
    "memory.available": "10Mi",
    "nodefs.available": "0%",
    "imagefs.available": "0%",
    "nodefs.inodesFree": "0%",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """One node's, below a directory that has the same path for the node."""

    directory: Path
    number: int
    """Of the node in the cluster: it makes the addresses of its Pods."""
    cgroups: Cgroups | None = None
    """Below which those of Pods are, for a node that has not a kernel of its own."""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Object, ...] = ()

    @property
    def pki(self) -> Path:
        """Has node.crt, node.key and ca.crt."""
        return self.directory / "pki"

    @property
    def kubeconfig(self) -> Path:
        return self.pki / "kubeconfig"

    @property
    def proxy_kubeconfig(self) -> Path:
        return self.pki / "kube-proxy.kubeconfig"

    @property
    def seccomp(self) -> Path:
        """Profiles that kubelet is given, by their names in Pods."""
        return self.directory / "seccomp"

    @property
    def kubelet(self) -> Path:
        return self.directory / "kubelet.json"

    @property
    def containerd(self) -> Path:
        return self.directory / "containerd.toml"

    @property
    def registries(self) -> Path:
        """How containerd speaks to registries, in a directory for each."""
        return self.directory / "registries"

    @property
    def images(self) -> Path:
        """OCI archives that containerd is given."""
        return self.directory / "images"

    @property
    def pod_logs(self) -> Path:
        """What containers log, in a directory for each Pod."""
        return self.directory / "pod-logs"

    @property
    def pods(self) -> str:
        """The addresses of the node's Pods."""
        return f"10.244.{self.number}.0/24"

    def write(self) -> None:
        """Write all of them."""
        own = (self.pki, self.images, self.seccomp, self.pod_logs, self.directory / "cni")
        for directory in own:
            directory.mkdir(parents=True, exist_ok=True)
        self.kubelet.write_text(json.dumps(self.kubelet_content(), indent=2))
        self.containerd.write_text(self.containerd_content())
        hosts = self.registries / REGISTRY / "hosts.toml"
        hosts.parent.mkdir(parents=True, exist_ok=True)
        # containerd 1.6 does not read one without a host.
        hosts.write_text(f'server = "http://{REGISTRY}"\n[host."http://{REGISTRY}"]\n')
        network = self.directory / "cni" / "10-sandbox.conflist"
        network.write_text(json.dumps(self.network_content(), indent=2))

    def kubelet_content(self) -> Object:
        """Return kubelet's configuration."""
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(self.pki / "node.crt"),
            "tlsPrivateKeyFile": str(self.pki / "node.key"),
            "cgroupDriver": "cgroupfs",
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            # A machine with more work than processors is slow to make containers.
            "runtimeRequestTimeout": "5m",
            "failSwapOn": False,
            # Made at its start, by default below /usr/libexec.
            "volumePluginDir": str(self.directory / "volume-plugins"),
            "resolvConf": "",
            "imageGCHighThresholdPercent": 100,
            "evictionHard": NOTHING_IS_EVICTED,
            "registerWithTaints": [*self.taints],
            **(self.cgroups.kubelet_settings if self.cgroups else {}),
        }

    def containerd_content(self) -> str:
        """Return containerd's configuration, in the version that 1.6 and 2 read."""
        return f"""\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE no Pod starts otherwise.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{self.directory / "cni"}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{self.registries}"
# Made at its start, by default below /opt.
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.directory / "opt"}"
"""

    def network_content(self) -> Object:
        """Return the plug-in's: a bridge for the Pods, routed, nothing translated."""
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": self.pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": addresses}
        return {"cniVersion": "0.4.0", "name": "sandbox", "plugins": [bridge]}
