"""What one does on the page, in a real browser."""

import json
import re
import subprocess
from base64 import b64encode
from ipaddress import ip_network
from pathlib import Path

import httpx
from adaspa_api.report import JobError
from adaspa_api.words import ErrorCode
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.job import Progress
from adaspa_jobs.settings import Settings
from browser import (
    PICTURE,
    PLAYED,
    OpenTab,
    assert_accessible,
    clip,
    finished,
    held,
    pass_until_asked,
    stand_still,
    webp,
)
from playwright.sync_api import Page, expect
from receiver import receiving
from running_gateway import REPORT, Service, serving
from waiting import PATIENCE, until

NOT_COVERED = """element => {
  const { x, top, bottom } = element.getBoundingClientRect();
  return element.contains(document.elementFromPoint(x + 5, (top + bottom) / 2));
}"""


def submit(page: Page, service: Service, prompt: str = "a red circle") -> str:
    """Send a prompt; the job's id."""
    page.goto(service.url)
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url("**/#video_*")
    return page.url.split("#")[1]


def open_settings(page: Page, service: Service) -> None:
    """The form with everything unfolded, and a prompt in it."""
    page.goto(service.url)
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    page.get_by_text("More settings").click()


def test_a_prompt_becomes_a_playing_video_also_after_a_reload(page: Page, service: Service, tmp_path: Path) -> None:
    video_id = submit(page, service)
    expect(page.locator(".line")).to_have_text(
        "Waiting in the queue, number 1. No worker is running for this model: it starts when one does."
    )
    lease = service.claim(video_id)
    service.step(lease, 1)
    expect(page.locator(".line")).to_contain_text("Step 1 of 24, about 2 s left.")
    page.reload()
    service.step(lease, 2)
    expect(page.locator(".line")).to_contain_text("Step 2 of 24")
    expect(page.locator(".track .sparse")).to_have_count(2)
    assert_accessible(page)
    service.complete(lease, clip(tmp_path / "clip.mp4"))
    assert page.locator("video").evaluate(PLAYED) > 0
    page.get_by_text("1.2 times faster than dense. Details").click()
    expect(page.get_by_role("heading", name="What AdaSpa did")).to_be_visible()


def test_previews_move_on_the_stage_and_in_the_gallery_until_the_video_is_there(
    page: Page, service: Service, tmp_path: Path
) -> None:
    lease = service.claim(submit(page, service))
    for step, level in ((2, 60), (4, 180)):
        progress = Progress(phase="denoising", step=step, steps=24, step_kind="dense", preview_step=step)
        service.store.report_preview(lease, progress, webp(level))
    shown = page.get_by_role("img", name="Preview")
    expect(shown).to_be_visible()
    expect(shown).to_have_attribute("src", f"data:image/webp;base64,{b64encode(webp(180)).decode()}")
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
    expect(page.locator("#jobs img")).to_have_attribute("src", re.compile("preview.step=4"))
    page.reload()
    expect(shown).to_be_visible()
    service.complete(lease, clip(tmp_path / "clip.mp4"))
    expect(shown).to_have_count(0)
    expect(page.locator("#jobs img")).to_have_attribute("src", re.compile("thumbnail"))


def test_a_job_is_cancelled_in_one_tab_and_seen_in_another(page: Page, service: Service) -> None:
    submit(page, service)
    other = page.context.new_page()
    other.goto(service.url)
    expect(other.locator("#jobs")).to_contain_text("Waiting")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#job")).to_contain_text("Cancelled")
    expect(other.locator("#jobs")).to_contain_text("Cancelled")


def test_a_moving_picture_is_shown_as_one(page: Page, service: Service) -> None:
    lease = service.claim(service.create(prompt="a circle", output_format="webp")["id"])
    service.complete(lease, webp(90), kind="image/webp")
    page.goto(f"{service.url}/#{lease.job.id}")
    shown = page.get_by_role("img", name="a circle")
    expect(shown).to_be_visible()
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 32


def test_two_tabs_follow_two_jobs(page: Page, service: Service) -> None:
    first = submit(page, service)
    other = page.context.new_page()
    second = submit(other, service, "a blue square")
    for video_id, step in ((first, 3), (second, 5)):
        service.step(service.claim(video_id), step)
    expect(page.locator("#job")).to_contain_text("Step 3 of 24")
    expect(other.locator("#job")).to_contain_text("Step 5 of 24")


