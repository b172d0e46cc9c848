"""Settings of the control plane: a YAML or JSON file, overridden by KMM_CP_* variables; strict."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from kmm_common.settings import RELOADABLE, Address, ProgramSettings, Strict, load_settings

PREFIX = "KMM_CP_"


class TlsSettings(Strict):
    """PEM files of the serving side; read anew when they change."""

    cert: Path
    """The certificate that daemons are shown."""
    key: Path
    """Its private key."""
    ca: Path
    """What daemons' certificates must be signed by."""


class Settings(ProgramSettings):
    """Everything an administrator can set."""

    kubeconfig: Path | None = None
    """Empty in a Pod: the mounted service account is used."""
    namespace: str = Field(
        default="kmm-operator-system",
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        examples=["kmm-operator-system"],
    )
    """The operator's own namespace: daemon Pods and the ConfigMaps of served nodes are there."""
    replica: str = Field(default="", max_length=63)
    """Name of this replica; the host's name if empty, which is the Pod's name in a cluster."""
    listen: Address = "0.0.0.0:8443"
    """Where daemons connect."""
    metrics_listen: Address = "127.0.0.1:8080"
    """Where /metrics, /healthz and /readyz are served."""
    tls: TlsSettings
    trust_domain: str = Field(default="kmm.sigs.x-k8s.io", min_length=1)
    """Of the SPIFFE URI in daemons' certificates."""
    daemon_service_account: str = Field(default="kmm-daemon", min_length=1)
    """Service account of the daemon's Pods; a certificate that names another is refused."""
    daemon_daemonset: str = ""
    """DaemonSet that the daemon's Pods must belong to; if empty, anything may have made them."""
    tolerated_failures: Annotated[
        str, Field(pattern=r"^\d+%?$", examples=["3", "10%"]), RELOADABLE
    ] = "0"
    """How many nodes, or which share, may fail before a Module is Stalled."""
    disconnected_seconds: Annotated[float, Field(gt=0), RELOADABLE] = 300.0
    """How long a Module's deletion waits for a node whose daemon is away."""
    neighbours: Literal["refuse", "warn"] = "refuse"
    """Whether to start where another KMM is active: refuse, or warn and go on."""


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read settings; TerminalError names the field that is wrong and what it may be."""
    return load_settings(Settings, path, prefix=PREFIX, environment=environment)
