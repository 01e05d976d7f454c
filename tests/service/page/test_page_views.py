"""The page for all who use it: by keyboard alone, on a phone, in the dark, and what the report's figures say."""

from io import BytesIO
from pathlib import Path

import pytest
from browser import PHONE, OpenTab, assert_accessible, finished
from PIL import Image
from playwright.sync_api import Page, expect
from running_gateway import Service
from waiting import until


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the focus is on what has this accessible name or begins with it."""
    named = "() => document.activeElement.labels?.[0]?.textContent || document.activeElement.textContent"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(named).strip().startswith(name):
            return
    raise AssertionError(f"no way to {name} by Tab")


def test_everything_by_keyboard(page: Page, service: Service) -> None:
    page.goto(service.url)
    expect(page.get_by_label("Model", exact=True)).to_be_visible()
    tab_to(page, "Prompt")
    page.keyboard.type("a red circle")
    tab_to(page, "Default")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Exact")).to_be_checked()
    tab_to(page, "More settings")
    page.keyboard.press("Enter")
    tab_to(page, "Guidance scale")
    tab_to(page, "Generate video")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#video_*")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    tab_to(page, "Cancel")
    page.keyboard.press("Enter")
    expect(page.locator("#job")).to_contain_text("Cancelled")
    tab_to(page, "Delete")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No videos yet")).to_be_visible()


def test_control_enter_in_the_prompt_submits(page: Page, service: Service) -> None:
    page.goto(service.url)
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/#video_*")
    page.goto("about:blank")  # the gateway is never done with a page that follows a job
    assert service.messages() == 1


def test_the_heat_map_tells_each_head_by_arrow_keys_and_by_hover(page: Page, service: Service, tmp_path: Path) -> None:
    page.goto(f"{service.url}/#{finished(service, tmp_path, layers=3, heads=4)}")
    page.get_by_text("times faster than dense").click()
    page.get_by_role("gridcell").first.focus()
    readout = page.locator(".readout")
    expect(readout).to_have_text("Layer 0, head 0: density 10.0 %, recall 99.0 %")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(readout).to_have_text("Layer 1, head 1: density 30.0 %, recall 94.0 %")
    page.keyboard.press("End")
    expect(readout).to_contain_text("Layer 1, head 3")
    page.get_by_role("gridcell").last.hover()
    expect(readout).to_contain_text("Layer 2, head 3")
    page.get_by_role("radio", name="Recall").check()
    expect(page.get_by_role("gridcell").nth(5)).to_have_text("94")
    assert_accessible(page)


def test_the_report_says_what_its_speed_up_is_an_estimate_of(page: Page, service: Service, tmp_path: Path) -> None:
    page.goto(f"{service.url}/#{finished(service, tmp_path)}")
    page.get_by_text("times faster than dense").click()
    expect(page.locator(".figures")).to_contain_text("Attention work65 %")
    expect(page.locator(".figures")).to_contain_text("by an estimate from some of the rows")
    expect(page.get_by_text("Fell back: layer 0 did not run through AdaSpa (2 calls).")).to_be_visible()
    # 4 dense steps in 1.0 s: all 10 would have taken 2.5 s, and took 1.0 + 0.6 + 0.5 s.
    expect(page.locator(".figures")).to_contain_text("1.19")
    expect(page.locator(".figures")).to_contain_text("Estimated from this job's own dense steps")
    expect(page.get_by_role("table", name="Denoising steps by kind")).to_contain_text("Search20.60 s0.30 s")


@pytest.mark.parametrize(
    ("scheme", "size"), [("dark", PHONE), ("light", {"width": 1280, "height": 900})], ids=["phone", "desktop"]
)
def test_large_models_fit_and_are_readable(
    tab: OpenTab, service: Service, tmp_path: Path, scheme: str, size: dict[str, int]
) -> None:
    page = tab(viewport=size, color_scheme=scheme)
    page.goto(f"{service.url}/#{finished(service, tmp_path, layers=40, heads=40)}")
    page.get_by_text("times faster than dense").click()
    expect(page.get_by_role("gridcell")).to_have_count(1600)
    page.get_by_text("More settings").click()
    assert_accessible(page)
    page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_on_a_phone_the_new_job_comes_into_view(tab: OpenTab, service: Service) -> None:
    page = tab(viewport=PHONE)
    page.goto(service.url)
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    page.get_by_role("button", name="Generate video").click()
    expect(page.locator(".line")).to_be_in_viewport()
    assert_accessible(page)


def test_colours_chosen_by_hand_stay(tab: OpenTab, service: Service) -> None:
    page = tab(color_scheme="light")
    page.goto(service.url)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_label("Colours").select_option("dark")
    assert page.evaluate(ground) != light
    page.reload()
    assert page.evaluate(ground) != light
    assert_accessible(page)


def test_the_button_is_in_view_before_anybody_scrolls(page: Page, service: Service) -> None:
    page.goto(service.url)
    page.get_by_text("More settings").click()
    button = page.get_by_role("button", name="Generate video")
    for width, height in ((1440, 900), (1366, 768), (1280, 720), (PHONE["width"], PHONE["height"])):
        page.set_viewport_size({"width": width, "height": height})
        for seen in ("Prompt", "Webhook"):
            page.get_by_label(seen, exact=True).scroll_into_view_if_needed()
            expect(button).to_be_in_viewport(ratio=1)
        assert width == PHONE["width"] or page.evaluate("scrollY") == 0


def test_the_api_reference_comes_with_the_service(page: Page, service: Service) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(service.url)
    page.get_by_role("link", name="API").click()
    page.wait_for_url("**/docs")
    create = page.locator(".opblock", has_text="/v1/videos").first
    expect(create).to_be_visible()
    create.get_by_role("button").first.click()
    expect(page.get_by_role("button", name="Try it out")).to_be_visible()
    assert all(url.startswith((service.url, "data:")) for url in asked)
    plain = service.http.get("/docs/swagger-ui.css", headers={"Accept-Encoding": "identity"})
    assert ".swagger-ui" in plain.text and "content-encoding" not in plain.headers
    assert service.http.get("/docs/nothing.js").status_code == 404


def test_who_skips_to_the_video_still_has_it_after_a_reload(page: Page, service: Service, tmp_path: Path) -> None:
    page.goto(f"{service.url}/#{finished(service, tmp_path)}")
    expect(page.locator("#job video")).to_be_visible()
    page.get_by_role("link", name="Skip to the video").press("Enter")
    expect(page.locator("#stage")).to_be_focused()
    page.reload()
    expect(page.locator("#job video")).to_be_visible()


def test_what_is_wrong_is_in_view_wherever_one_has_scrolled_to(tab: OpenTab, service: Service) -> None:
    for size in (PHONE, {"width": 1280, "height": 500}):
        page = tab(viewport=size)
        page.goto(f"{service.url}/#{service.create()['id']}")
        expect(page.locator(".line")).to_be_visible()
        page.locator("#gallery li").first.scroll_into_view_if_needed()
        page.context.set_offline(True)
        expect(page.locator("#banner")).to_contain_text("does not answer")
        expect(page.locator("#banner")).to_be_in_viewport(ratio=1)
        page.context.set_offline(False)
        expect(page.locator("#banner")).to_be_hidden()


def test_what_is_chosen_and_how_far_a_video_is_are_seen_in_colours_of_the_system(
    tab: OpenTab, service: Service
) -> None:
    page = tab(forced_colors="active")
    video_id = service.create()["id"]
    service.step(service.claim(video_id), 12)
    page.goto(f"{service.url}/#{video_id}")
    expect(page.locator(".line")).to_contain_text("Step 12 of 24")
    colour = "(element, pseudo) => getComputedStyle(element, pseudo).backgroundColor"
    chosen, other = (page.locator(f".segments input{which} + span").first for which in (":checked", ":not(:checked)"))
    assert chosen.evaluate(colour) != other.evaluate(colour)
    made, left = (page.locator(f".track i{which}").first for which in (".sparse", ":not([class])"))
    assert made.evaluate(colour) != left.evaluate(colour)

    def half_full() -> bool:
        bar = Image.open(BytesIO(page.locator("#job progress").screenshot())).convert("RGB")
        return bar.getpixel((bar.width // 4, bar.height // 2)) != bar.getpixel((3 * bar.width // 4, bar.height // 2))

    until(half_full, "the bar has grown to its place")
