"""The documentation's pictures of the page: ``make page-pictures`` starts the service, makes videos through its page on
this machine, takes docs/page anew, and says beside the pictures where they were made. It takes some minutes; nothing
else should run meanwhile, since it also says how long two of the videos took.

All but these two are made in four steps, by the demo model's adapter for that.
"""

import io
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adaspa_client import Video
from adaspa_jobs.catalog import Catalog
from browser import PHONE, chromium
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from service_process import Service, environment
from waiting import PATIENCE

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "page"
CAPTIONS = {
    "README.md": """![The page plays a video of dense attention beside the same video of AdaSpa](docs/page/loop.webp)

The page compares dense attention with AdaSpa, for the same prompt and seed. These are real videos of the demo model,
made on {cores} cores of an {processor}, without a GPU: {dense_seconds} s with dense attention, {adaspa_seconds} s with
AdaSpa. The demo model's sequence is short; [large models gain more](#how-fast).
""",
    "docs/page.md": """The pictures show real videos, which the demo model made through this page without a GPU, on
{cores} cores of an {processor}. [pictures.json](page/pictures.json) has the times of the two that are compared.
[Another picture](page/phone.webp) is of a phone in the dark.
""",
}
"""What a page says of the pictures, between its marks."""
MARKS = ("<!-- pictures: make page-pictures -->\n\n", "\n<!-- /pictures -->")
DESKTOP = {"width": 1440, "height": 900}
LOOP_SIZE = (1080, 675)
FRAMES, FPS = 33, 8
"""What the demo model makes."""
COMPARED = ("a large yellow star moves right on a navy background", "Fast", 7)
OTHERS = [
    ("a small red circle moves left on a white background", "Quality", 3),
    ("a pink ring bounces on a black background", "Balanced", 5),
    ("a large blue triangle moves up and a green square moves down on a white background", "Default", 11),
]
"""Prompt, quality and seed of the videos that the gallery has beside the compared one."""
BATCH = ("a large green cross grows on a black background", "Fast", 21)
FOUR_STEPS = {"loras": "four-steps", "steps": 4, "guidance_scale": 1}
SEEK = """time => Promise.all([...document.querySelectorAll("#job video")].map(video => new Promise(done => {
  video.addEventListener("seeked", () => requestAnimationFrame(() => requestAnimationFrame(done)), { once: true });
  video.pause();
  video.currentTime = time;
})))"""


def ask(page: Page, prompt: str, quality: str, seed: int, **more: object) -> None:
    """Fill the form and press its button; ``more`` are further fields by name."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("radio", name=quality).check()
    for name, value in ({"seed": seed, "n": 1, "steps": 24, "guidance_scale": 4, "loras": ""} | more).items():
        page.locator(f"[name={name}]").fill(str(value))
    page.get_by_role("button", name="Generate video").click()


def make(page: Page, service: Service, *asked: Any, **more: object) -> str:
    """Make a video through the page; returns its id."""
    before = page.url
    ask(page, *asked, **more)
    page.wait_for_url(lambda url: "#video_" in url and url != before)
    video_id = page.url.partition("#")[2]
    service.client.wait(video_id)
    expect(page.get_by_role("button", name="Download")).to_be_visible()
    return video_id


def shot(page: Page, name: str, at: float) -> None:
    """Take the page, with its videos at this second, as a small file."""
    page.evaluate(SEEK, at)
    page.mouse.move(1, 1)
    Image.open(io.BytesIO(page.screenshot())).save(PICTURES / f"{name}.webp", quality=80, method=6)


def loop(page: Page) -> Iterable[Image.Image]:
    """The comparison, frame by frame, while the divider goes to and fro."""
    divider = page.get_by_label("Divider between dense and AdaSpa")
    for frame in range(FRAMES):
        page.evaluate(SEEK, (frame + 0.5) / FPS)
        divider.fill(str(50 - 35 * math.sin(2 * math.pi * frame / FRAMES)))
        taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        yield taken.resize(LOOP_SIZE, Image.Resampling.LANCZOS)


def seconds(video: Video) -> float:
    """The time of a video's denoising steps."""
    ran = video.attention
    assert ran is not None
    return ran.dense_seconds + ran.search_seconds + ran.sparse_seconds


def processor() -> str:
    """This machine's, as its kernel names it."""
    (name, *_) = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return re.sub(r"\((?:R|TM)\)", "", name)


def opened(browser: Browser, service: Service) -> Page:
    """The service's page, as its user sees it first."""
    page = browser.new_page(viewport=DESKTOP, color_scheme="light")
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(f"{service.url}/#token={service.token}")
    expect(page.get_by_label("Prompt", exact=True)).to_be_visible()
    return page


def take(page: Page, service: Service) -> list[Video]:
    """Make the videos and take the pictures; returns the two that are compared, dense attention first."""
    page.get_by_text("More settings").click()
    for video in OTHERS:
        make(page, service, *video, **FOUR_STEPS)
    ours = make(page, service, *COMPARED)
    page.get_by_role("button", name="Compare with dense").click()
    page.wait_for_url("**/#compare=*")
    address = page.url
    dense = address.partition("compare=")[2].split(",")[0]
    service.client.wait(dense)
    expect(page.locator(".verdict")).to_be_visible()
    page.reload()  # the gallery and the form's estimates know the new video
    expect(page.locator(".verdict")).to_be_visible()
    expect(page.locator(".expected").last).to_have_text(re.compile("s$"))
    shot(page, "compare", 2.2)
    first, *rest = loop(page)
    first.save(
        PICTURES / "loop.webp", save_all=True, append_images=rest, duration=1000 // FPS, loop=0, quality=70, method=6
    )
    page.goto(f"{service.url}/#{ours}")
    page.locator("#details > summary").click()
    shot(page, "result", 2.2)
    page.get_by_text("More settings").click()
    ask(page, *BATCH, n=4, **FOUR_STEPS)
    page.wait_for_url("**/#batch=*")
    for video_id in page.url.partition("batch=")[2].split(","):
        service.client.wait(video_id)
    expect(page.locator(".batch video")).to_have_count(4)
    shot(page, "batch", 2.2)
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size(PHONE)
    page.goto(address)
    expect(page.locator(".verdict")).to_be_visible()
    page.locator("#stage").scroll_into_view_if_needed()
    shot(page, "phone", 2.2)
    return [service.client.get(video_id) for video_id in (dense, ours)]


def write_captions(told: dict[str, Any]) -> None:
    """Say in each page what its pictures show."""
    for name, caption in CAPTIONS.items():
        before, _, rest = (ROOT / name).read_text().partition(MARKS[0])
        (ROOT / name).write_text(before + MARKS[0] + caption.format(**told) + MARKS[1] + rest.partition(MARKS[1])[2])


def main() -> None:
    """Take all pictures, and write down what they show."""
    with TemporaryDirectory() as folder, chromium() as browser:
        catalog = Path(folder) / "catalog.json"
        catalog.write_text(Catalog.load(None).default.model_dump_json().join("[]"))
        service = Service(Path(folder) / "data", environment(catalog)).start()
        try:
            dense, ours = take(opened(browser, service), service)
        finally:
            service.stop()
    told = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "prompt": ours.prompt,
        "seed": ours.seed,
        "quality": ours.quality,
        "steps": ours.steps,
        "dense_seconds": round(seconds(dense), 1),
        "adaspa_seconds": round(seconds(ours), 1),
    }
    (PICTURES / "pictures.json").write_text(json.dumps(told, indent=2) + "\n")
    write_captions(told)


if __name__ == "__main__":
    main()
