"""Which error an answer of the API server is, and what is quoted of it."""

from typing import Any

import pytest

from kmm_common.errors import KmmError, TerminalError, TransientError
from kmm_cp.kube.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidError,
    NotFoundError,
    TooManyRequestsError,
    UnavailableError,
    from_answer,
)


def status(message: str = "told", reason: str = "") -> dict[str, Any]:
    return {"kind": "Status", "message": message, "reason": reason}


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (400, "", InvalidError),
        (401, "", ForbiddenError),
        (403, "", ForbiddenError),
        (404, "", NotFoundError),
        (405, "", TerminalError),
        (409, "Conflict", ConflictError),
        (409, "AlreadyExists", AlreadyExistsError),
        (410, "Expired", GoneError),
        (418, "", TerminalError),
        (422, "Invalid", InvalidError),
        (429, "", TooManyRequestsError),
        (500, "", UnavailableError),
        (503, "", UnavailableError),
        (504, "Timeout", UnavailableError),
    ],
)
def test_answer_is_named_by_what_is_to_be_done(
    code: int, reason: str, expected: type[KmmError]
) -> None:
    error = from_answer("GET /x", code, status(reason=reason), None)
    assert type(error) is expected
    assert str(error) == "GET /x: told"


@pytest.mark.parametrize("code", [429, 500, 503])
def test_pause_that_the_server_asks_for_is_kept(code: int) -> None:
    error = from_answer("GET /x", code, status(), 7.0)
    assert isinstance(error, TransientError)
    assert error.retry_after == 7.0


@pytest.mark.parametrize(
    "body", [None, [], "secret", {"kind": "Secret", "message": "secret"}, status("")]
)
def test_nothing_but_the_message_of_a_status_is_quoted(body: Any) -> None:
    assert str(from_answer("GET /x", 500, body, None)) == "GET /x: HTTP 500"


def test_long_message_is_cut() -> None:
    error = from_answer("GET /x", 422, status("x" * 10_000), None)
    assert len(str(error)) == len("GET /x: ") + 500
