"""The body of a request for a video: JSON, or the multipart form that OpenAI's clients send."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any, NoReturn, TypeVar

from adaspa_jobs.catalog import Catalog
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from adaspa_service.errors import ApiError, bad_field
from adaspa_service.gateway.params import allowed

Fields = TypeVar("Fields", bound=BaseModel)

MAX_BODY_BYTES = 1024 * 1024
MAX_FIELDS = 64
BODY_SECONDS = 20.0
"""How long a body may take to come."""


def openapi(fields: type[BaseModel]) -> dict[str, Any]:
    """What FastAPI cannot see, because the body is read here."""
    kinds = ("application/json", "multipart/form-data")
    content = {kind: {"schema": fields.model_json_schema()} for kind in kinds}
    return {"requestBody": {"required": True, "content": content}}


async def read_body(request: Request, fields: type[Fields], catalog: Catalog) -> Fields:
    """Read the body, and check the fields' names and types.

    Raises:
        ApiError: 413 too large, 408 too slow, 415 another content type, 400 with the field.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        return validate(parse_json(await read_limited(request)), fields, catalog, strings=False)
    if kind == "multipart/form-data":
        return validate(await parse_form(request, await read_limited(request)), fields, catalog, strings=True)
    message = f"Content-Type {kind or '(none)'} is not taken; allowed: application/json, multipart/form-data"
    raise ApiError(415, "unsupported_media_type", message)


async def read_limited(request: Request) -> bytes:
    """The body, of 1 MiB at most and within 20 s. Raises ApiError: 413, 408."""
    too_large = ApiError(
        413, "request_too_large", f"the request body is over {MAX_BODY_BYTES} bytes", headers={"Connection": "close"}
    )
    if int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except ClientDisconnect as error:
        raise ApiError(400, "incomplete_body", "the connection ended before the body did") from error
    except TimeoutError as error:
        message = f"the request body did not come within {BODY_SECONDS:g} s"
        raise ApiError(408, "request_timeout", message, headers={"Connection": "close"}) from error
    return bytes(body)


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object, by the standard: no NaN, no name twice, and no half of a surrogate pair, which is no text."""
    try:
        data = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise bad_field(None, f"the body is not JSON: {reason}", "invalid_json") from error
    if not isinstance(data, dict):
        raise bad_field(None, "the body has to be a JSON object", "invalid_json")
    return data


async def parse_form(request: Request, body: bytes) -> dict[str, str]:
    """The fields of a multipart form; a file is refused under its field's name."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = MultiPartParser(
        request.headers, stream(), max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_BODY_BYTES
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = getattr(error, "message", error)
        raise bad_field(None, f"the body is not a multipart form: {reason}", "invalid_multipart") from error
    fields: dict[str, str] = {}
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                raise bad_field(name, f"{name}: files are not taken; allowed: text fields", "file_not_allowed")
            if name in fields:
                raise bad_field(name, f"{name}: given more than once", "duplicate_parameter")
            fields[name] = value
    finally:
        await form.close()
    return fields


def validate(data: dict[str, Any], fields: type[Fields], catalog: Catalog, *, strings: bool) -> Fields:
    """Check names and types. In a form every value is a string; in JSON a number has to be one."""
    try:
        if strings:
            return fields.model_validate_strings(data)
        return fields.model_validate(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            message = f"{name}: unknown field; allowed: {', '.join(fields.model_fields)}"
            raise bad_field(name, message, "unknown_parameter") from error
        limits = f"allowed: {allowed(name, catalog, data.get('model'))}"
        if first["type"] == "missing":
            raise bad_field(name, f"{name}: required; {limits}", "missing_required_parameter") from error
        message = f"{name}: {first['msg'][:1].lower()}{first['msg'][1:]}; {limits}"
        raise bad_field(name, message, "invalid_type") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise bad_field(twice, f"{twice}: given more than once", "duplicate_parameter")
    return data
