"""Page at ``/``: plain files of ``static/``, served under a policy that lets nothing else in."""

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from adaspa_service.errors import ApiError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
FILES = {
    item.name: (item.read_bytes(), TYPES[item.name.rsplit(".", 1)[1]])
    for item in files(__package__).joinpath("static").iterdir()
}

router = APIRouter(include_in_schema=False)


@router.head("/")
@router.get("/")
def page() -> Response:
    """Serve the page."""
    return static("index.html")


@router.head("/static/{name}")
@router.get("/static/{name}")
def static(name: str) -> Response:
    """One of the page's files."""
    if name not in FILES:
        raise ApiError(404, "not_found", f"there is no file {name[:60]!r}")
    content, kind = FILES[name]
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return Response(content, media_type=f"{kind}; charset=utf-8", headers=headers)
