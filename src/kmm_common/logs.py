"""Structured logs: constant messages, values in fields, one line per change of state.

The messages in `Fact` are the product's history: a test harness, or a person with grep, can follow
one generation from the control plane to the kernel and back by them.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TextIO

_FIELDS = "kmm_fields"


class Fact(StrEnum):
    """Messages that mark a step of desired or reported state, with their fields."""

    PUBLISHED = "desired state published"
    """node, uid, generation, modules: [{ref, digest, hash}]; by the node reconciler."""
    SENT = "update sent"
    """node, session, uid, generation, kind."""
    ACCEPTED = "update journaled"
    """uid, generation, boot_id; by the daemon."""
    STEP_STARTED = "step started"
    """step: load | unload, ref, uid, generation, digest, hash, boot_id."""
    STEP_ENDED = "step ended"
    """The fields of STEP_STARTED, and ok, reason."""
    REPORTED = "state reported"
    """sequence, uid, generation, modules: [{ref, state, in_kernel, hash}]."""
    PERSISTED = "status persisted"
    """node, instance, sequence."""
    LABELLED = "node labelled"
    """node, boot_id, added, removed."""


_SHARED: ContextVar[Mapping[str, Any]] = ContextVar(
    "kmm_shared_fields", default=MappingProxyType({})
)
"""What all lines of a piece of work have, also those of the tasks that it starts."""


@contextmanager
def shared_fields(**fields: Any) -> Iterator[None]:
    """Give every line that is logged in the body, and in what it starts, these fields too."""
    token = _SHARED.set({**_SHARED.get(), **fields})
    try:
        yield
    finally:
        _SHARED.reset(token)


def log(logger: logging.Logger, level: int, message: str, **fields: Any) -> None:
    """Log a constant message with its values in fields."""
    logger.log(level, message, extra={_FIELDS: {**_SHARED.get(), **fields}})


def log_crash(logger: logging.Logger, message: str, **fields: Any) -> None:
    """Log the exception that is being handled, with its traceback, as an error of ours."""
    logger.exception(message, extra={_FIELDS: {**_SHARED.get(), **fields}})


def configure(*, as_json: bool, level: int = logging.INFO, stream: TextIO = sys.stderr) -> None:
    """Send the process's logs to a stream, as JSON lines or as text for people."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a record; empty for one that a library logged."""
    fields: dict[str, Any] = getattr(record, _FIELDS, {})
    return fields


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        # repr() keeps a hostile value on one line.
        values = " ".join(f"{key}={value!r}" for key, value in fields_of(record).items())
        text = f"{moment} {record.levelname:<7} {record.getMessage()} {values}".rstrip()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return text
