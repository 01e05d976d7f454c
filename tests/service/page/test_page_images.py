"""Images, videos and sounds on the page: chosen, dropped and pasted, shown, sent, and seen again with the job."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.settings import Settings
from browser import OpenTab, assert_accessible, clip, held, stand_still
from drawn import picture
from filmed import filmed
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect
from recorded import recorded
from running_gateway import Service
from waiting import until

WIDE = picture(200, 104)
FILE = {"name": "start.png", "mimeType": "image/png", "buffer": WIDE}
HAND_OVER = """(element, [kind, bytes]) => {
  const held = new DataTransfer();
  held.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
  const given = { bubbles: true, cancelable: true, dataTransfer: held, clipboardData: held };
  element.dispatchEvent(new (kind === "paste" ? ClipboardEvent : DragEvent)(kind, given));
}"""
"""What a browser does when a file is dropped or pasted; its own hands are not to be had."""


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Of a gateway with a model that takes images, and one that does not."""
    demo = next(iter(Catalog.load(None).models.values())).model_dump(mode="json")
    tasks = ["text_to_video", "image_to_video", "first_last_frame", "video_continuation"]
    both = {"id": "both", "tasks": tasks, "sizes": ["64x64", "128x64"]}
    catalog = tmp_path / "catalog.json"
    hears = {"id": "hears", "tasks": ["reference_to_video", "reference_audio_to_video"]}
    catalog.write_text(json.dumps([demo | both, demo, demo | hears]))
    return settings.model_copy(update={"catalog": catalog})


def loaded(image: Locator) -> int:
    """The width of an image, once it is there."""
    expect(image).to_be_visible()
    width: int = image.evaluate("image => image.decode().then(() => image.naturalWidth)")
    return width


def stored(service: Service, video: dict[str, Any], role: str) -> Image.Image:
    content = service.http.get(f"/videos/{video['id']}/content", params={"variant": f"{role}_frame"}).content
    return Image.open(BytesIO(content))


def test_an_image_is_chosen_dropped_or_pasted_and_seen_with_its_video(
    page: Page, service: Service, tmp_path: Path
) -> None:
    page.goto(service.url)
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    first, last = page.get_by_label("First frame", exact=True), page.get_by_label("Last frame", exact=True)
    shown = page.locator(".drop img:visible")
    first.set_input_files(FILE)  # type: ignore[arg-type]
    assert loaded(page.get_by_role("img", name="First frame")) == 200
    page.get_by_role("button", name="Remove: First frame").click()
    expect(shown).to_have_count(0)
    page.locator("#prompt").evaluate(HAND_OVER, ["paste", list(WIDE)])
    assert loaded(page.get_by_role("img", name="First frame")) == 200
    page.locator(".drop", has=last).evaluate(HAND_OVER, ["drop", list(picture(60, 60))])
    assert loaded(page.get_by_role("img", name="Last frame")) == 60
    page.locator("#form").evaluate(HAND_OVER, ["drop", list(picture(220, 104))])
    assert loaded(page.get_by_role("img", name="First frame")) == 220
    assert_accessible(page)
    page.get_by_text("More settings").click()
    page.get_by_label("Fit", exact=True).select_option("contain")
    expect(page.get_by_label("Size", exact=True)).to_have_value("128x64")  # by the image's shape
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url("**/#video_*")
    video = service.http.get(f"/videos/{page.url.split('#')[1]}").json()
    assert (video["task"], video["size"]) == ("first_last_frame", "128x64")
    assert stored(service, video, "last").getpixel((4, 32)) == (0, 0, 0)
    expect(page.locator(".inputs figure")).to_have_count(2)
    assert loaded(page.locator(".inputs img").first) == 128  # while it waits
    lease = service.store.claim("both", "worker", "process")
    assert lease is not None
    service.complete(lease, clip(tmp_path / "clip.mp4"))
    expect(page.get_by_text("1.2 times faster than dense.")).to_be_visible()
    assert [loaded(image) for image in page.locator(".inputs img").all()] == [128, 128]
    assert_accessible(page)
    page.locator("#form").evaluate("form => { for (const b of form.querySelectorAll('.drop button')) b.click(); }")
    page.get_by_role("button", name="Use settings").click()
    assert loaded(page.get_by_role("img", name="Last frame")) == 128
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url(lambda url: video["id"] not in url)
    again = service.http.get(f"/videos/{page.url.split('#')[1]}").json()
    assert again["task"] == "first_last_frame" and again["id"] != video["id"]


