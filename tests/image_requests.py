"""Images in requests: a gateway that takes them, and a server that gives them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from adaspa_jobs.settings import Settings
from drawn import picture
from http_server import answering
from PIL import Image
from running_gateway import Service, demo_catalog, serving

LIMIT = 300_000
"""Bytes of an image that the gateway takes, at most."""
MODELS = {
    "both": {"tasks": ["text_to_video", "image_to_video", "first_last_frame"], "sizes": ["64x64", "128x64", "64x128"]},
    "image": {"tasks": ["image_to_video"]},
    "text": {},
    "reference": {"tasks": ["text_to_video", "reference_to_video"], "sizes": ["64x64", "128x64"]},
}
WIDE = picture(200, 104)


@contextmanager
def taking_images(valkey_socket: Path, folder: Path) -> Iterator[Service]:
    """A gateway with models of several tasks; images may come from this machine, under one name."""
    settings = Settings(
        redis_url=f"unix://{valkey_socket}?db=0",
        storage_url=str(folder / "objects"),
        catalog=demo_catalog(folder / "catalog.json", MODELS),
        image_bytes=LIMIT,
        image_pixels=1_000_000,
        image_networks="127.0.0.1/32",
        open_access=True,
    )
    addresses = {"images.example.com": ["127.0.0.1"], "inside.example.com": ["127.0.0.2"]}

    def resolve(host: str, port: int) -> list[str]:
        if host[:1].isdigit():
            return [host]
        if host not in addresses:
            raise OSError("Name or service not known")
        return addresses[host]

    with serving(settings, folder, resolve) as running:
        yield running


@contextmanager
def serving_images() -> Iterator[str]:
    """The address of a server of images, under a name: good ones, and such as misbehave."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            getattr(self, f"send_{self.path[1:].split('?')[0]}")()

        def answer(self, content: bytes, kind: str = "image/png", status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def send_good(self) -> None:
            self.answer(WIDE)

        def send_moved(self) -> None:
            self.answer(b"", status=302, Location="/good")

        def send_inside(self) -> None:
            self.answer(b"", status=302, Location=f"http://127.0.0.2:{self.server.server_port}/good")

        def send_metadata(self) -> None:
            self.answer(b"", status=307, Location="http://169.254.169.254/latest/meta-data")

        def send_file(self) -> None:
            self.answer(b"", status=302, Location="file:///etc/passwd")

        def send_round(self) -> None:
            self.answer(b"", status=302, Location="/round")

        def send_nowhere(self) -> None:
            self.answer(b"", status=302, Location="http://[")

        def send_page(self) -> None:
            self.answer(b"<html>no image</html>", "text/html")

        def send_lie(self) -> None:
            self.answer(b"<html>no image</html>", "image/png")

        def send_missing(self) -> None:
            self.answer(WIDE, status=404)

        def send_large(self) -> None:
            self.answer(b"x" * (LIMIT + 1))

        def send_endless(self) -> None:
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x" * 65536)

        def send_slow(self) -> None:
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)

        def send_cut(self) -> None:
            self.answer(WIDE[:50], **{"Content-Length": str(len(WIDE))})

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with answering(Handler) as port:
        yield f"http://images.example.com:{port}"


def stored(service: Service) -> list[str]:
    return service.parts.storage.keys("inputs/")


def shown(service: Service, video: dict[str, Any], role: str = "first") -> Image.Image:
    """The image that a video is made of, by its URL."""
    (url,) = [each["url"] for each in video["inputs"] if each["role"] == role]
    response = service.http.get(url)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png"), response.text
    return Image.open(BytesIO(response.content))


def post(service: Service, **fields: Any) -> httpx.Response:
    return service.http.post("/v1/videos", json={"prompt": "a red circle", **fields})
