"""What the daemon and its image worker say to each other: JSON, one message a line."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from kmm_common.desired import DesiredModule, ModuleFailure, ModuleRef
from kmm_common.oci.credentials import RegistryCredential

T = TypeVar("T")

LINE_BYTES = 4 * 2**20
"""Longest message; the control plane's own updates are no longer."""


class MessageError(ValueError):
    """A line is no message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """The first message to a worker: where it works, and within what bounds."""

    directory: Path
    max_bytes: int
    registry_ca: Path | None
    json_logs: bool
    kind: Literal["open"] = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Make an image ready. `needed` are the entries whose images must stay."""

    number: int
    module: DesiredModule
    needed: tuple[DesiredModule, ...]
    kind: Literal["prepare"] = "prepare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """Nobody waits for this Prepare any more."""

    number: int
    kind: Literal["withdraw"] = "withdraw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The answer to Ask; `error` says why there are none."""

    number: int
    credentials: tuple[RegistryCredential, ...] = ()
    error: str = ""
    kind: Literal["credentials"] = "credentials"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The image of a Prepare is on the node."""

    number: int
    digest: str
    kind: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The image of a Prepare cannot be had."""

    number: int
    failure: ModuleFailure
    retry: bool
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """The worker asks for the content of a Module's pull secret."""

    number: int
    ref: ModuleRef
    refresh: bool
    kind: Literal["ask"] = "ask"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """Nothing to say, but the worker is not stuck."""

    kind: Literal["alive"] = "alive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """The worker cannot use its directory, and ends."""

    message: str
    kind: Literal["unusable"] = "unusable"


Request = Open | Prepare | Withdraw | Credentials
Answer = Ready | Failed | Ask | Alive | Unusable


Reader = Callable[..., T]


# Each process keeps what it reads by, and of that not the adapter: all of it would stay in the
# memory of an idle daemon.
@cache
def _requests() -> Reader[Request]:
    return TypeAdapter(Annotated[Request, Field(discriminator="kind")]).validator.validate_json


@cache
def _answers() -> Reader[Answer]:
    return TypeAdapter(Annotated[Answer, Field(discriminator="kind")]).validator.validate_json


def encode_request(request: Request) -> bytes:
    """Return a line for the worker; it may hold secrets."""
    return to_json(request) + b"\n"


def decode_request(line: bytes) -> Request:
    """Return what the daemon said. Raises MessageError."""
    return _decoded(_requests(), line)


def encode_answer(answer: Answer) -> bytes:
    """Return a line for the daemon."""
    return to_json(answer) + b"\n"


def decode_answer(line: bytes) -> Answer:
    """Return what the worker said, which the daemon does not trust. Raises MessageError."""
    return _decoded(_answers(), line)


def _decoded(read: Reader[T], line: bytes) -> T:
    try:
        return read(line, strict=True)
    except ValidationError as error:
        # Without the input: it may hold a secret.
        kinds = ", ".join(
            sorted({problem["type"] for problem in error.errors(include_input=False)})
        )
        raise MessageError(f"not a message: {kinds}") from None
