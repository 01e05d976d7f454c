"""Dense attention beside AdaSpa on the page: the twin is found or made, both play on one clock, the times are told."""

from pathlib import Path

from browser import PLAYED, assert_accessible, clip, finished, report_of
from playwright.sync_api import Page, expect
from running_gateway import Service

APART = """() => {
  const [a, b] = document.querySelectorAll(".compare video");
  return Math.abs(a.currentTime - b.currentTime);
}"""


def test_a_video_is_compared_with_its_dense_twin(page: Page, service: Service, tmp_path: Path) -> None:
    ours = finished(service, tmp_path, seed=5, quality="fast", steps=9)
    page.goto(f"{service.url}/#{ours}")
    page.get_by_role("button", name="Compare with dense").click()
    page.wait_for_url("**/#compare=*")
    dense = page.url.split("compare=")[1].split(",")[0]
    asked = service.http.get(f"/videos/{dense}").json()
    assert (asked["quality"], asked["seed"], asked["steps"]) == ("exact", 5, 9)
    expect(page.locator(".pair")).to_contain_text("Waiting in the queue, number 1.")
    assert_accessible(page)
    page.route("**/videos/video_*", lambda route: route.abort())
    with page.expect_event("requestfailed"):
        pass
    page.unroute("**/videos/video_*")  # the service was away for a moment
    report = report_of(3, 4).model_copy(update={"search_steps": 0, "sparse_steps": 0, "dense_seconds": 4.2})
    report = report.model_copy(update={"search_seconds": 0.0, "sparse_seconds": 0.0})
    service.complete(service.claim(dense), clip(tmp_path / "clip.mp4"), report)
    # 4.2 s of dense steps; 1.0 + 0.6 + 0.5 s of AdaSpa's.
    expect(page.locator(".verdict")).to_contain_text("AdaSpa was 2.0 times faster.")
    expect(page.get_by_role("table", name="Denoising time")).to_contain_text("Dense4.2 sAdaSpa2.1 s")
    assert page.locator(".ours video").evaluate(PLAYED) > 0
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Position").fill("0.5")
    page.wait_for_function(f"({APART})() === 0")
    divider = page.get_by_label("Divider between dense and AdaSpa")
    divider.focus()
    page.keyboard.press("End")
    assert divider.input_value() == "100"
    page.get_by_role("radio", name="Side by side").check()
    expect(divider).to_be_hidden()
    assert_accessible(page)
    page.goto(f"{service.url}/#{dense}")
    expect(page.get_by_text("Dense attention, 4.2 s.")).to_be_visible()
    page.get_by_role("button", name="Compare with AdaSpa").click()  # which is there
    page.wait_for_url(f"**/#compare={dense},{ours}")
    assert len(service.http.get("/videos").json()["data"]) == 2
    service.http.delete(f"/videos/{ours}")
    page.reload()
    expect(page.locator("#job")).to_contain_text("One of these videos does not exist.")


def test_no_speed_is_told_of_a_video_whose_steps_were_all_dense(page: Page, service: Service, tmp_path: Path) -> None:
    ids = []
    for seconds in (4.2, 2.1):
        report = report_of(1, 1).model_copy(update={"search_steps": 0, "sparse_steps": 0, "dense_seconds": seconds})
        lease = service.claim(service.create(seed=5)["id"])
        ids.append(service.complete(lease, clip(tmp_path / "clip.mp4"), report).id)
    page.goto(f"{service.url}/#compare={','.join(ids)}")
    expect(page.locator(".verdict")).to_have_text(
        "All steps of AdaSpa's video were dense, too. Same prompt, same seed. ", use_inner_text=True
    )
