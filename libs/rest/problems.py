"""Errors as problem documents (RFC 9457), the same for every endpoint of every service."""

import logging
import re
import uuid
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from libs.errors import BackcastError, BadInputError, UnauthenticatedError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
#: Of some statuses: how to authenticate, and when to try again, in seconds.
_HEADERS: dict[int, Mapping[str, str]] = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"},
    HTTPStatus.TOO_MANY_REQUESTS: {"Retry-After": "1"},
}
#: Where a token was shown (RFC 6750, section 3.1). Why it is not accepted only the log says.
_NOT_ACCEPTED = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class Problem(BaseModel):
    """Why a request failed: ``code`` and ``retriable`` for programs, ``detail`` for people."""

    type: str = Field(description="urn:backcast:error: and the code")
    title: str = Field(description="What this kind of problem is")
    status: int = Field(description="HTTP status")
    detail: str = Field(description="What failed, which object, expected and found, what to do")
    code: str = Field(description="Stable name of the kind of problem")
    retriable: bool = Field(description="Whether the same request may succeed later")
    instance: str | None = Field(None, description="Id under which the log has the cause")

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """The document as a response."""
        body = self.model_dump_json(exclude_none=True)
        return Response(body, self.status, headers, media_type=MEDIA_TYPE)


def problem_of(error: BackcastError) -> Problem:
    """The document of an error that was raised on purpose."""
    title = (type(error).__doc__ or "").partition("\n")[0].rstrip(".")
    return _problem(error.http_status, error.code, title, str(error), error.retriable)


def status_problem(status: int, detail: str) -> Problem:
    """The document of a refusal that HTTP itself has a word for, such as 404, 405 or 413."""
    phrase = HTTPStatus(status).phrase
    code = re.sub(r"[^a-z]+", "-", phrase.lower()).strip("-")
    return _problem(status, code, phrase, detail, retriable=False)


def unexpected_problem(request: str, error: Exception) -> Problem:
    """Log ``error`` under a new id and describe it by that id alone."""
    problem_id = uuid.uuid4().urn
    log.error(
        "unexpected error", exc_info=error, extra={"request": request, "problem_id": problem_id}
    )
    problem = _problem(
        500, "internal", "Unexpected error", f"the service's log has the cause: {problem_id}"
    )
    return problem.model_copy(update={"instance": problem_id})


async def on_backcast_error(request: Request, error: Exception) -> Response:
    """Handler of errors that were raised on purpose."""
    assert isinstance(error, BackcastError)
    problem = problem_of(error)
    level = logging.ERROR if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR else logging.DEBUG
    log.log(
        level,
        "request failed",
        extra={"request": _name(request), "code": error.code, "detail": str(error)},
    )
    return refusal(error)


def refusal(error: BackcastError) -> Response:
    """The response that reports an error, with the header that its status asks for."""
    problem = problem_of(error)
    if isinstance(error, UnauthenticatedError) and error.presented:
        return problem.response(_NOT_ACCEPTED)
    return problem.response(_HEADERS.get(problem.status))


async def on_validation_error(request: Request, error: Exception) -> Response:
    """Handler of malformed parameters and bodies. The input itself is not repeated."""
    assert isinstance(error, RequestValidationError)
    detail = "; ".join(
        f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()
    )
    return problem_of(BadInputError(detail)).response()


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Handler of what the framework refuses: unknown paths, methods, bodies that are too long."""
    assert isinstance(error, HTTPException)
    problem = status_problem(error.status_code, str(error.detail))
    return problem.response(dict(error.headers) if error.headers else None)


def _problem(status: int, code: str, title: str, detail: str, retriable: bool = False) -> Problem:
    return Problem(
        type=f"urn:backcast:error:{code}",
        title=title,
        status=status,
        detail=detail,
        code=code,
        retriable=retriable,
        instance=None,
    )


def _name(request: Request) -> str:
    return f"{request.method} {request.url.path}"
