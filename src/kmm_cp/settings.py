"""Settings of the control plane: a YAML file, overridden by KMM_CP_* variables; strict."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kmm_common.errors import TerminalError

_PREFIX = "KMM_CP_"
_Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^:\s]*):\d{1,5}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsFiles(_Strict):
    """PEM files of the serving side; read anew when they change."""

    cert: Path
    key: Path
    ca: Path
    """What daemons' certificates must be signed by."""


class Settings(_Strict):
    """Everything an administrator can set."""

    kubeconfig: Path | None = None
    """Empty in a Pod: the mounted service account is used."""
    namespace: str = Field(
        default="kmm-operator-system", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
    )
    """The operator's own namespace: daemon Pods and the ConfigMaps of served nodes are there."""
    replica: str = Field(default="", max_length=63)
    """Name of this replica; the host's name if empty, which is the Pod's name in a cluster."""
    listen: _Address = "0.0.0.0:8443"
    """Where daemons connect."""
    metrics_listen: _Address = "127.0.0.1:8080"
    """Where /metrics, /healthz and /readyz are served."""
    tls: TlsFiles
    trust_domain: str = Field(default="kmm.sigs.x-k8s.io", min_length=1)
    """Of the SPIFFE URI in daemons' certificates."""
    daemon_service_account: str = Field(default="kmm-daemon", min_length=1)
    tolerated_failures: Annotated[str, Field(pattern=r"^\d+%?$")] = "0"
    """How many nodes, or which share, may fail before a Module is Stalled."""
    disconnected_seconds: float = Field(default=300.0, gt=0)
    """How long a Module's deletion waits for a node whose daemon is away."""
    log_format: Literal["text", "json"] = "text"


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read settings; TerminalError names the field that is wrong and what it may be."""
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise TerminalError(f"settings file {path}: {error}", reason="InvalidSettings") from error
    if not isinstance(content, dict):
        raise TerminalError(
            f"settings file {path}: must be a mapping of settings", reason="InvalidSettings"
        )
    try:
        return Settings.model_validate({**content, **_overrides(environment)})
    except ValidationError as error:
        problems = "; ".join(_told(problem) for problem in error.errors())
        raise TerminalError(f"settings file {path}: {problems}", reason="InvalidSettings") from None


def _overrides(environment: Mapping[str, str]) -> dict[str, Any]:
    return {
        key.removeprefix(_PREFIX).lower(): yaml.safe_load(value)
        for key, value in environment.items()
        if key.startswith(_PREFIX)
    }


def _told(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{field}: there is no such setting; remove it or correct its name"
    return f"{field}: {problem['msg']}"