def test_an_error_stands_at_its_field(page: Page, service: Service) -> None:
    page.goto(service.url)
    page.get_by_role("button", name="Generate video").click()
    expect(page.locator("#prompt-error")).to_have_text("Describe your video first.")
    page.get_by_text("More settings").click()
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    page.get_by_label("Steps", exact=True).fill("5000")
    page.keyboard.press("Enter")
    expect(page.locator("#steps-error")).to_have_text("Choose a number from 1 to 100.")
    expect(page.get_by_label("Steps", exact=True)).to_be_focused()
    expect(page.locator("#prompt-error")).to_be_empty()
    assert_accessible(page)
    assert service.messages() == 0


def test_an_error_in_a_folded_field_unfolds_it(page: Page, service: Service) -> None:
    open_settings(page, service)
    page.get_by_label("FPS").fill("99")
    page.get_by_text("More settings").click()
    page.get_by_role("button", name="Generate video").click()
    expect(page.locator("#fps-error")).to_have_text("Choose a number from 1 to 30.")
    expect(page.get_by_label("FPS")).to_be_focused()


def test_a_preset_with_settings_by_hand_is_refused_at_the_preset(page: Page, service: Service) -> None:
    open_settings(page, service)
    page.get_by_role("radio", name="Fast").check()
    page.get_by_label("Sparsity").fill("0.5")
    page.get_by_role("button", name="Generate video").click()
    expect(page.locator("#quality-error")).to_contain_text("sparsity")


def test_every_setting_of_the_form_arrives(page: Page, service: Service) -> None:
    open_settings(page, service)
    page.get_by_label("Steps", exact=True).fill("12")
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_role("radio", name="Fast").check()
    page.get_by_label("FPS").fill("16")
    page.get_by_label("Guidance").fill("2.5")
    page.get_by_label("Negative prompt").fill("a star")
    page.get_by_label("Format").select_option("webm")
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url("**/#video_*")
    job = service.http.get(f"/videos/{page.url.split('#')[1]}").json()
    wanted = {"steps": 12, "seed": 7, "quality": "fast", "fps": 16, "guidance_scale": 2.5, "output_format": "webm"}
    assert {name: job[name] for name in wanted} == wanted and job["negative_prompt"] == "a star"


def test_a_models_sound_can_be_left_out_and_a_video_tells_whether_it_has_one(
    page: Page, settings: Settings, tmp_path: Path
) -> None:
    demo = Catalog.load(None).default.model_dump(mode="json")
    catalog = tmp_path / "catalog.json"
    catalog.write_text(json.dumps([demo | {"audio": True}]))
    with serving(settings.model_copy(update={"catalog": catalog}), tmp_path) as service:
        open_settings(page, service)
        page.get_by_label("Sound").select_option("No")
        page.get_by_role("button", name="Generate video").click()
        page.wait_for_url("**/#video_*")
        silent = page.url.split("#")[1]
        assert service.http.get(f"/videos/{silent}").json()["audio"] is False
        service.complete(service.claim(silent))
        expect(page.locator(".facts")).to_contain_text("Soundnone")
        page.get_by_role("button", name="Use settings").click()
        expect(page.get_by_label("Sound")).to_have_value("false")
        sounding = service.complete(service.claim(service.create()["id"]), has_audio=True).id
        page.goto(f"{service.url}/#{sounding}")
        expect(page.locator(".facts")).to_contain_text("Soundyes")


def test_shape_and_length_are_chosen_by_buttons_or_exactly(page: Page, settings: Settings, tmp_path: Path) -> None:
    sizes = {"sizes": ["832x480", "1280x720", "720x1280", "512x512"], "frames": [17, 33, 49], "default_frames": 33}
    catalog = tmp_path / "catalog.json"
    catalog.write_text(json.dumps([Catalog.load(None).default.model_dump(mode="json") | sizes]))
    with serving(settings.model_copy(update={"catalog": catalog}), tmp_path) as service:
        page.goto(service.url)
        expect(page.get_by_role("button", name="16:9")).to_have_attribute("aria-pressed", "true")
        page.get_by_role("button", name="9:16").click()
        expect(page.get_by_label("Size", exact=True)).to_have_value("720x1280")
        page.get_by_label("Size", exact=True).select_option("1280x720")
        expect(page.get_by_role("button", name="16:9")).to_have_attribute("aria-pressed", "true")
        page.get_by_role("button", name="6 s").click()
        expect(page.get_by_label("Length", exact=True)).to_have_value("49")
        assert_accessible(page)
        page.get_by_label("Prompt", exact=True).fill("a red circle")
        page.get_by_role("button", name="Generate video").click()
        page.wait_for_url("**/#video_*")
        job = service.http.get(f"/videos/{page.url.split('#')[1]}").json()
        assert (job["size"], job["num_frames"]) == ("1280x720", 49)


