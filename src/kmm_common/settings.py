"""Strict settings from a YAML file and the environment; used by every program of KMM."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kmm_common.errors import TerminalError

INVALID = "InvalidSettings"

HIGHEST_PORT = 65535


def _with_a_port(address: str) -> str:
    if int(address.rpartition(":")[2]) > HIGHEST_PORT:
        raise ValueError(f"the port is above {HIGHEST_PORT}")
    return address


Address = Annotated[
    str,
    Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^:\s]*):\d{1,5}$"),
    AfterValidator(_with_a_port),
]
"""host:port, [v6]:port or :port."""


class Strict(BaseModel):
    """Base of settings: unknown names are refused. A text under a field is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=Strict)


def load_settings(model: type[S], path: Path, *, prefix: str, environment: Mapping[str, str]) -> S:
    """Read settings; TerminalError names the field that is wrong and what it may be.

    A variable PREFIX_NAME overrides the field `name`; its value is YAML.
    """
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise TerminalError(f"settings file {path}: {error}", reason=INVALID) from error
    if not isinstance(content, dict):
        raise TerminalError(f"settings file {path}: must be a mapping of settings", reason=INVALID)
    try:
        return model.model_validate({**content, **_overrides(prefix, environment)})
    except ValidationError as error:
        problems = "; ".join(_told(problem) for problem in error.errors())
        raise TerminalError(f"settings file {path}: {problems}", reason=INVALID) from None


def _overrides(prefix: str, environment: Mapping[str, str]) -> dict[str, Any]:
    return {
        key.removeprefix(prefix).lower(): yaml.safe_load(value)
        for key, value in environment.items()
        if key.startswith(prefix)
    }


def _told(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{field}: there is no such setting; remove it or correct its name"
    if problem["type"] == "missing":
        return f"{field}: must be set"
    return f"{field}: {problem['msg']}"