def test_a_refused_image_stands_at_its_field_and_a_model_of_texts_has_none(page: Page, service: Service) -> None:
    page.goto(service.url)
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    first = page.get_by_label("First frame", exact=True)
    first.set_input_files({**FILE, "buffer": b"no image"})  # type: ignore[typeddict-item]
    page.get_by_role("button", name="Generate video").click()
    expect(page.locator("#input_reference-error")).to_contain_text("This is not an image.")
    expect(first).to_be_focused()
    page.get_by_label("Model", exact=True).select_option("demo")
    expect(first).to_have_count(0)
    page.locator("#prompt").evaluate(HAND_OVER, ["paste", list(WIDE)])
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url("**/#video_*")
    page.goto("about:blank")  # the gateway is never done with a page that follows a job
    assert service.messages() == 1


def test_an_image_that_takes_long_to_send_is_stopped_and_sent_again(page: Page, service: Service) -> None:
    sent: list[Route] = []

    def hold(route: Route) -> None:
        sent.append(route)

    page.goto(service.url)
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    stop = page.get_by_role("button", name="Stop sending")
    expect(stop).to_have_count(0)
    page.get_by_label("First frame", exact=True).set_input_files(FILE)  # type: ignore[arg-type]
    page.route("**/videos", hold)
    with page.expect_request("**/videos"):
        page.get_by_role("button", name="Generate video").click()
    assert_accessible(page)
    with page.expect_event("requestfailed"):
        stop.press("Enter")
    expect(page.get_by_role("button", name="Generate video")).to_be_focused()
    expect(page.locator("#form-error")).to_be_empty()
    expect(stop).to_have_count(0)
    page.unroute("**/videos", hold)
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url("**/#video_*")
    assert len(sent) == len(service.http.get("/videos").json()["data"]) == 1


def test_a_video_is_chosen_seen_and_sent_again(page: Page, service: Service) -> None:
    page.goto(service.url)
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    start = page.locator("#start_video")
    start.set_input_files({"name": "before.png", "mimeType": "image/png", "buffer": WIDE})
    page.get_by_role("button", name="Generate video").click()
    expect(page.locator("#start_video-error")).to_contain_text(
        "This is not a video. Choose an MP4, MOV, MKV or WebM file."
    )
    start.set_input_files(
        {"name": "before.webm", "mimeType": "video/webm", "buffer": filmed(20, kind="webm", codec="libvpx-vp9")}
    )
    expect(page.get_by_label("Size", exact=True)).to_have_value("128x64")  # by the video's shape
    assert_accessible(page)
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url("**/#video_*")
    first = service.http.get(f"/videos/{page.url.split('#')[1]}").json()
    assert (first["task"], first["size"]) == ("video_continuation", "128x64")
    until(
        lambda: page.locator(".inputs video").evaluate("video => video.videoWidth") == 128, "it is shown while it waits"
    )
    page.get_by_role("button", name="Remove: Start video").click()
    page.get_by_role("button", name="Use settings").click()
    expect(page.locator(".drop video")).to_be_visible()
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url(lambda url: first["id"] not in url)
    again = service.http.get(f"/videos/{page.url.split('#')[1]}").json()
    assert again["inputs"][0]["sha256"] == first["inputs"][0]["sha256"]


def test_a_sound_is_chosen_heard_and_sent_again(page: Page, service: Service) -> None:
    page.goto(service.url)
    page.get_by_label("Model", exact=True).select_option("hears")
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    page.locator("#reference_image").set_input_files(FILE)  # type: ignore[arg-type]
    voice = page.locator("#reference_audio")
    voice.set_input_files({"name": "voice.wav", "mimeType": "audio/wav", "buffer": WIDE})
    page.get_by_role("button", name="Generate video").click()
    expect(page.locator("#reference_audio-error")).to_contain_text(
        "This is not a sound. Choose a WAV, FLAC, MP3, M4A, AAC or OGG file."
    )
    voice.set_input_files({"name": "voice.wav", "mimeType": "audio/wav", "buffer": recorded(seconds=2)})
    expect(page.locator(".drop audio:visible")).to_have_count(1)
    assert_accessible(page)
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url("**/#video_*")
    first = service.http.get(f"/videos/{page.url.split('#')[1]}").json()
    assert first["task"] == "reference_audio_to_video"
    heard = page.locator(".inputs audio")
    until(lambda: heard.evaluate("audio => audio.duration") == 2, "the page has the sound")
    assert_accessible(page)
    page.locator("#form").evaluate("form => { for (const b of form.querySelectorAll('.drop button')) b.click(); }")
    page.get_by_role("button", name="Use settings").click()
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url(lambda url: first["id"] not in url)
    again = service.http.get(f"/videos/{page.url.split('#')[1]}").json()
    assert [each["sha256"] for each in again["inputs"]] == [each["sha256"] for each in first["inputs"]]


