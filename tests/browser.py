"""A real browser for the page's tests: Debian's Chromium, headless, driven over its protocol."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
from adaspa_api.report import AttentionReport, LayerReport
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from running_gateway import REPORT, Service
from waiting import PATIENCE, until

PLAYED = """video => new Promise(done => {
  video.addEventListener("timeupdate", () => video.currentTime > 0 && done(video.currentTime));
})"""
"""A video's place once it has moved; the browser tells the place also before that, and when it begins again."""
PICTURE = Path(__file__).parents[1] / "docs" / "demo_model" / "demo.png"
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


def stand_still(page: Page, at: float | None = None) -> None:
    """Let time pass on a page by its ``clock`` alone: it asks for nothing by itself, and a word that it shows for a
    moment stays until it is read. Called before the page is opened; ``at`` is the time there, in Unix seconds."""
    began = time.time() if at is None else at
    page.clock.install(time=began - 60)  # it goes on until it is stopped, and cannot be stopped in its past
    page.clock.pause_at(began)


def pass_until_asked(page: Page, what: str | re.Pattern[str], milliseconds: int) -> None:
    """Let so much time pass on the page, and again until it asks: what it waits for may begin a moment later."""
    with page.expect_request(what) as asked:
        while not asked.is_done():
            page.clock.fast_forward(milliseconds)


def held(page: Page, what: str, times: int | None = None) -> Callable[[], Route]:
    """Hold what the page asks for; the function waits for the next such request."""
    routes: list[Route] = []
    page.route(what, lambda route: routes.append(route), times=times)  # noqa: PLW0108  it marks a function as its own

    def following() -> Route:
        until(lambda: page.evaluate("true") and routes, f"the page asks for {what}")
        return routes.pop(0)

    return following


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
    """A small H.264 file, which no test sees the end of."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(1, 60))
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
