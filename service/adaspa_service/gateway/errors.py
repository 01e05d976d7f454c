"""Every error in the shape that OpenAI's clients read: ``{"error": {message, type, param, code}}``."""

import logging
from typing import Literal

from adaspa_jobs.queue import QueueUnavailable
from adaspa_jobs.record import RecordDamaged, RecordUnreadable
from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.storage import StorageUnavailable
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from adaspa_service.errors import ApiError, bad_field
from adaspa_service.gateway.request_ids import HEADER

log = logging.getLogger(__name__)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class ErrorDetail(BaseModel):
    """Description of what went wrong."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None = None
    """Field at fault."""
    code: str | None = None
    """A word for programs."""


class ErrorBody(BaseModel):
    """Body of every answer from 400 on."""

    error: ErrorDetail


def respond(error: ApiError) -> JSONResponse:
    """Turn an error into an answer."""
    kinds = {429: "rate_limit_error"}
    kind = kinds.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    detail = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": detail}, error.status, error.headers)


def away(scope: Scope, error: Exception) -> JSONResponse:
    """Answer a request for which a part of the service could not be reached, and log it."""
    log.error("%s %s: %s", scope["method"], scope["path"], error)
    what = "storage" if isinstance(error, StorageUnavailable) else "job store"
    message = f"The {what} is unavailable; try again."
    return respond(ApiError(503, "service_unavailable", message))


def methods_of(request: Request) -> list[str]:
    """Return the methods that a request's path takes. Starlette names those of the first route alone."""

    def has(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return [method for method in METHODS if has(method)]


def install(app: FastAPI) -> None:
    """Give the application its exception handlers, those of the framework's own errors included."""

    @app.exception_handler(ApiError)
    def refused(_: Request, error: ApiError) -> JSONResponse:
        return respond(error)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return respond(bad_field(name, f"{name}: {first['msg'][:1].lower()}{first['msg'][1:]}"))

    @app.exception_handler(HTTPException)
    def framework(request: Request, error: HTTPException) -> JSONResponse:
        words = {404: ("not_found", "there is no"), 405: ("method_not_allowed", "not allowed:")}
        code, text = words.get(error.status_code, ("invalid_request", error.detail))
        message = f"{text} {request.method} {request.url.path}" if error.status_code in words else text
        headers = {"Allow": ", ".join(methods_of(request))} if error.status_code == 405 else error.headers
        return respond(ApiError(error.status_code, code, message, headers=headers))

    @app.exception_handler(StoreUnavailable)
    @app.exception_handler(QueueUnavailable)
    @app.exception_handler(StorageUnavailable)
    def part_away(request: Request, error: Exception) -> JSONResponse:
        return away(request.scope, error)

    @app.exception_handler(RecordUnreadable)
    def of_a_later_version(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s: %s", request.method, request.url.path, error)
        message = "The service is being updated and this gateway cannot read the job yet; try again."
        return respond(ApiError(503, "service_unavailable", message))

    @app.exception_handler(RecordDamaged)
    def damaged(request: Request, error: RecordDamaged) -> JSONResponse:
        log.error("%s %s: %s", request.method, request.url.path, error)
        message = f"the record of video {error.job_id} is damaged and cannot be shown; delete it, and create it again"
        return respond(ApiError(410, "record_damaged", message, "video_id"))

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> JSONResponse:
        request_id: str = request.state.request_id  # its middleware lies within what answers here
        log.error("%s %s: unexpected error", request.method, request.url.path, extra={"request_id": request_id})
        message = f"The gateway had an unexpected error; its log has details under request id {request_id}."
        return respond(ApiError(500, "internal_error", message, headers={HEADER: request_id}))