def test_a_field_that_only_the_catalog_offers_stands_in_the_form(
    page: Page, settings: Settings, tmp_path: Path
) -> None:
    """The page knows no name of it: it draws what ``GET /models`` tells."""
    demo = Catalog.load(None).default.model_dump(mode="json")
    catalog = tmp_path / "catalog.json"
    ink = {"name": "ink", "source": "ink.safetensors", "sha256": 64 * "0"}
    catalog.write_text(json.dumps([demo | {"flow_shift_range": [1, 9], "loras": [ink]}, demo | {"id": "plain"}]))
    with serving(settings.model_copy(update={"catalog": catalog}), tmp_path) as service:
        open_settings(page, service)
        page.get_by_label("Flow shift").fill("9.5")
        page.get_by_role("button", name="Generate video").click()
        expect(page.locator("#flow_shift-error")).to_have_text("Choose a number from 1 to 9.")
        assert_accessible(page)
        page.get_by_label("Flow shift").fill("4.5")
        expect(page.locator("#loras-hint")).to_contain_text("ink 0 to 2")
        page.get_by_label("LoRA adapters").fill("ink:0.5")
        page.get_by_role("button", name="Generate video").click()
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".facts")).to_contain_text("LoRA adaptersink:0.5")
        expect(page.locator(".facts")).to_contain_text("Flow shift4.5")
        assert service.http.get(f"/videos/{page.url.split('#')[1]}").json()["flow_shift"] == 4.5
        page.get_by_label("Model", exact=True).select_option("plain")
        expect(page.get_by_label("Flow shift")).to_have_count(0)
        page.get_by_role("button", name="Use settings").click()
        expect(page.get_by_label("Flow shift")).to_have_value("4.5")
        expect(page.get_by_label("LoRA adapters")).to_have_value("ink:0.5")


def test_a_bulk_job_with_a_webhook(page: Page, settings: Settings, tmp_path: Path) -> None:
    own_network = settings.model_copy(update={"webhook_http": True, "webhook_networks": (ip_network("127.0.0.0/8"),)})
    with receiving() as receiver, serving(own_network, tmp_path) as service:
        open_settings(page, service)
        page.get_by_label("Priority").select_option("bulk")
        page.get_by_label("Webhook").fill("ftp://hooks.example.com/")
        page.get_by_text("More settings").click()
        page.get_by_role("button", name="Generate video").click()
        expect(page.locator("#webhook_url-error")).to_contain_text("is not a web address")
        expect(page.get_by_label("Webhook")).to_be_focused()
        assert page.locator("#webhook_url-error").evaluate(NOT_COVERED)
        assert_accessible(page)
        page.get_by_label("Webhook").fill(f"{receiver.url}/hooks")
        page.get_by_role("button", name="Generate video").click()
        expect(page.locator(".line")).to_have_text(re.compile("^Waiting in the queue as bulk, number 1[.]"))
        service.complete(service.claim(page.url.split("#")[1]), clip(tmp_path / "clip.mp4"))
        expect(page.locator(".facts")).to_contain_text("Prioritybulk")
        until(lambda: receiver.calls, "the event is sent")
        assert receiver.calls[0].video_id in page.url
        page.get_by_label("Priority").select_option("interactive")
        page.get_by_role("button", name="Use settings").click()
        expect(page.get_by_label("Priority")).to_have_value("bulk")


def test_a_priority_that_is_not_offered_is_told_at_its_field(page: Page, service: Service) -> None:
    open_settings(page, service)
    page.get_by_label("Steps", exact=True).fill("100")
    page.get_by_label("Priority").select_option("interactive")
    page.get_by_role("button", name="Generate video").click()
    expect(page.locator("#priority-error")).to_contain_text("Allowed: bulk.")


