"""Settings of the daemon: a YAML or JSON file, overridden by KMM_DAEMON_* variables; strict."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from kmm_common.settings import (
    RELOADABLE,
    Address,
    MetricsTlsSettings,
    ProgramSettings,
    Strict,
    load_settings,
)

PREFIX = "KMM_DAEMON_"


class TlsSettings(Strict):
    """PEM files; read anew at every connection."""

    cert: Path
    """The certificate that names the daemon's Pod."""
    key: Path
    """Its private key."""
    ca: Path
    """What the control plane's certificate must be signed by."""


class EnrolSettings(Strict):
    """A certificate for the token of the daemon's Pod, where there is no cert-manager."""

    server: Address
    """host:port of the control plane's `enrolment.listen`."""
    token: Path = Path("/var/run/secrets/kmm/token")
    """Token of a projected volume, of audience kmm.sigs.x-k8s.io; read anew every time."""


class Settings(ProgramSettings):
    """Everything an administrator can set."""

    server: Address
    """host:port of the control plane."""
    server_name: str = ""
    """What the control plane's certificate must name; the host of `server` if empty."""
    tls: TlsSettings
    enrol: EnrolSettings | None = None
    """Set to enrol with a token. `tls.cert` and `tls.key` are then written by the daemon, into one
    directory, which should be in memory."""
    run_dir: Path = Path("/run/kmm")
    """The journal; must not outlive a reboot."""
    state_dir: Path = Path("/var/lib/kmm")
    """Images and the list of firmware files; outlives a reboot."""
    firmware_dir: Path = Path("/lib/firmware")
    """The host's firmware directory, at the same path for kernel and daemon."""
    module_trees: tuple[Path, ...] = (Path("/lib/modules"), Path("/usr/lib/modules"))
    """Where the host keeps <kernel>/modules.builtin, modules.symbols and modules of its own."""
    image_cache_bytes: Annotated[int, Field(ge=64 * 2**20)] = 10 * 2**30
    """How much the images of Modules that are not desired any more may take."""
    image_user: Annotated[int, Field(ge=1, lt=2**32 - 1)] = 65532
    """uid and gid that images are pulled and unpacked as, in a process without root's rights."""
    drift_check_seconds: Annotated[float, Field(gt=0, le=60), RELOADABLE] = 30.0
    """How often the kernel is looked at when nothing else happens."""
    modprobe_seconds: Annotated[float, Field(gt=0), RELOADABLE] = 180.0
    """After which a modprobe is asked to end. A driver of many devices may take minutes."""
    modprobe_grace_seconds: Annotated[float, Field(gt=0), RELOADABLE] = 10.0
    """After which one that was asked is killed."""
    metrics_listen: Address = "127.0.0.1:8081"
    """Where /metrics, /healthz and /readyz are served."""
    metrics_tls: MetricsTlsSettings | None = None
    """Set to serve `metrics_listen` by TLS, and /metrics to some certificates only; /healthz and
    /readyz need none."""

    @model_validator(mode="after")
    def _files_of_enrolment_together(self) -> Self:
        if self.enrol and self.tls.cert.parent != self.tls.key.parent:
            raise ValueError(
                "tls.cert, tls.key: must be in one directory, where enrol is set: they are replaced"
                " at once"
            )
        return self


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read settings; TerminalError names the field that is wrong and what it may be."""
    return load_settings(Settings, path, prefix=PREFIX, environment=environment)
