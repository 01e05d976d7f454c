"""Body of a request for a video: JSON, or the multipart form that OpenAI's clients send."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from io import BytesIO
from typing import IO, Any, TypeVar

from adaspa_api.fields import rows
from adaspa_api.limits import Media, inside
from adaspa_api.metadata import PAIR
from adaspa_api.words import Kind, Role
from adaspa_jobs.catalog import Catalog
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from adaspa_service.errors import ApiError, bad_field
from adaspa_service.gateway import conditions
from adaspa_service.gateway.errors import ErrorBody
from adaspa_service.gateway.form import FormParser, in_base64, too_large
from adaspa_service.gateway.json_text import JsonText, TextTooLarge, json_object, json_value
from adaspa_service.gateway.params import allowed
from adaspa_service.gateway.similar_names import did_you_mean
from adaspa_service.inputs.source import IN_MEMORY_BYTES, InputRefused, Source, from_text, uploaded
from adaspa_service.inputs.turns import Turn

Fields = TypeVar("Fields", bound=BaseModel)

MAX_BODY_BYTES = 1024 * 1024
"""Maximum size of a body without its files."""
BODY_SECONDS = 20.0
"""Time limit of a body, to which each further ``BYTES_A_SECOND`` add a second."""
BYTES_A_SECOND = 128 * 1024
"""Least speed of a longer body."""
OTHER_NAMES = {"reference_url": "input_reference", "image_reference": "input_reference"}
"""Names that SGLang's and vLLM-Omni's clients use."""
IMAGE_URL = "image_url"
Most = Mapping[Kind, int]
"""Bytes of one file."""
UNREADABLE: dict[int | str, dict[str, Any]] = {
    408: {"description": "The body did not arrive in time", "model": ErrorBody},
    413: {"description": "The body is too large", "model": ErrorBody},
    415: {"description": "The body is neither JSON nor a form", "model": ErrorBody},
}


def openapi(fields: type[BaseModel]) -> dict[str, Any]:
    """Describe for OpenAPI what FastAPI cannot see, because the body is read here."""
    schema = fields.model_json_schema()
    as_json, as_form = ({**schema, "properties": dict(schema["properties"])} for _ in range(2))
    images = image_fields(fields)
    for name in images:
        about = {"description": schema["properties"][name]["description"]}
        url = {"type": "object", "properties": {IMAGE_URL: {"type": "string"}}, "required": [IMAGE_URL]}
        as_json["properties"][name] = about | {"anyOf": [{"type": "string"}, url]}
        as_form["properties"][name] = about | {"type": "string", "format": "binary"}
    if images:
        for each in (as_json, as_form):
            each["properties"][conditions.NAME] = conditions.schema(images)
    kinds = {"application/json": as_json, "multipart/form-data": as_form}
    return {"requestBody": {"required": True, "content": {kind: {"schema": each} for kind, each in kinds.items()}}}


def image_fields(fields: type[BaseModel]) -> dict[str, Role]:
    """Return the role of each field that is an image, a video or a sound, by name."""
    return {name: row.limits.role for name, row in rows(fields).items() if isinstance(row.limits, Media)}


async def read_body(
    request: Request, fields: type[Fields], catalog: Catalog, most: Most, turn: Turn
) -> tuple[Fields, dict[Role, Source]]:
    """Read the body, and check the fields' names and types.

    Args:
        request: whose body.
        fields: what it has.
        catalog: who says what is allowed.
        most: bytes of one file, by its kind.
        turn: which the body waits for once it is so long that it has to have files.

    Returns:
        The fields, with the identity of each file in its place, and these.

    Raises:
        ApiError: 413 too large, 408 too slow, 415 another content type or coding, 503 its turn did not come, 400 with
            the field.
    """
    images = image_fields(fields)
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        message = f"Content-Encoding {coding} is not supported; allowed: identity, which is the body as it is"
        raise ApiError(415, "unsupported_media_type", message, headers={"Accept-Encoding": "identity"})
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    whole = MAX_BODY_BYTES + sum(in_base64(most[role.kind]) for role in images.values())
    pieces = incoming(request, whole, turn)
    if kind == "application/json":
        data, given = await parse_json(pieces, images, most)
    elif kind == "multipart/form-data":
        data, given = await parse_form(request, pieces, images, most)
    else:
        message = f"Content-Type {kind or '(none)'} is not supported; allowed: application/json, multipart/form-data"
        raise ApiError(415, "unsupported_media_type", message)
    found: dict[Role, Source] = {}
    for name, image in given.items():
        role = images[name]
        try:
            found[role] = await run_in_threadpool(source_of, name, image, role.kind, most[role.kind])
        except InputRefused as error:
            raise refused(name, role.kind, error) from error
        data[name] = found[role].identity
    return validate(data, fields, catalog, strings=kind != "application/json"), found


def refused(name: str, kind: Kind, why: InputRefused) -> ApiError:
    """Return the error for a file that cannot be used."""
    return ApiError(why.status, why.code(kind), f"{name}: {why}", name)


async def incoming(request: Request, most: int, turn: Turn) -> AsyncGenerator[bytes, None]:
    """Yield the body piece by piece, up to ``most`` bytes. Raises ApiError: 413, 408, 503, 400."""
    if int(request.headers.get("content-length", 0)) > most:
        raise too_large(most)
    stream = request.stream()
    began, received = time.monotonic(), 0
    while True:
        left = began + BODY_SECONDS + received / BYTES_A_SECOND - time.monotonic()
        try:
            async with asyncio.timeout(left):
                piece = await anext(stream, None)
        except ClientDisconnect as error:
            raise ApiError(400, "incomplete_body", "the connection closed before the body was complete") from error
        except TimeoutError as error:
            message = f"the request body did not arrive within {BODY_SECONDS + received / BYTES_A_SECOND:.0f} s"
            raise ApiError(408, "request_timeout", message, headers={"Connection": "close"}) from error
        if piece is None:
            return
        received += len(piece)
        if received > most:
            raise too_large(most)
        if received > IN_MEMORY_BYTES:
            stopped = time.monotonic()
            await turn.take()
            began += time.monotonic() - stopped  # it is not the client's fault
        yield piece


Given = dict[str, UploadFile | IO[bytes]]
"""Files by their field's name; texts are in files, too."""