def test_the_form_tells_how_long_a_video_would_take(page: Page, service: Service, tmp_path: Path) -> None:
    lease = service.claim(service.create(quality="fast")["id"])
    service.store.complete(lease, {}, REPORT, {"denoising": 24.0, "decoding": 1.0})
    page.goto(service.url)
    expect(page.locator("#unserved")).to_have_text("No worker is running: your video will wait.")
    expect(page.get_by_role("radio", name="Fast")).to_have_accessible_name("Fast 25 s")
    expect(page.get_by_role("radio", name="Exact")).to_have_accessible_name("Exact")  # none was timed
    estimate = page.locator("#estimate")

    def told(text: str) -> bool:
        service.store.announce(service.parts.catalog.default, "worker")  # who says nothing for a while is not counted
        return text in estimate.inner_text()

    page.get_by_role("radio", name="Fast").check()
    page.get_by_label("Seed", exact=True).fill("7")
    until(lambda: told("Takes about 25 s. Starts immediately."), "one video is estimated")
    expect(page.locator("#unserved")).to_be_empty()
    page.get_by_role("spinbutton", name="Videos").fill("2")
    until(lambda: told("Takes about 25 s each."), "two are")


def test_what_is_typed_while_an_estimate_is_under_way_is_estimated_soon(page: Page, service: Service) -> None:
    stand_still(page)
    estimate = held(page, "**/videos/estimate")
    page.goto(service.url)
    expect(page.get_by_label("Model", exact=True)).to_be_visible()
    page.clock.fast_forward(1000)
    first = estimate()
    page.get_by_text("More settings").click()
    page.get_by_label("Steps", exact=True).fill("12")
    with page.expect_response("**/videos/estimate"):
        first.continue_()
    expect(page.locator("#unserved")).not_to_be_empty()
    page.clock.fast_forward(1000)
    assert estimate().request.post_data_json["steps"] == 12


def test_several_seeds_at_once_stand_in_a_grid(page: Page, service: Service, tmp_path: Path) -> None:
    open_settings(page, service)
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_role("spinbutton", name="Videos").fill("3")
    page.get_by_role("button", name="Generate video").click()
    expect(page.locator("#jobs li")).to_have_count(3)
    grid = page.locator(".batch li")
    expect(grid).to_have_text([re.compile(f"^Seed {seed}Waiting") for seed in (7, 8, 9)])
    first, second, third = page.url.split("batch=")[1].split(",")
    service.http.delete(f"/videos/{third}")
    expect(grid).to_have_count(2)
    service.complete(service.claim(first), clip(tmp_path / "clip.mp4"))
    assert grid.first.locator("video").evaluate(PLAYED) > 0
    expect(grid.nth(1)).to_contain_text("number 1")
    service.claim(second)
    expect(grid.nth(1)).to_contain_text("Loading the model.")
    assert_accessible(page)
    grid.first.get_by_role("link").click()
    page.wait_for_url(f"**/#{first}")
    expect(grid).to_have_count(0)  # whose video stood in the same place, and tells nothing once it is gone
    assert page.locator("#job video").evaluate(PLAYED) > 0


def test_a_failed_job_says_why(page: Page, service: Service) -> None:
    lease = service.claim(submit(page, service))
    service.store.fail(lease, JobError(code=ErrorCode.out_of_memory, message="The worker ran out of memory."))
    expect(page.locator("#job")).to_contain_text("Try a smaller size or a shorter clip.")
    expect(page.locator("#job")).to_contain_text("The worker ran out of memory. out_of_memory")
    assert_accessible(page)


def test_a_video_that_is_not_there_is_told(page: Page, service: Service) -> None:
    for id in (f"video_{'0' * 32}", "video_unknown"):
        page.goto(f"{service.url}/#{id}")
        expect(page.locator("#job")).to_contain_text("This video does not exist.")
    assert_accessible(page)
    page.get_by_role("link", name="Make a new video").click()
    expect(page.locator("#job")).to_contain_text("Describe a scene")
    expect(page.get_by_role("button", name="API key")).to_be_hidden()  # the service asks for none


