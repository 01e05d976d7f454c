"""The page in a real browser: Debian's Chromium, headless, driven over its protocol."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright
from running_gateway import Service


@pytest.fixture
def page() -> Iterator[Page]:
    """A tab; a script error or a breach of the page's policy fails the test."""
    chromium = shutil.which("chromium")
    assert chromium, "these tests need a browser: apt-get install chromium"
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_context().new_page()
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("console", lambda said: problems.append(said.text) if "Content Security Policy" in said.text else None)
        yield tab
        browser.close()
    assert problems == []


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


def submit(page: Page, service: Service) -> str:
    """Send a prompt by keyboard alone; the job's id."""
    page.goto(service.url)
    page.get_by_label("Prompt").focus()
    page.keyboard.type("a red circle")
    page.get_by_role("button", name="Generate video").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/#video_*")
    return page.url.split("#")[1]


def test_a_prompt_becomes_a_playing_video_also_after_a_reload(page: Page, service: Service, tmp_path: Path) -> None:
    lease = service.claim(submit(page, service))
    service.step(lease, 1)
    expect(page.get_by_text("step 1 of 24")).to_be_visible()
    page.reload()
    service.step(lease, 2)
    expect(page.get_by_text("step 2 of 24")).to_be_visible()
    page.screenshot(path=tmp_path / "running.png")
    service.complete(lease, clip(tmp_path / "clip.mp4"))
    played = "video => new Promise(done => video.addEventListener('timeupdate', () => done(video.currentTime)))"
    assert page.locator("video").evaluate(played) > 0
    expect(page.get_by_role("heading", name="What AdaSpa did")).to_be_visible()
    page.screenshot(path=tmp_path / "done.png", full_page=True)
    assert Axe().run(page).violations_count == 0


def test_a_job_is_cancelled_in_one_tab_and_seen_in_another(page: Page, service: Service) -> None:
    submit(page, service)
    other = page.context.new_page()
    other.goto(service.url)
    expect(other.locator("#jobs")).to_contain_text("queued")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#job")).to_contain_text("Cancelled")
    expect(other.locator("#jobs")).to_contain_text("cancelled")


def test_an_error_stands_at_its_field(page: Page, service: Service) -> None:
    page.goto(service.url)
    page.get_by_label("Prompt").fill("a red circle")
    page.get_by_label("Steps").fill("5000")
    page.get_by_role("button", name="Generate video").click()
    expect(page.locator("#steps-error")).to_contain_text("allowed: 1 to 100")
    expect(page.get_by_label("Steps")).to_be_focused()
    assert service.messages() == 0
