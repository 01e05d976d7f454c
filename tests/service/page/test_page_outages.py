"""The page while a part of the service, or the browser itself, is not as it should be."""

import re
import time
from pathlib import Path

import pytest
from adaspa_jobs.settings import Settings
from browser import PICTURE, PLAYED, assert_accessible, finished, held, pass_until_asked, stand_still, webp
from playwright.sync_api import Page, Route, expect
from running_gateway import Service

AWAY = {"error": {"message": "The job store is unavailable; try again.", "code": "service_unavailable"}}
DRAG = """(element, [kind, name, type]) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File(["a"], name, { type }));
  const event = new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true });
  element.dispatchEvent(event);
  return event.defaultPrevented;
}"""


def test_a_video_that_is_opened_while_the_service_is_away_is_shown_once_it_is_back(
    page: Page, service: Service, tmp_path: Path
) -> None:
    video_id = finished(service, tmp_path)
    page.route(f"**/videos/{video_id}", lambda route: route.fulfill(status=503, json=AWAY))
    with page.expect_response(f"**/videos/{video_id}"):
        page.goto(f"{service.url}/#{video_id}")
    page.unroute(f"**/videos/{video_id}")
    assert page.locator("video").evaluate(PLAYED) > 0


def test_a_file_that_cannot_be_had_is_told_and_tried_again(
    page: Page, service: Service, settings: Settings, tmp_path: Path
) -> None:
    video_id = finished(service, tmp_path)
    (file,) = Path(settings.storage_url).rglob("video.mp4")
    aside = file.rename(tmp_path / "aside")
    page.goto(f"{service.url}/#{video_id}")
    expect(page.locator(".viewer")).to_contain_text("The file of this video no longer exists.")
    page.route("**/content?variant=video", lambda route: route.fulfill(status=503, json=AWAY))
    again = page.get_by_role("button", name="Try again")
    again.press("Enter")
    expect(page.locator(".viewer")).to_contain_text("The service is temporarily unavailable.")
    expect(again).to_be_focused()
    assert_accessible(page)
    page.unroute("**/content?variant=video")
    aside.rename(file)
    again.press("Enter")
    assert page.locator("video").evaluate(PLAYED) > 0
    expect(page.locator("video")).to_be_focused()


def test_a_moving_picture_that_cannot_be_had_is_told_and_tried_again(
    page: Page, service: Service, settings: Settings, tmp_path: Path
) -> None:
    lease = service.claim(service.create(prompt="a circle", output_format="webp")["id"])
    service.complete(lease, webp(90), kind="image/webp")
    (file,) = Path(settings.storage_url).rglob("video.mp4")
    aside = file.rename(tmp_path / "aside")
    page.goto(f"{service.url}/#{lease.job.id}")
    expect(page.locator(".viewer")).to_contain_text("The file of this video no longer exists.")
    aside.rename(file)
    page.get_by_role("button", name="Try again").click()
    shown = page.get_by_role("img", name="a circle")
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 32


def test_a_comparison_and_a_batch_say_which_file_cannot_be_had(
    page: Page, service: Service, settings: Settings, tmp_path: Path
) -> None:
    whole = finished(service, tmp_path)
    (kept,) = Path(settings.storage_url).rglob("video.mp4")
    missing = finished(service, tmp_path)
    (file,) = set(Path(settings.storage_url).rglob("video.mp4")) - {kept}
    aside = file.rename(tmp_path / "aside")
    page.goto(f"{service.url}/#batch={missing},{whole}")
    expect(page.locator(".batch li").first).to_contain_text("The file of this video no longer exists.")
    assert page.locator(".batch video").evaluate(PLAYED) > 0
    assert_accessible(page)
    page.goto(f"{service.url}/#compare={missing},{whole}")
    expect(page.locator("#job")).to_contain_text("The file of this video no longer exists.")
    again = page.get_by_role("button", name="Try again")
    expect(again).to_be_visible()
    aside.rename(file)
    again.click()
    assert page.locator(".compare video").first.evaluate(PLAYED) > 0


def test_a_picture_that_could_not_be_had_comes_to_the_gallery_by_itself(
    page: Page, service: Service, tmp_path: Path
) -> None:
    video_id = finished(service, tmp_path)
    page.route("**/content?variant=thumbnail", lambda route: route.fulfill(status=503, json=AWAY))
    with page.expect_response("**/content?variant=thumbnail"):
        page.goto(service.url)
    picture = page.locator(f"#gallery a[href='#{video_id}'] img")
    expect(picture).to_be_hidden()
    page.unroute("**/content?variant=thumbnail")
    page.route("**/content?variant=thumbnail", lambda route: route.fulfill(path=PICTURE))
    expect(picture).to_be_visible()