def test_a_video_is_deleted_only_when_confirmed(page: Page, service: Service, tmp_path: Path) -> None:
    video_id = finished(service, tmp_path)
    page.goto(f"{service.url}/#{video_id}")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text("a red circle")
    assert_accessible(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert service.http.get(f"/videos/{video_id}").is_success
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Your video appears here")).to_be_visible()
    expect(page.get_by_text("No videos yet")).to_be_visible()
    assert service.http.get(f"/videos/{video_id}").status_code == 404


def test_the_gallery_shows_more_and_fetches_each_picture_once(page: Page, service: Service, tmp_path: Path) -> None:
    names = [f"scene {n}" for n in range(14)]
    for name in names:
        finished(service, tmp_path, prompt=name)
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url) if "thumbnail" in request.url else None)
    page.route("**/content?variant=thumbnail", lambda route: route.fulfill(path=PICTURE))
    stand_still(page, service.http.get("/videos").json()["data"][0]["created_at"])
    page.goto(service.url)
    tiles = page.locator("#jobs li")
    expect(tiles).to_have_count(12)
    expect(tiles.first).to_contain_text("scene 13demo · 4.1 stoday")
    search = page.get_by_role("searchbox", name="Search videos")
    search.fill("scene 0")  # with scene 10; scene 0 lies behind what is shown
    expect(tiles).to_have_count(2)
    page.get_by_label("Filter by status").select_option("Failed")
    expect(page.get_by_text("No videos match.")).to_be_visible()
    page.get_by_label("Filter by status").select_option("Ready")
    search.fill("")
    expect(tiles).to_have_count(12)
    page.get_by_role("button", name="Show more").click()
    expect(tiles).to_have_count(14)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    tiles.first.get_by_role("link").hover()
    assert tiles.first.locator("video").evaluate(PLAYED) > 0
    page.get_by_role("link", name="scene 13").click()
    expect(page.get_by_role("heading", name="scene 13")).to_be_visible()
    for _ in range(3):  # the gallery has drawn what it saw when it looks again
        pass_until_asked(page, "**/videos?limit*", 3000)
    assert len(fetched) == len(set(fetched)) == 14
    page.clock.resume()
    page.get_by_role("button", name="Select", exact=True).click()
    tiles.nth(0).get_by_role("checkbox").check()
    tiles.nth(3).get_by_role("link").click()
    expect(page.locator("#selected")).to_have_text("2 selected")
    assert_accessible(page)
    page.locator("#delete-selected").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(tiles).to_have_count(12)
    expect(page.get_by_role("link", name="scene 13")).to_have_count(0)
    expect(page.get_by_role("heading", name="Your video appears here")).to_be_visible()  # it was among them
    assert len(service.http.get("/videos").json()["data"]) == 12


def test_a_video_is_downloaded_under_its_id(page: Page, service: Service, tmp_path: Path) -> None:
    video_id = finished(service, tmp_path)
    page.goto(f"{service.url}/#{video_id}")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == f"{video_id}.mp4"
    assert Path(download.value.path()).read_bytes() == (tmp_path / "clip.mp4").read_bytes()


def test_the_copied_command_makes_the_same_job(tab: OpenTab, service: Service, tmp_path: Path) -> None:
    page = tab(permissions=["clipboard-read", "clipboard-write"])
    stand_still(page)
    video_id = finished(service, tmp_path, prompt="it's a red circle", seed=5, quality="fast")
    page.goto(f"{service.url}/#{video_id}")
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    command = page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("button", name="Share").click()
    expect(page.get_by_text("Link copied. Anyone can watch the video with it until")).to_be_visible()
    shared = page.evaluate("navigator.clipboard.readText()")
    assert httpx.get(shared).content == (tmp_path / "clip.mp4").read_bytes()
    ran = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=PATIENCE)
    job = json.loads(ran.stdout)
    assert (job["prompt"], job["seed"], job["quality"], job["status"]) == ("it's a red circle", 5, "fast", "queued")


def test_a_remix_keeps_everything_but_the_prompt(page: Page, service: Service, tmp_path: Path) -> None:
    video_id = finished(service, tmp_path, seed=5, steps=9)
    page.goto(f"{service.url}/#{video_id}")
    page.get_by_role("button", name="Remix").click()
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    assert_accessible(page)
    page.keyboard.type("a blue star")
    page.get_by_role("button", name="Generate remix").click()
    expect(page.get_by_role("heading", name="a blue star")).to_be_visible()
    job = service.http.get(f"/videos/{page.url.split('#')[1]}").json()
    assert (job["seed"], job["steps"], job["remixed_from_video_id"]) == (5, 9, video_id)


