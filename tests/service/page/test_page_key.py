"""The page of a service that asks for API keys."""

import re
from pathlib import Path

import pytest
from adaspa_service.access.keys import Scope
from browser import PLAYED, OpenTab, assert_accessible, clip, finished, held, pass_until_asked, stand_still
from playwright.sync_api import Page, Route, expect
from running_gateway import Service

pytestmark = pytest.mark.asks


@pytest.fixture
def token(service: Service) -> str:
    """A key; from the first one on, the service asks for it."""
    return service.parts.keys.create("a person", frozenset({Scope.read, Scope.write}))[1]


def give(page: Page, key: str) -> None:
    """Enter a key into the dialog."""
    page.get_by_label("Key", exact=True).fill(key)
    page.keyboard.press("Enter")


def test_the_key_is_asked_for_and_opens_everything(page: Page, service: Service, token: str, tmp_path: Path) -> None:
    page.goto(service.url)
    expect(page.get_by_role("dialog")).to_be_visible()
    assert_accessible(page)
    page.keyboard.press("Enter")
    expect(page.locator("#key-error")).to_have_text("Enter your key.")
    give(page, "adaspa_no_such_key")
    expect(page.locator("#key-error")).to_contain_text("is not valid for this service")
    give(page, token)
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url("**/#video_*")
    lease = service.claim(page.url.split("#")[1])
    service.step(lease, 3)
    expect(page.locator(".line")).to_contain_text("Step 3 of 24")
    service.complete(lease, clip(tmp_path / "clip.mp4"))
    assert page.locator("video").evaluate(PLAYED) > 0
    address = page.locator("video").get_attribute("src") or ""
    assert "signature=" in address and token not in address, "an element cannot send the key"
    expect(page.locator("#gallery img[src*='signature=']")).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert Path(download.value.path()).read_bytes() == (tmp_path / "clip.mp4").read_bytes()
    page.reload()
    assert page.locator("video").evaluate(PLAYED) > 0


def test_the_address_with_the_token_opens_everything_and_does_not_keep_it(
    tab: OpenTab, service: Service, tmp_path: Path
) -> None:
    """Of a service without keys, which prints it when it starts."""
    page, other = tab(), tab()
    page.goto(service.url)
    expect(page.get_by_role("dialog")).to_contain_text("adaspa open")
    page.goto(f"{service.url}/#token={service.token}")  # in the same tab, which is not loaded anew
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_text("No videos yet")).to_be_visible()
    assert page.url == f"{service.url}/"
    video_id = finished(service, tmp_path)
    page.goto(f"{service.url}/#{video_id}")
    assert page.locator("video").evaluate(PLAYED) > 0
    page.reload()
    assert page.locator("video").evaluate(PLAYED) > 0
    other.goto(f"{service.url}/#token={service.token}")
    expect(other.locator("#gallery img[src*='signature=']")).to_have_count(1)
    assert service.token not in other.content()


def test_a_link_can_be_opened_by_itself(page: Page, service: Service, token: str, tmp_path: Path) -> None:
    """In the page that the browser makes around it, without a key."""
    service.http.headers["Authorization"] = f"Bearer {token}"
    link = service.http.get(f"/videos/{finished(service, tmp_path)}/link").json()["url"]
    page.goto(link)
    assert page.locator("video").evaluate(PLAYED) > 0


def test_a_key_that_was_put_away_is_not_asked_for_again_and_again(page: Page, service: Service, token: str) -> None:
    asked: list[str] = []
    stand_still(page)
    page.goto(service.url)
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("alert").first).to_contain_text("needs an API key")
    page.on("request", lambda request: asked.append(request.url) if "/healthz" not in request.url else None)
    page.clock.run_for(10_000)  # in which the gallery would look again
    page.evaluate("() => fetch('/healthz')")  # after all that the page asked for
    assert asked == []
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="API key").click()
    give(page, token)
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.get_by_label("Model", exact=True)).to_be_visible()


def test_a_key_that_is_revoked_meanwhile_is_asked_for(page: Page, service: Service, token: str) -> None:
    page.goto(service.url)
    give(page, token)
    expect(page.get_by_text("No videos yet")).to_be_visible()
    (key,) = service.parts.keys.all()
    service.parts.keys.revoke(key.id)
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("button", name="Forget key").click()
    expect(page.locator("#key-error")).to_be_empty()
    assert page.evaluate("sessionStorage.getItem('key')") == ""


