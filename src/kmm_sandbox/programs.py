"""How the sandbox starts KMM's own programs: their settings and command lines."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmm_sandbox.kubelet import NAMESPACE
from kmm_sandbox.network import HOST_ADDRESS

LINK_PORT = 8443
METRICS_PORT = 8080
SERVER_NAME = "kmm-cp"
USER = f"system:serviceaccount:{NAMESPACE}:kmm-cp"
"""Who the control plane is for the API server: the ServiceAccount of manifests/base/rbac.yaml."""
GROUPS = ("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}")
"""What the API server adds to a ServiceAccount by itself."""
REPLICA = "sandbox"
DAEMON = (sys.executable, "-m", "kmm_daemon.cli")
"""What the entry point of the daemon's image is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where kmm-cp listens."""

    host: str = HOST_ADDRESS
    link_port: int = LINK_PORT
    metrics_port: int = METRICS_PORT

    @property
    def link(self) -> str:
        """host:port for the daemons."""
        return f"{self.host}:{self.link_port}"

    @property
    def metrics(self) -> str:
        """host:port of its metrics."""
        return f"{self.host}:{self.metrics_port}"


FOR_NODES = Listening()
"""For nodes with addresses of their own."""


def control_plane_argv(settings: Path) -> list[str]:
    return [sys.executable, "-m", "kmm_cp.cli", "--config", str(settings)]


def control_plane_settings(
    kubeconfig: Path, tls: Path, listening: Listening = FOR_NODES
) -> dict[str, Any]:
    """Return kmm-cp's settings; `tls` holds kmm-cp.crt, kmm-cp.key and ca.crt."""
    return {
        "kubeconfig": str(kubeconfig),
        "namespace": NAMESPACE,
        "replica": REPLICA,
        "listen": listening.link,
        "metrics_listen": listening.metrics,
        "tls": tls_files(tls, "kmm-cp"),
        "log_format": "json",
    }


def daemon_settings() -> dict[str, Any]:
    """Return kmm-daemon's settings, with the paths of its Pod."""
    return {
        "server": FOR_NODES.link,
        "server_name": SERVER_NAME,
        "tls": tls_files(Path("/etc/kmm-tls"), "daemon"),
        "firmware_dir": "/var/lib/firmware",
        "drift_check_seconds": 5.0,
        "log_format": "json",
    }


def places() -> tuple[Path, ...]:
    """Return the directories that KMM's programs run from: Python, its packages, our own."""
    return Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[1]


def write_settings(path: Path, settings: dict[str, Any]) -> Path:
    """Write a settings file; return its path."""
    path.write_text(f"{json.dumps(settings, indent=2)}\n")
    return path


def tls_files(directory: Path, name: str) -> dict[str, str]:
    """Return the `tls` of a program's settings: NAME.crt, NAME.key and ca.crt."""
    return {
        "cert": str(directory / f"{name}.crt"),
        "key": str(directory / f"{name}.key"),
        "ca": str(directory / "ca.crt"),
    }