def test_a_remix_with_a_webhook(page: Page, settings: Settings, tmp_path: Path) -> None:
    own_network = settings.model_copy(update={"webhook_http": True, "webhook_networks": (ip_network("127.0.0.0/8"),)})
    with receiving() as receiver, serving(own_network, tmp_path) as service:
        page.goto(f"{service.url}/#{finished(service, tmp_path)}")
        page.get_by_text("More settings").click()
        page.get_by_label("Steps", exact=True).fill("12")
        page.get_by_role("button", name="Remix").click()
        expect(page.get_by_label("Steps", exact=True)).to_be_hidden()
        page.get_by_label("Webhook").fill("ftp://hooks.example.com/")
        page.get_by_role("button", name="Generate remix").click()
        expect(page.locator("#webhook_url-error")).to_contain_text("is not a web address")
        expect(page.get_by_label("Webhook")).to_be_focused()
        assert page.locator("#webhook_url-error").evaluate(NOT_COVERED)
        assert_accessible(page)
        page.get_by_label("Prompt", exact=True).fill("a blue star")
        page.get_by_label("Webhook").fill(f"{receiver.url}/hooks")
        page.get_by_role("button", name="Generate remix").click()
        expect(page.get_by_role("heading", name="a blue star")).to_be_visible()
        expect(page.get_by_label("Steps", exact=True)).to_have_value("12")
        service.complete(service.claim(page.url.split("#")[1]), clip(tmp_path / "clip.mp4"))
        until(lambda: receiver.calls, "the event is sent")
        assert receiver.calls[0].video_id in page.url


def test_the_settings_of_a_job_are_taken_over_and_survive_a_reload(
    page: Page, service: Service, tmp_path: Path
) -> None:
    page.goto(f"{service.url}/#{finished(service, tmp_path, seed=5, steps=9, quality='balanced')}")
    page.get_by_role("button", name="Use settings").click()
    page.get_by_label("Prompt", exact=True).fill("a blue star")
    page.reload()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a blue star")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("5")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("9")
    expect(page.get_by_role("radio", name="Balanced")).to_be_checked()


def test_a_draft_of_a_model_that_is_no_longer_served_keeps_what_still_fits(page: Page, service: Service) -> None:
    page.goto(service.url)
    draft = {"model": "gone", "size": "1x1", "prompt": "a blue star", "seed": 5}
    page.evaluate("draft => sessionStorage.setItem('draft', JSON.stringify(draft))", draft)
    page.reload()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a blue star")
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url("**/#video_*")
    job = service.http.get(f"/videos/{page.url.split('#')[1]}").json()
    assert (job["model"], job["size"], job["seed"]) == ("demo", "128x128", 5)


def test_a_service_that_is_away_is_told_until_it_is_back(page: Page, service: Service) -> None:
    page.route("**/models", lambda route: route.abort())
    page.goto(service.url)
    expect(page.get_by_role("alert").first).to_contain_text("does not answer")
    button = page.get_by_role("button", name="Generate video")
    assert button.evaluate("button => button.getBoundingClientRect().bottom <= innerHeight"), "it stays in view"
    page.unroute("**/models")
    expect(page.get_by_label("Model", exact=True)).to_be_visible()
    expect(page.locator("#banner")).to_be_hidden()


def test_nothing_comes_from_elsewhere(page: Page, service: Service) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(service.url)
    expect(page.get_by_label("Model", exact=True)).to_be_visible()
    assert asked and all(url.startswith(service.url) for url in asked)
    assert "default-src 'none'" in httpx.get(service.url).headers["Content-Security-Policy"]


def test_notes_of_programs_are_shown_as_they_are(page: Page, service: Service) -> None:
    noted, plain = (service.create(**notes)["id"] for notes in ({"metadata": {"order": "17"}, "user": "me"}, {}))
    page.goto(f"{service.url}/#{noted}")
    expect(page.locator(".facts")).to_contain_text('Metadata{"order":"17"}')
    page.goto(f"{service.url}/#{plain}")
    expect(page.locator(".facts")).to_contain_text(plain)
    expect(page.locator(".facts")).not_to_contain_text("Metadata")