def test_what_is_answered_to_a_key_that_was_replaced_says_nothing_of_the_one_after_it(
    page: Page, service: Service, token: str
) -> None:
    stand_still(page)
    look = held(page, "**/videos?limit*", times=1)
    page.goto(service.url)
    give(page, token)
    expect(page.get_by_label("Model", exact=True)).to_be_visible()
    late = look()
    page.get_by_role("button", name="API key").click()
    give(page, other := service.parts.keys.create("another", frozenset({Scope.read}))[1])
    expect(page.get_by_role("dialog")).to_have_count(0)
    with page.expect_response("**/videos?limit*"):
        late.fulfill(status=401, json={"error": {"message": "no", "code": "invalid_api_key"}})
    expect(page.get_by_text("No videos yet")).to_be_visible()  # the next look comes after that answer
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.evaluate("sessionStorage.getItem('key')") == other


def test_a_key_that_may_only_read_is_told_so(page: Page, service: Service) -> None:
    _, token = service.parts.keys.create("a reader", frozenset({Scope.read}))
    page.goto(service.url)
    give(page, token)
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    page.get_by_role("button", name="Generate video").click()
    expect(page.locator("#form-error")).to_contain_text("can view videos, but not create")


def nearly_used_up(route: Route) -> None:
    """Let the answer say that the key's limit is whole again in ten minutes only."""
    answer = route.fetch()
    assert "x-ratelimit-reset-requests" in answer.headers
    route.fulfill(response=answer, headers=answer.headers | {"x-ratelimit-reset-requests": "600.000s"})


def test_what_nobody_pressed_leaves_half_of_a_keys_limit_of_requests(page: Page, service: Service) -> None:
    """The limit's state is the gateway's own, but for the time until it is whole again."""
    scopes = frozenset({Scope.read, Scope.write})
    _, token = service.parts.keys.create("a person", scopes, requests_per_minute=1000)
    looks: list[str] = []

    page.on("request", lambda request: looks.append(request.url) if "/videos?limit" in request.url else None)
    page.route(re.compile("/videos|/models"), nearly_used_up)
    stand_still(page)
    page.goto(f"{service.url}/#token={token}")
    expect(page.get_by_text("No videos yet")).to_be_visible()
    page.clock.fast_forward(60_000)
    with page.expect_response("**/videos/estimate"):
        page.get_by_label("Prompt", exact=True).fill("a red circle")
        page.clock.fast_forward(1000)
    assert len(looks) == 1
    pass_until_asked(page, "**/videos?limit*", 600_000)
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url("**/#video_*")
    page.unroute_all(behavior="wait")  # an answer that is on its way cannot be changed after the page is closed


@pytest.mark.parametrize(("view", "path"), [("batch={},{}", r"/videos/video_\w+$"), ("{}", "/events$")])
def test_what_a_keys_limit_refuses_is_asked_for_again_when_half_of_it_is_back(
    page: Page, service: Service, view: str, path: str
) -> None:
    scopes = frozenset({Scope.read, Scope.write})
    _, token = service.parts.keys.create("a person", scopes, requests_per_minute=1000)
    service.http.headers["Authorization"] = f"Bearer {token}"
    asked: list[str] = []

    def refused(route: Route) -> None:
        asked.append(route.request.url)
        error = {"message": "too many requests", "code": "rate_limit_exceeded"}
        headers = {"x-ratelimit-reset-requests": "600.000s", "retry-after": "1"}
        route.fulfill(status=429, headers=headers, json={"error": error})

    page.route(re.compile("/videos|/models"), nearly_used_up)
    page.route(re.compile(path), refused)
    stand_still(page)
    page.goto(f"{service.url}/#token={token}")
    expect(page.get_by_text("No videos yet")).to_be_visible()
    with page.expect_response(re.compile(path)):
        page.goto(f"{service.url}/#{view.format(*(service.create()['id'] for _ in range(2)))}")
    for _ in range(3):
        page.clock.run_for(20_000)
    assert len(asked) == len(set(asked)) > 0
    page.route(re.compile(path), lambda route: route.continue_())
    pass_until_asked(page, re.compile(path), 600_000)
    page.unroute_all(behavior="wait")


@pytest.mark.parametrize(
    "script",
    [
        """for (const name of ["sessionStorage", "localStorage"])
         Object.defineProperty(window, name, { get: () => { throw new DOMException("denied", "SecurityError"); } });""",
        'Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError"); };',
    ],
    ids=["forbidden", "full"],
)
def test_a_browser_that_stores_nothing_keeps_the_key_until_the_page_is_left(
    tab: OpenTab, service: Service, script: str
) -> None:
    page = tab()
    page.add_init_script(script)
    page.goto(service.url)
    give(page, service.token)
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    page.get_by_role("button", name="Generate video").click()
    page.wait_for_url("**/#video_*")
    expect(page.locator(".line")).to_contain_text("Waiting in the queue")
    page.get_by_label("Colours").select_option("dark")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