def test_nothing_is_sent_before_the_image_of_the_job_that_was_taken_over_is_there(page: Page, service: Service) -> None:
    made = service.http.post(
        "/videos", data={"prompt": "a boat", "model": "both"}, files={"input_reference": ("boat.png", WIDE)}
    ).json()
    stand_still(page)
    page.goto(f"{service.url}/#{made['id']}")
    expect(page.locator(".inputs figure")).to_have_count(1)
    generate, use = page.get_by_role("button", name="Generate video"), page.get_by_role("button", name="Use settings")
    expect(generate).to_be_enabled()
    image = held(page, "**/content?variant=first_frame")
    use.click()
    asked = image()
    expect(generate).to_be_disabled()
    gone = {"error": {"message": "It is gone.", "code": "file_gone"}}
    asked.fulfill(status=410, json=gone)
    expect(page.get_by_text("The file of this video no longer exists.")).to_be_visible()
    expect(generate).to_be_enabled()
    use.click()
    image().continue_()
    generate.click()
    page.wait_for_url(lambda url: made["id"] not in url)
    again = service.http.get(f"/videos/{page.url.split('#')[1]}").json()
    assert again["task"] == made["task"] == "image_to_video"
    assert again["inputs"][0]["sha256"] == made["inputs"][0]["sha256"]


def test_nothing_is_sent_while_one_file_is_under_way_though_another_could_not_be_had(
    page: Page, service: Service
) -> None:
    files = {"reference_image": ("boat.png", WIDE), "reference_audio": ("voice.wav", recorded(seconds=2))}
    made = service.http.post("/videos", data={"prompt": "a boat", "model": "hears"}, files=files).json()
    stand_still(page)
    page.goto(f"{service.url}/#{made['id']}")
    loaded(page.locator(".inputs img"))
    generate = page.get_by_role("button", name="Generate video")
    expect(generate).to_be_enabled()
    gone = {"error": {"message": "It is gone.", "code": "file_gone"}}
    page.route("**/content?variant=reference_audio", lambda route: route.fulfill(status=410, json=gone))
    image = held(page, "**/content?variant=reference_image")
    with page.expect_event("requestfinished", lambda it: it.resource_type == "fetch" and "reference_audio" in it.url):
        page.get_by_role("button", name="Use settings").click()
    asked = image()
    page.evaluate("() => fetch('/healthz')")  # the page has had the answer before this one
    expect(generate).to_be_disabled()
    asked.continue_()
    expect(page.get_by_text("The file of this video no longer exists.")).to_be_visible()
    expect(generate).to_be_enabled()


def test_what_an_image_and_notes_came_with_is_made_again_with_dense_attention(
    tab: OpenTab, service: Service, tmp_path: Path
) -> None:
    page = tab(permissions=["clipboard-read", "clipboard-write"])
    stand_still(page)
    asked = {"prompt": "a boat", "model": "both", "size": "64x64", "metadata": '{"order": "17, 18"}'}
    made = service.http.post("/videos", data=asked, files={"input_reference": ("boat.png", WIDE)}).json()
    service.complete(service.claim(made["id"]), clip(tmp_path / "clip.mp4"))
    page.goto(f"{service.url}/#{made['id']}")
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert """'metadata={"order":"17, 18"}'""" in page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("button", name="Compare with dense").click()
    page.wait_for_url("**/#compare=*")
    twin, _ = service.http.get("/videos").json()["data"]
    assert (twin["quality"], twin["metadata"], twin["inputs"][0]["sha256"]) == (
        "exact",
        {"order": "17, 18"},
        made["inputs"][0]["sha256"],
    )
