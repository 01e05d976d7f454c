"""Reference of the API at ``/docs``: Swagger UI, which comes with the service and loads nothing from elsewhere.

``make api-reference`` fetches its files, in the version that the Makefile pins. They stay compressed, in the wheel as
on the way to the browser.
"""

import gzip
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import Response

from adaspa_service.errors import ApiError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
FILES = {
    name: gzip.compress(item.read_bytes(), mtime=0) if name == item.name else item.read_bytes()
    for item in files(__package__).iterdir()
    if (name := item.name.removesuffix(".gz")).rsplit(".", 1)[-1] in TYPES
}
"""Compressed, by name."""

router = APIRouter(include_in_schema=False)


@router.get("/docs")
def reference(request: Request) -> Response:
    """Serve the reference."""
    return part("reference.html", request)


@router.get("/docs/{name}")
def part(name: str, request: Request) -> Response:
    """One of its files."""
    if name not in FILES:
        raise ApiError(404, "not_found", f"there is no file {name[:60]!r}")
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    content = FILES[name]
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
    else:
        content = gzip.decompress(content)
    return Response(content, media_type=f"{TYPES[name.rsplit('.', 1)[1]]}; charset=utf-8", headers=headers)
