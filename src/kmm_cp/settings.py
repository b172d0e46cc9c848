"""Settings of the control plane: a YAML or JSON file, overridden by KMM_CP_* variables; strict."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kmm_common.settings import (
    RELOADABLE,
    Address,
    MetricsTlsSettings,
    ProgramSettings,
    Strict,
    load_settings,
)
from kmm_cp.policy.neighbours import LEASE

PREFIX = "KMM_CP_"


class TlsSettings(Strict):
    """PEM files of the serving side; read anew when they change."""

    cert: Path
    """The certificate that daemons are shown."""
    key: Path
    """Its private key."""
    ca: Path
    """What daemons' certificates must be signed by."""


class LeaseSettings(Strict):
    """How replicas elect the one that leads; the same for all of them."""

    name: str = Field(default="kmm-cp", pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    """The Lease in `namespace` that the leader holds."""
    duration_seconds: float = Field(default=15.0, ge=1, le=3600)
    """How long the others wait for a leader that does not renew the Lease."""
    renew_deadline_seconds: float = Field(default=10.0, gt=0)
    """After which a leader that could not renew it stops; less than `lease.duration_seconds`."""
    retry_period_seconds: float = Field(default=2.0, gt=0)
    """How often the Lease is renewed, or looked at; less than half of
    `lease.renew_deadline_seconds`."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        duration, deadline = self.duration_seconds, self.renew_deadline_seconds
        if self.name == LEASE:
            raise ValueError(f"name must not be {LEASE}: it is what upstream KMM's leader holds")
        if deadline >= duration:
            raise ValueError(
                f"renew_deadline_seconds ({deadline:g}) must be less than duration_seconds"
                f" ({duration:g}): a leader must have stopped before another one begins"
            )
        if self.retry_period_seconds * 2 >= deadline:
            raise ValueError(
                f"retry_period_seconds ({self.retry_period_seconds:g}) must be less than half of"
                f" renew_deadline_seconds ({deadline:g}): one failure must not end a leadership"
            )
        return self


class EnrolmentSettings(Strict):
    """Own certificates for daemons, where there is no cert-manager."""

    listen: Address = "0.0.0.0:8444"
    """Where daemons without a certificate ask for one."""
    secret: str = Field(default="kmm-ca", min_length=1)
    """Secret of the operator's namespace for the authority and its key; it must be there."""
    config_map: str = Field(default="kmm-ca", min_length=1)
    """ConfigMap of the operator's namespace for what daemons trust; written as ca.crt in it."""
    server_names: tuple[str, ...] = ()
    """What our own certificate names; kmm-cp.<namespace>.svc if empty."""
    certificate_seconds: float = Field(default=86400.0, ge=900, le=30 * 86400.0)
    """How long certificates are valid that the authority signs; daemons renew at two thirds."""


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
    """Name of this replica, of which no other may have it; the host's name if empty, which is the
    Pod's name in a cluster."""
    lease: LeaseSettings = LeaseSettings()
    """How replicas elect the one that leads."""
    listen: Address = "0.0.0.0:8443"
    """Where daemons connect."""
    metrics_listen: Address = "127.0.0.1:8080"
    """Where /metrics, /healthz and /readyz are served."""
    metrics_tls: MetricsTlsSettings | None = None
    """Set to serve `metrics_listen` by TLS, and /metrics to some certificates only; /healthz and
    /readyz need none."""
    tls: TlsSettings
    enrolment: EnrolmentSettings | None = None
    """Set to have daemons enrol with tokens of their Pods. The files of `tls` are then written by
    the control plane itself, into one directory, which should be in memory."""
    scraper_secret: str = ""
    """Secret of the operator's namespace, which must be there, for the certificate by which
    Prometheus reads daemons' metrics; needs `enrolment`, whose authority signs it."""
    trust_domain: str = Field(default="kmm.sigs.x-k8s.io", min_length=1)
    """Of the SPIFFE URI in daemons' certificates."""
    daemon_service_account: str = Field(default="kmm-daemon", min_length=1)
    """Service account of the daemon's Pods; a certificate that names another is refused."""
    daemon_daemonset: str = ""
    """DaemonSet that the daemon's Pods must belong to; if empty, anything may have made them."""
    daemon_template: str = ""
    """PodTemplate of the operator's namespace of which the leader makes `daemon_daemonset`, and
    keeps it so; if empty, that DaemonSet is somebody else's."""
    daemon_max_unavailable: str = Field(default="10%", pattern=r"^\d+%?$", examples=["1", "10%"])
    """How many daemons, or which share, are replaced at once where the template changes."""
    deployment: str = Field(default="kmm-cp", min_length=1)
    """Deployment of the control plane, which owns the DaemonSet: that goes with it."""
    tolerated_failures: Annotated[
        str, Field(pattern=r"^\d+%?$", examples=["3", "10%"]), RELOADABLE
    ] = "0"
    """How many nodes, or which share, may fail before a Module is Stalled."""
    disconnected_seconds: Annotated[float, Field(gt=0), RELOADABLE] = 300.0
    """How long a Module's deletion waits for a node whose daemon is away."""
    neighbours: Literal["refuse", "warn"] = "refuse"
    """Whether to start where another KMM is active: refuse, or warn and go on."""

    @model_validator(mode="after")
    def _files_of_enrolment_together(self) -> Self:
        files = (self.tls.cert, self.tls.key, self.tls.ca)
        if self.enrolment and len({path.parent for path in files}) > 1:
            raise ValueError(
                "tls.cert, tls.key, tls.ca: must be in one directory, where enrolment is set: they"
                " are replaced all at once"
            )
        return self

    @model_validator(mode="after")
    def _scraper_has_an_authority_and_a_secret_of_its_own(self) -> Self:
        if self.scraper_secret and self.enrolment is None:
            raise ValueError(
                "scraper_secret: needs enrolment, whose authority signs; leave it empty where"
                " cert-manager issues certificates"
            )
        if self.enrolment is not None and self.scraper_secret == self.enrolment.secret:
            raise ValueError(
                "scraper_secret: must be another Secret than enrolment.secret, which it would"
                " overwrite: the authority's keys"
            )
        return self

    @model_validator(mode="after")
    def _template_has_a_name(self) -> Self:
        if self.daemon_template and not self.daemon_daemonset:
            raise ValueError(
                "daemon_daemonset: must be set where daemon_template is: it is its name"
            )
        return self


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read settings; TerminalError names the field that is wrong and what it may be."""
    return load_settings(Settings, path, prefix=PREFIX, environment=environment)
