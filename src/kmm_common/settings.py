"""Strict settings from a YAML or JSON file and the environment; used by every program of KMM."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kmm_common.errors import TerminalError
from kmm_common.settingstext import parsed

INVALID = "InvalidSettings"

HIGHEST_PORT = 65535
_SHOWN = 64


def _with_a_port(address: str) -> str:
    if int(address.rpartition(":")[2]) > HIGHEST_PORT:
        raise ValueError(f"the port is above {HIGHEST_PORT}")
    return address


Address = Annotated[
    str,
    Field(
        pattern=r"^(\[[0-9a-fA-F:]+\]|[^:\s]*):\d{1,5}$", examples=["0.0.0.0:8443", "[::1]:8443"]
    ),
    AfterValidator(_with_a_port),
]
"""host:port, [v6]:port or :port."""


class _Reloadable:
    """Marks a setting that is taken while the program runs."""


RELOADABLE = _Reloadable()
"""For Annotated: a change of this setting needs no restart."""


class Strict(BaseModel):
    """Base of settings: unknown names are refused. A text under a field is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ProgramSettings(Strict):
    """What an administrator can set of every program."""

    log_format: Annotated[Literal["text", "json"], RELOADABLE] = "text"
    """text for people, json for programs."""
    log_level: Annotated[Literal["info", "warning", "error"], RELOADABLE] = "info"
    """The lowest level that is logged; above info, steps of nodes and Modules are left out."""
    registry_ca: Path | None = None
    """PEM file of certificate authorities for registries, instead of the system's; read anew at
    every connection."""


class MetricsTlsSettings(Strict):
    """Metrics for whoever has a certificate; PEM files, read anew when they change."""

    cert: Path
    """The certificate that scrapers and probes are shown."""
    key: Path
    """Its private key."""
    ca: Path
    """What scrapers' certificates must be signed by."""
    names: Annotated[tuple[str, ...], Field(min_length=1)]
    """DNS names or URIs, one of which a scraper's certificate must have."""


S = TypeVar("S", bound=Strict)


def is_reloadable(model: type[Strict], name: str) -> bool:
    """Tell whether a change of a setting is taken without a restart."""
    return RELOADABLE in model.model_fields[name].metadata


def load_settings(model: type[S], path: Path, *, prefix: str, environment: Mapping[str, str]) -> S:
    """Read settings; TerminalError names the field that is wrong and what it may be.

    A variable PREFIX_NAME overrides the field `name`; its value is YAML or JSON.
    """
    content, overrides = _content(path), _overrides(prefix, environment)
    try:
        return model.model_validate({**content, **overrides})
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        for problem in error.errors():
            name = str(next(iter(problem["loc"]), ""))
            place = (
                f"variable {prefix}{name.upper()}" if name in overrides else f"settings file {path}"
            )
            problems.setdefault(place, []).append(_told(model, problem))
        told = (f"{place}: {'; '.join(found)}" for place, found in problems.items())
        raise TerminalError("; ".join(told), reason=INVALID) from None


def _content(path: Path) -> dict[str, Any]:
    try:
        content = parsed(path.read_text()) or {}
    except (OSError, ValueError) as error:
        raise TerminalError(f"settings file {path}: {error}", reason=INVALID) from error
    if not isinstance(content, dict):
        raise TerminalError(f"settings file {path}: must be a mapping of settings", reason=INVALID)
    return content


def _overrides(prefix: str, environment: Mapping[str, str]) -> dict[str, Any]:
    found = {key: value for key, value in environment.items() if key.startswith(prefix)}
    return {key.removeprefix(prefix).lower(): _variable(key, found[key]) for key in found}


def _variable(key: str, value: str) -> Any:
    try:
        return parsed(value)
    except ValueError as error:
        raise TerminalError(f"variable {key}: {error}", reason=INVALID) from error


def _told(model: type[Strict], problem: Any) -> str:
    """Return the field's name and what it may be."""
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{field}: there is no such setting; remove it or correct its name"
    if problem["type"] == "missing":
        return f"{field}: must be set"
    examples = _examples(model, problem["loc"])
    if problem["type"] == "string_pattern_mismatch" and examples:
        given = str(problem["input"])[:_SHOWN]
        return f"{field}: {given!r} is not taken; it must be like {' or '.join(examples)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else str(message)


def _examples(model: type[Strict], loc: Sequence[int | str]) -> list[str]:
    """Return examples of a setting, which may be one within others."""
    if not loc or loc[0] not in model.model_fields:
        return []
    info = model.model_fields[str(loc[0])]
    for inner in (info.annotation, *get_args(info.annotation)):
        if isinstance(inner, type) and issubclass(inner, Strict):
            return _examples(inner, loc[1:])
    return [str(example) for example in info.examples or ()]
