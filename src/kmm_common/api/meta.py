"""The parts of Kubernetes' own types that KMM's API uses."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from kmm_common.api.codec import camel


class ApiModel(BaseModel):
    """Base of all API models: camelCase, frozen; fields of a newer version are ignored."""

    model_config = ConfigDict(
        alias_generator=camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )


def _opaque(value: dict[str, Any]) -> dict[str, Any]:
    return value


Opaque = Annotated[
    dict[str, Any],
    AfterValidator(_opaque),
    Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}),
]
"""A type of Kubernetes' own that is passed on as it is."""


class ObjectMeta(ApiModel):
    """metadata, as far as it is used."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class LocalObjectReference(ApiModel):
    """An object in the same namespace."""

    name: Annotated[str, Field(max_length=253)] = ""
    """Name of the object."""


class Toleration(ApiModel):
    """core/v1 Toleration."""

    key: str = ""
    """Taint key that this tolerates; empty with operator Exists tolerates every key."""
    operator: str = ""
    """Equal (the default) or Exists."""
    value: str = ""
    """Taint value that this tolerates."""
    effect: str = ""
    """NoSchedule, PreferNoSchedule or NoExecute; empty tolerates all of them."""
    toleration_seconds: int | None = None
    """How long a NoExecute taint is tolerated; for ever if unset."""


class Condition(ApiModel):
    """metav1 Condition."""

    type: Annotated[str, Field(max_length=316)]
    """Ready, Reconciling, Stalled, NotActedOn, Paused or DeletionWaits."""
    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown."""
    observed_generation: int = 0
    """metadata.generation that this condition is about."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When status changed last."""
    reason: Annotated[str, Field(max_length=1024)]
    """PascalCase word for programs."""
    message: Annotated[str, Field(max_length=32768)]
    """Sentence for people."""