def test_a_record_that_is_too_damaged_to_show_leaves_a_comparison_and_a_batch(
    page: Page, service: Service, tmp_path: Path
) -> None:
    whole, damaged = finished(service, tmp_path), finished(service, tmp_path)
    service.store.client.hdel(f"adaspa:job:{damaged}", "params")
    assert service.http.get(f"/videos/{damaged}").status_code == 410
    page.goto(f"{service.url}/#compare={damaged},{whole}")
    expect(page.locator("#stage")).to_contain_text("One of these videos does not exist.")
    page.goto(f"{service.url}/#batch={damaged},{whole}")
    assert page.locator(".batch video").evaluate(PLAYED) > 0
    expect(page.locator(".batch li")).to_have_count(1)


def test_looks_that_get_no_answer_for_long_do_not_pile_up(page: Page, service: Service) -> None:
    asked: list[str] = []
    stand_still(page)
    page.route("**/videos?limit*", lambda _: None)
    with page.expect_request("**/videos?limit*"):
        page.goto(service.url)
    page.on("request", lambda request: asked.append(request.url) if "/videos?limit" in request.url else None)
    page.clock.run_for(60_000)  # and for twenty looks
    page.unroute("**/videos?limit*")  # what was held goes on
    expect(page.get_by_text("No videos yet")).to_be_visible()
    page.evaluate("() => fetch('/healthz')")  # after all that it asked for
    assert asked == []


def test_a_clock_that_is_set_back_does_not_stop_the_looks(page: Page, service: Service) -> None:
    page.clock.install()
    page.goto(service.url)
    expect(page.get_by_text("No videos yet")).to_be_visible()
    page.evaluate("{ const now = Date.now; Date.now = () => now() - 86_400_000; }")
    with page.expect_request("**/videos?limit*"):
        page.clock.run_for(5000)


def test_a_file_that_nothing_takes_does_not_replace_the_page(page: Page, service: Service) -> None:
    stand_still(page)
    page.goto(service.url)
    expect(page.get_by_label("Model", exact=True)).to_be_visible()
    for place in ("#stage", "#form"):
        for kind in ("dragover", "drop"):
            assert page.locator(place).evaluate(DRAG, [kind, "a.png", "image/png"]), "else the browser opens the file"
    expect(page.get_by_text("This model takes no such file.")).to_be_visible()


def test_one_press_makes_one_video_however_long_the_answer_takes(page: Page, service: Service) -> None:
    page.goto(service.url)
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    sent = held(page, "**/videos")
    page.keyboard.press("Control+Enter")
    sent()
    page.keyboard.press("Control+Enter")
    page.keyboard.down("Control")
    for _ in range(3):
        page.keyboard.down("Enter")  # as the keyboard repeats it
    page.unroute("**/videos")  # what was held goes on
    page.wait_for_url("**/#video_*")
    assert len(service.http.get("/videos").json()["data"]) == 1


def test_a_prompt_that_is_too_long_is_not_cut_but_told(page: Page, service: Service) -> None:
    page.goto(service.url)
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.focus()
    page.keyboard.insert_text("\N{CAT FACE}" * 301)
    expect(page.locator("#prompt-hint")).to_have_text("301 of 300 characters")
    page.get_by_role("button", name="Generate video").click()
    expect(page.locator("#prompt-error")).to_have_text("Use at most 300 characters. You entered 301.")
    page.keyboard.press("End")
    page.keyboard.press("Backspace")
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url("**/#video_*")


@pytest.mark.asks
def test_a_comparison_says_which_file_cannot_be_had_though_the_other_comes_later(
    page: Page, service: Service, settings: Settings, tmp_path: Path
) -> None:
    missing = finished(service, tmp_path)
    next(Path(settings.storage_url).rglob("video.mp4")).unlink()
    whole = finished(service, tmp_path)
    link = held(page, f"**/videos/{whole}/link?variant=video")
    page.goto(f"{service.url}/#token={service.token}")
    expect(page.get_by_label("Model", exact=True)).to_be_visible()
    page.goto(f"{service.url}/#compare={missing},{whole}")
    told = page.get_by_text("The file of this video no longer exists.")
    expect(told).to_be_visible()
    with page.expect_event("requestfinished", lambda request: "/link" in request.url):
        link().continue_()
    page.evaluate("() => fetch('/healthz')")  # the page has had the answer before this one
    page.evaluate("new Promise(done => setTimeout(() => requestAnimationFrame(done)))")  # it has drawn what it has
    expect(told).to_be_visible()
    expect(page.locator("#job video")).to_have_count(0)


