"""A real browser for the page's tests: Debian's Chromium, headless, driven over its protocol."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
from adaspa_api.report import AttentionReport, LayerReport
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from running_gateway import REPORT, Service
from waiting import PATIENCE

PLAYED = "video => new Promise(done => video.addEventListener('timeupdate', () => done(video.currentTime)))"
PHONE = {"width": 390, "height": 844}

OpenTab = Callable[..., Page]

expect.set_options(timeout=PATIENCE * 1000)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; its headless shell, where that is installed, does the same for a quarter of the CPU time."""
    program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    assert program, "these tests need a browser: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def tabs(browser: Browser) -> Iterator[OpenTab]:
    """Opens tabs, each of a user of its own; a script error or a breach of the page's policy fails the test."""
    problems: list[str] = []
    contexts = []

    def tab(**options: Any) -> Page:
        contexts.append(browser.new_context(**options))
        contexts[-1].set_default_timeout(PATIENCE * 1000)
        contexts[-1].on("weberror", lambda found: problems.append(str(found.error)))
        contexts[-1].on("console", lambda said: problems.append(said.text) if "Security Policy" in said.text else None)
        return contexts[-1].new_page()

    yield tab
    for context in contexts:
        context.close()
    assert problems == []


def report_of(layers: int, heads: int) -> AttentionReport:
    """A report with a pattern for each layer and head."""
    rows = [
        LayerReport(
            layer=layer,
            density=[0.1 + 0.4 * ((layer + head) % heads) / heads for head in range(heads)],
            recall=[0.99 - 0.2 * ((layer * head) % heads) / heads for head in range(heads)],
        )
        for layer in range(layers)
    ]
    return REPORT.model_copy(update={"layers": rows})


def clip(path: Path) -> bytes:
    """A short H.264 file."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for level in range(16):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level * 15, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def webp(level: int) -> bytes:
    """A small grey picture."""
    file = BytesIO()
    Image.new("L", (32, 32), level).save(file, "WEBP")
    return file.getvalue()


def finished(service: Service, folder: Path, layers: int = 3, heads: int = 4, **fields: object) -> str:
    """The id of a completed job whose video plays."""
    lease = service.claim(service.create(**fields)["id"])
    return service.complete(lease, clip(folder / "clip.mp4"), report_of(layers, heads)).id


def assert_accessible(page: Page) -> None:
    """axe-core finds nothing wrong with what is shown, and nothing hangs over the page's edge."""
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