async def parse_json(
    pieces: AsyncGenerator[bytes, None], images: Mapping[str, Role], most: Most
) -> tuple[dict[str, Any], Given]:
    """A JSON object, and the files in it."""
    body = JsonText(MAX_BODY_BYTES, in_base64(max(most.values())) + 4096, len(images))
    try:
        async for piece in pieces:
            body.feed(piece)
    except TextTooLarge as error:
        raise too_large(MAX_BODY_BYTES) from error
    data = json_object(bytes(body.text))
    given: Given = {}
    listed = data.pop(conditions.NAME, []) if images else []
    plain = [(field, data.pop(name)) for name in list(data) if (field := OTHER_NAMES.get(name, name)) in images]
    for field, value in (*plain, *conditions.by_field(listed, images)):
        if value is None:
            continue
        if isinstance(value, dict) and set(value) == {IMAGE_URL}:
            value = value[IMAGE_URL]  # noqa: PLW2901
        if not isinstance(value, str):
            only = f'a URL or a data URI, as a string or as {{"{IMAGE_URL}": ...}}'
            raise bad_field(field, f"{field}: is not {images[field].kind.one}; allowed: {only}", "invalid_type")
        add(given, field, body.files.pop(value) if value in body.files else BytesIO(value.encode()))
    if body.files:  # a long data URI where none belongs
        raise too_large(MAX_BODY_BYTES)
    return data, given


def add(given: Given, field: str, image: UploadFile | IO[bytes]) -> None:
    """Note a file of a request. Raises ApiError: 400, there is one."""
    if field in given:
        raise bad_field(field, f"{field}: given more than once", "duplicate_parameter")
    given[field] = image


async def parse_form(
    request: Request, pieces: AsyncGenerator[bytes, None], images: Mapping[str, Role], most: Most
) -> tuple[dict[str, Any], Given]:
    """Parse a multipart form with its images, videos and sounds; any other file is refused by its field's name."""
    fields_of = {name: name for name in images}
    fields_of |= {name: field for name, field in OTHER_NAMES.items() if field in images}
    fields_of |= {f"{name}[{IMAGE_URL}]": field for name, field in fields_of.items()}
    kinds = {name: images[field].kind for name, field in fields_of.items()}

    async def stream() -> AsyncGenerator[bytes, None]:
        async for piece in pieces:
            yield piece
        yield b""

    try:
        form = await FormParser(request.headers, stream(), kinds, MAX_BODY_BYTES, most).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        reason = getattr(error, "message", error)
        raise bad_field(None, f"the body is not a multipart form: {reason}", "invalid_multipart") from error
    fields: dict[str, Any] = {}
    given: Given = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            add(given, fields_of[name], value)
        elif pair := PAIR.fullmatch(name):
            pairs = fields.setdefault("metadata", {})
            if not isinstance(pairs, dict) or pair[1] in pairs:
                raise bad_field(name, f"{name}: given more than once", "duplicate_parameter")
            pairs[pair[1]] = value
        elif name in fields:
            raise bad_field(name, f"{name}: given more than once", "duplicate_parameter")
        else:
            fields[name] = value
    if images and conditions.NAME in fields:
        listed = json_value(fields.pop(conditions.NAME).encode(), conditions.NAME)
        for field, url in conditions.by_field(listed, images):
            add(given, field, BytesIO(url.encode()))
    return fields, given


def source_of(name: str, given: UploadFile | IO[bytes], kind: Kind, most: int) -> Source:
    """Return the image, video or sound of field ``name``, from its file or text. Raises InputRefused, ApiError."""
    if isinstance(given, UploadFile) and given.filename:
        found = uploaded(given.file)
        if not given.size:
            raise InputRefused(f"is empty; allowed: {kind.taken}")
        return found
    text = given.file if isinstance(given, UploadFile) else given
    if text.read(1) == b"{":  # as vLLM-Omni's clients write it into a form
        text.seek(0)
        url = json_object(text.read(), name).get(IMAGE_URL)
        if not isinstance(url, str):
            raise InputRefused(f"has no {IMAGE_URL}; allowed: a URL, a data URI or a file")
        text = BytesIO(url.encode())
    return from_text(text, kind, most)


def validate(data: dict[str, Any], fields: type[Fields], catalog: Catalog, *, strings: bool) -> Fields:
    """Check names and types. In a form every value is a string; in JSON a number has to be one."""
    names = fields.model_fields
    for name in (name for name in data if name not in names):
        message = f"{name}: unknown field{did_you_mean(name, names)}; allowed: {', '.join(names)}"
        raise bad_field(name, message, "unknown_parameter")
    try:
        if strings:
            return fields.model_validate_strings(data)
        return fields.model_validate(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name, deeper = str(first["loc"][0]), first["loc"][1:]  # what is deeper begins with the type that was taken
        limits = f"allowed: {allowed(name, catalog, data.get('model'))}"
        if first["type"] == "missing" and not deeper:
            raise bad_field(name, f"{name}: required; {limits}", "missing_required_parameter") from error
        message = f"{name}{inside(deeper[1:])}: {first['msg'][:1].lower()}{first['msg'][1:]}; {limits}"
        raise bad_field(name, message, "invalid_type") from error