def test_an_address_that_changes_before_the_page_knows_its_models_is_shown_when_it_does(
    page: Page, service: Service, tmp_path: Path
) -> None:
    video_id = finished(service, tmp_path)
    looks: list[str] = []
    page.on("request", lambda request: looks.append(request.url) if request.url.endswith(video_id) else None)
    models = held(page, "**/models")
    page.goto(service.url)
    expect(page.get_by_role("button", name="Generate video")).to_be_disabled()
    page.goto(f"{service.url}/#{video_id}")
    models().continue_()
    assert page.locator("#job video").evaluate(PLAYED) > 0
    assert len(looks) == 1, "it is not drawn twice"


@pytest.mark.asks
@pytest.mark.parametrize("days", [-1, 1])
def test_links_are_renewed_by_a_browser_whose_clock_is_wrong(
    page: Page, service: Service, tmp_path: Path, days: int
) -> None:
    video_id = finished(service, tmp_path)
    links: list[str] = []
    page.on("request", lambda request: links.append(request.url) if "/link?variant=video" in request.url else None)
    page.clock.install(time=time.time() + days * 86400)
    page.goto(f"{service.url}/#token={service.token}")
    expect(page.get_by_label("Model", exact=True)).to_be_visible()
    page.goto(f"{service.url}/#{video_id}")
    for hour, count in ((0, 1), (0, 1), (1, 2)):
        page.clock.fast_forward(hour * 3_600_000)
        page.goto(f"{service.url}/#")
        expect(page.locator("#job video")).to_have_count(0)
        page.goto(f"{service.url}/#{video_id}")
        expect(page.locator("#job video")).to_have_attribute("src", re.compile("signature="))
        assert len(links) == count


@pytest.mark.asks
def test_a_link_that_has_ended_is_renewed_to_try_again(page: Page, service: Service, tmp_path: Path) -> None:
    video_id = finished(service, tmp_path)
    page.goto(f"{service.url}/#token={service.token}")
    expect(page.get_by_label("Model", exact=True)).to_be_visible()
    page.goto(f"{service.url}/#{video_id}")
    assert page.locator("#job video").evaluate(PLAYED) > 0
    page.goto(f"{service.url}/#")
    expect(page.locator("#job video")).to_have_count(0)
    page.route("**/content?variant=video&*signature=*", lambda route: route.fulfill(status=403))
    page.goto(f"{service.url}/#{video_id}")
    again = page.get_by_role("button", name="Try again")
    expect(again).to_be_visible()
    page.unroute("**/content?variant=video&*signature=*")
    with page.expect_request("**/link?variant=video"):
        again.click()
    assert page.locator("#job video").evaluate(PLAYED) > 0


@pytest.mark.asks
def test_a_key_that_no_browser_can_send_is_refused_where_it_was_typed(page: Page, service: Service) -> None:
    page.goto(service.url)
    page.get_by_label("Key", exact=True).fill("\N{LEFT DOUBLE QUOTATION MARK}adaspa_key\N{RIGHT DOUBLE QUOTATION MARK}")
    page.keyboard.press("Enter")
    expect(page.locator("#key-error")).to_contain_text("This is not a key.")
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    page.get_by_label("Key", exact=True).fill(service.token)
    page.keyboard.press("Enter")
    expect(page.get_by_text("No videos yet")).to_be_visible()


def test_a_connection_that_died_in_silence_is_made_again(page: Page, service: Service) -> None:
    dead: list[Route] = []
    stand_still(page)
    page.route("**/events", lambda route: dead.append(route) if not dead else route.continue_())
    video_id = service.create()["id"]
    with page.expect_request("**/events"):
        page.goto(f"{service.url}/#{video_id}")
    service.step(service.claim(video_id), 3)
    page.clock.fast_forward(39_000)
    expect(page.locator(".line")).to_contain_text("Waiting in the queue")
    pass_until_asked(page, "**/events", 1000)
    expect(page.locator(".line")).to_contain_text("Step 3 of 24")


@pytest.mark.parametrize("path", ["/models", "/videos?limit*", "/videos/video_*", "/videos/video_*/events"])
def test_a_busy_service_is_left_alone_as_long_as_it_asks(page: Page, service: Service, path: str) -> None:
    asked: list[Route] = []

    def refuse(route: Route) -> None:
        asked.append(route)
        route.fulfill(status=503, json=AWAY, headers={"Retry-After": "60"})

    stand_still(page)
    page.route(f"**{path}", refuse)
    with page.expect_event("requestfinished", lambda request: bool(asked) and request == asked[0].request):
        page.goto(f"{service.url}/#{service.create()['id']}")
    page.evaluate("() => fetch('/healthz')")  # the page has had the answer before this one
    asked.clear()
    page.clock.run_for(30_000)
    page.evaluate("() => fetch('/healthz')")
    assert asked == []
    pass_until_asked(page, f"**{path}", 60_000)
