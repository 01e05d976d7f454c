"""Users' commands against a real gateway: which jobs each is about, what it asks first, and what it says and writes."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from importlib import import_module
from pathlib import Path
from typing import Any

import forked
import pytest
from adaspa_api.report import JobError
from adaspa_api.words import ErrorCode
from adaspa_command import ADASPA, NOWHERE, adaspa, clean_environment, in_terminal
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.settings import Settings
from adaspa_service.access.keys import Scope
from adaspa_service.cli import app, main
from adaspa_service.cli.server import checked
from filmed import filmed
from http_server import answering
from running_gateway import FILES, REPORT, Service, demo_catalog, serving
from typer.testing import CliRunner
from waiting import PATIENCE, until

terminal = import_module("adaspa_service.cli.terminal")
ENDED = JobError(code=ErrorCode.out_of_memory, message="No memory.")


def printed(service: Service, *arguments: object, status: int = 0) -> str:
    """What a command prints; on standard error, when it has to fail."""
    done = adaspa(*arguments, server=service.url)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def ids(service: Service, *options: object) -> list[str]:
    done = CliRunner().invoke(app, ["jobs", *map(str, options), "--server", service.url])
    assert done.exit_code == 0, done.output
    listed = done.stdout
    assert listed == "" or {len(line.split("\t")) for line in listed.splitlines()} == {7}
    return [line.split("\t")[0] for line in listed.splitlines()]


@pytest.fixture
def begun(service: Service, tmp_path: Path) -> Iterator[Callable[..., forked.Started]]:
    """Starts a command that waits for videos, and waits until these are made."""
    running: list[forked.Started] = []

    def start(*arguments: object, jobs: int) -> forked.Started:
        said = tmp_path / "out.txt", tmp_path / "err.txt"
        env = clean_environment(ADASPA_SERVER=service.url)
        running.append(forked.Started(main, ["adaspa", *map(str, arguments)], env, *said))
        until(lambda: len(service.store.unfinished("open")) == jobs, "its videos are made")
        return running[-1]

    yield start
    for each in running:
        each.kill()
        each.wait()


def test_a_list_has_the_asked_jobs_alone_and_as_many_as_are_asked(service: Service) -> None:
    made = [service.create(metadata={"order": str(n % 2), "shop": "a"})["id"] for n in range(6)]
    for number in (1, 4):
        service.complete(service.claim(made[number]))
    newest = made[::-1]
    waiting = [each for each in newest if each not in (made[1], made[4])]
    assert ids(service) == ids(service, "--limit", 6) == newest
    assert ids(service, "--oldest-first") == made
    assert ids(service, "--status", "completed") == [made[4], made[1]]
    assert ids(service, "--status", "failed") == []
    for limit in range(1, 5):
        assert ids(service, "--status", "queued", "--limit", limit) == waiting[:limit]
    assert ids(service, "--metadata", "order=1") == newest[::2]
    assert ids(service, "--metadata", "shop=a,order=0", "--status", "completed") == [made[4]]
    assert ids(service, "--metadata", "order=2") == []
    assert ids(service, "--after", made[2]) == [made[1], made[0]]
    assert ids(service, "--after", made[2], "--oldest-first", "--metadata", "order=1") == [made[3], made[5]]
    assert "--metadata" in printed(service, "jobs", "--metadata", "order", status=2)


def test_a_next_page_is_named_in_a_terminal_if_there_is_one(service: Service) -> None:
    made = [service.create()["id"] for _ in range(3)]
    service.completed()
    asked = ("jobs", "--status", "queued", "--limit")
    _, whole = in_terminal(*asked, 3, server=service.url)
    assert "Next page" not in whole and whole.count("video_") == 3
    _, part = in_terminal(*asked, 2, server=service.url)
    assert f"Next page: adaspa jobs --after {made[1]}" in " ".join(part.split())
    assert "Next page" not in printed(service, "jobs", "--limit", 1), "a program asks for it by itself"


def test_a_cancel_says_whether_a_job_stops_at_once(service: Service) -> None:
    running, done, waiting = service.claim(service.create()["id"]), service.completed(), service.create()["id"]
    assert printed(service, "cancel", running.job.id, done, waiting).splitlines() == [
        f"{running.job.id}: in_progress (stops after the current step)",
        f"{done}: completed",
        f"{waiting}: cancelled",
    ]
    service.store.release_cancelled(running)
    assert printed(service, "cancel", running.job.id) == f"{running.job.id}: cancelled\n"


@pytest.mark.parametrize(("command", "told"), [(("cancel",), "cancelled"), (("delete", "--yes"), "deleted")])
def test_an_id_that_is_refused_keeps_no_other_job_from_its_turn(
    service: Service, command: tuple[str, ...], told: str
) -> None:
    one, other = [service.create()["id"] for _ in range(2)]
    done = adaspa(*command, "video_0", one, one, "a/b", other, server=service.url)
    assert (done.returncode, done.stdout) == (1, f"{one}: {told}\n{other}: {told}\n")
    assert done.stderr.splitlines() == [
        "adaspa: video_0: there is no video 'video_0'",
        "adaspa: a/b: there is no video 'a/b'",
    ]
    assert ids(service, "--status", "queued") == []


@pytest.mark.asks
@pytest.mark.parametrize("command", [("cancel",), ("delete", "--yes")])
def test_a_key_that_may_do_nothing_is_told_once_for_all_jobs(service: Service, command: tuple[str, ...]) -> None:
    key = service.parts.keys.create("a reader", frozenset({Scope.read}))[1]
    for given in (key, "adaspa_wrong"):
        done = adaspa(*command, "video_0", "video_1", server=service.url, ADASPA_API_KEY=given)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(("answer", "goes", "count"), [("y", True, 2), ("", False, 1)])
def test_a_delete_in_a_terminal_asks_before_anything_goes(
    service: Service, answer: str, goes: bool, count: int
) -> None:
    made = [service.create()["id"] for _ in range(count)]
    status, shown = in_terminal("delete", *made, server=service.url, answer=answer)
    named = made[0] if count == 1 else "2 jobs"
    assert f"Permanently delete {named}? [y/N]" in " ".join(shown.split())
    assert (status, len(ids(service))) == ((0, 0) if goes else (1, count))
    assert [f"{each}: deleted" in shown for each in made] == [goes] * count


@pytest.mark.parametrize("command", [("models",), ("jobs", "--json"), ("generate", "a"), ("delete", "-y", "video_0")])
def test_another_server_than_a_gateway_is_told_as_that(command: tuple[str, ...]) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.send_response(200)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"<html>")

        do_POST = do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with answering(Handler) as port:
        done = adaspa(*command, server=f"http://127.0.0.1:{port}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert "is not that of an AdaSpa gateway; is the address right?" in done.stderr


def test_nobody_is_asked_without_an_input(service: Service) -> None:
    video_id = service.create()["id"]
    line = ["sh", "-c", '"$0" "$@" <&-', ADASPA, "delete", video_id]
    closed = subprocess.run(
        line, check=False, capture_output=True, text=True, env=clean_environment(ADASPA_SERVER=service.url)
    )
    assert (closed.returncode, closed.stderr.count("\n")) == (2, 1) and "use --yes" in closed.stderr
    assert ids(service) == [video_id]


def test_jobs_that_a_command_gives_up_are_named(
    service: Service, begun: Callable[..., forked.Started], tmp_path: Path
) -> None:
    (folder := tmp_path / "videos").mkdir()
    command = begun("generate", "a star", "-n", 3, "--seed", 7, "-o", folder / "star.mp4", jobs=3)
    first, *others = sorted(service.store.unfinished("open"), key=lambda job: job.params.seed)
    service.store.fail(service.claim(first.id), ENDED)
    folder.rmdir()
    service.complete(service.claim(others[0].id))
    assert command.wait(PATIENCE) == 1
    left, error = (tmp_path / "err.txt").read_text().splitlines()
    assert left.startswith(f"adaspa: not written, but left to the server: {others[0].id}, {others[1].id}; use")
    assert "No such file or directory" in error and ids(service, "--status", "queued") == [others[1].id]


def test_a_comparison_that_is_given_up_names_both_jobs(
    service: Service, begun: Callable[..., forked.Started], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the one whose video has come: it goes with the command's folder."""
    (folder := tmp_path / "folder").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    command = begun("compare", "a star", "--sparsity", 0.5, "-o", tmp_path / "both.mp4", jobs=2)
    dense, ours = sorted(service.store.unfinished("open"), key=lambda job: job.params.sparsity or 0)
    service.complete(service.claim(dense.id))
    until(lambda: list(folder.glob("*/dense.mp4")), "the dense video has come")
    command.terminate()
    command.wait(PATIENCE)
    said = (tmp_path / "err.txt").read_text()
    assert said.startswith(f"adaspa: not written, but left to the server: {dense.id}, {ours.id}; use"), said
    assert not list(folder.iterdir())


@pytest.mark.parametrize("command", ["generate", "compare"])
def test_a_video_whose_file_is_gone_is_not_told_as_written(
    service: Service, begun: Callable[..., forked.Started], tmp_path: Path, command: str
) -> None:
    lost = service.complete(service.claim(service.create()["id"]))
    service.http.delete(f"/videos/{lost.id}")
    asked = ("-n", 2, "--seed", 7) if command == "generate" else ("--sparsity", 0.5, "--json")
    running = begun(command, "a star", *asked, jobs=2)
    jobs = service.store.unfinished("open")
    gone, kept = sorted(jobs, key=lambda job: (job.params.seed, job.params.sparsity or 0))
    service.store.complete(service.claim(gone.id), lost.artifacts, REPORT, {"denoising": 1.5})
    service.complete(service.claim(kept.id))
    assert running.wait(PATIENCE) == 1
    said, out = (tmp_path / "err.txt").read_text(), (tmp_path / "out.txt").read_text()
    assert said == f"adaspa: the video of video {gone.id} is no longer in storage\n"
    if command == "generate":
        assert [line for line in out.splitlines() if line.startswith("Wrote")] == [f"Wrote {kept.id}.mp4"]
    else:
        told = json.loads(out)
        assert told["dense"] is None and told["adaspa"]["id"] == kept.id


def test_a_comparison_of_which_one_job_is_refused_leaves_none(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"queue_cap": 1}), tmp_path) as service:
        refused = printed(service, "compare", "a star", "-o", tmp_path / "both.mp4", status=1)
        assert "jobs are waiting" in refused and ids(service, "--status", "queued") == []
        assert len(ids(service, "--status", "cancelled")) == 1


def test_a_download_is_named_after_its_job_and_its_format(service: Service, tmp_path: Path) -> None:
    made = {kind: service.completed(output_format=kind) for kind in ("mp4", "webm", "gif")}
    for kind, video_id in made.items():
        assert printed(service, "download", video_id) == f"Wrote {video_id}.{kind}\n"
        assert (tmp_path / f"{video_id}.{kind}").read_bytes() == FILES["video"][2]
    for variant in ("thumbnail", "spritesheet"):
        (named := tmp_path / f"{made['mp4']}.webp").unlink(missing_ok=True)
        assert printed(service, "download", made["mp4"], "--variant", variant) == f"Wrote {named.name}\n"
        assert named.read_bytes() == FILES[variant][2]
    (tmp_path / f"{made['webm']}.webm").unlink()
    (tmp_path / f"{made['webm']}.webm").mkdir()
    assert "is a folder; allowed: a file" in printed(service, "download", made["webm"], status=2)
    assert "does not exist" in printed(service, "download", made["mp4"], "-o", tmp_path / "none" / "a.mp4", status=2)
    assert "--variant" in printed(service, "download", made["mp4"], "--variant", "sound", status=2)


def test_a_job_is_shown_as_it_is(service: Service) -> None:
    lease = service.claim(service.create(metadata={"a": "b"})["id"])
    service.step(lease, 3)

    def shown() -> dict[str, str]:
        lines = printed(service, "show", lease.job.id).splitlines()
        return dict(line.split("\t") for line in lines if "\t" in line)

    now = shown()
    assert (now["status"], now["phase"], now["step"]) == ("in_progress", "denoising", "3 of 24")
    assert now["metadata"] == "a=b" and not {"error", "ended", "kept until", "queue position"} & {*now}
    service.store.fail(lease, ENDED)
    ended = shown()
    assert (ended["status"], ended["error"]) == ("failed", "No memory. (out_of_memory)")
    assert "phase" not in ended and ended["ended"] <= ended["kept until"]
    waiting = service.create()["id"]
    service.create()
    assert "queue position\t1" in printed(service, "show", waiting)


@pytest.mark.parametrize("seconds", [253402300800, 10**12, 10**18, 2**63 - 1])
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_a_job_whose_times_no_calendar_has_is_shown(service: Service, seconds: int, zone: str) -> None:
    video_id = service.completed()
    times = dict.fromkeys(("created_at", "completed_at", "expires_at"), seconds)
    service.store.client.hset(f"adaspa:job:{video_id}", mapping=times)
    for arguments, told in ((("show", video_id), "kept until\tafter 9999"), (("jobs",), "\tafter 9999\t")):
        done = adaspa(*arguments, server=service.url, TZ=zone)
        assert (done.returncode, done.stderr) == (0, "") and told in done.stdout
    _, shown = in_terminal("jobs", server=service.url, TZ=zone)
    assert video_id in shown and "after 9999" in shown
    assert json.loads(printed(service, "show", "--json", video_id))["expires_at"] == seconds


def test_a_program_that_follows_a_job_reads_its_end_alone(
    service: Service, begun: Callable[..., forked.Started], tmp_path: Path
) -> None:
    video_id = service.create()["id"]
    command = begun("show", "--follow", "--json", video_id, jobs=1)
    service.complete(service.claim(video_id))
    assert command.wait(PATIENCE) == 0
    assert json.loads((tmp_path / "out.txt").read_text())["status"] == "completed"
    assert (tmp_path / "err.txt").read_text() == ""


def test_a_job_that_did_not_complete_is_told_by_the_status_whenever_it_is_followed(
    service: Service, begun: Callable[..., forked.Started], tmp_path: Path
) -> None:
    """Also one that has ended already: whether it has is for nobody to know who runs one command after another."""
    command = begun("generate", "a star", "-o", tmp_path / "star.mp4", jobs=1)
    (job,) = service.store.unfinished("open")
    service.store.request_cancel(job.id)
    assert command.wait(PATIENCE) == 4
    said = f"adaspa: {job.id} ended cancelled: no reason given\n"
    assert (tmp_path / "err.txt").read_text() == printed(service, "show", "--follow", job.id, status=4) == said
    assert not list(tmp_path.glob("*star*"))
    assert "status\tcompleted" in printed(service, "show", "--follow", service.completed())


def test_a_program_that_follows_a_job_that_fails_reads_the_job(
    service: Service, begun: Callable[..., forked.Started], tmp_path: Path
) -> None:
    video_id = service.create()["id"]
    command = begun("show", "--follow", "--json", video_id, jobs=1)
    service.store.fail(service.claim(video_id), ENDED)
    assert command.wait(PATIENCE) == 4
    told = json.loads((tmp_path / "out.txt").read_text())
    assert (told["id"], told["error"]["code"]) == (video_id, "out_of_memory")
    assert (tmp_path / "err.txt").read_text() == f"adaspa: {video_id} ended failed: No memory. (out_of_memory)\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_videos_that_fail_are_told_beside_those_that_were_written(
    service: Service, begun: Callable[..., forked.Started], tmp_path: Path, as_json: bool
) -> None:
    asked = ("-n", 4, "--seed", 7, *(["--json"] if as_json else []))
    command = begun("generate", "a star", *asked, jobs=4)
    done, deleted, *failing = sorted(service.store.unfinished("open"), key=lambda job: job.params.seed)
    service.http.delete(f"/videos/{deleted.id}")
    for job in failing:
        service.store.fail(service.claim(job.id), ENDED)
    service.complete(service.claim(done.id))
    assert command.wait(PATIENCE) == 4
    said, out = (tmp_path / "err.txt").read_text(), (tmp_path / "out.txt").read_text()
    assert said.count("\n") == 3 and all(job.id in said for job in (deleted, *failing))
    if as_json:
        told = [(video["id"], video["status"]) for video in json.loads(out)]
        assert told == [(done.id, "completed"), *((job.id, "failed") for job in failing)]
    else:
        assert [line for line in out.splitlines() if line.startswith("Wrote")] == [f"Wrote {done.id}.mp4"]


def test_a_program_reads_a_video_that_failed(
    service: Service, begun: Callable[..., forked.Started], tmp_path: Path
) -> None:
    command = begun("generate", "a star", "--json", jobs=1)
    (job,) = service.store.unfinished("open")
    service.store.request_cancel(job.id)
    assert command.wait(PATIENCE) == 4
    told = json.loads((tmp_path / "out.txt").read_text())
    assert (told["id"], told["status"]) == (job.id, "cancelled")


@pytest.mark.parametrize("deleted", [False, True])
def test_a_program_reads_a_comparison_of_which_one_video_failed(
    service: Service, begun: Callable[..., forked.Started], tmp_path: Path, deleted: bool
) -> None:
    command = begun("compare", "a star", "--json", "--sparsity", 0.5, "-o", tmp_path / "both.mp4", jobs=2)
    dense, ours = sorted(service.store.unfinished("open"), key=lambda job: job.params.sparsity or 0)
    if deleted:
        service.http.delete(f"/videos/{dense.id}")
    else:
        service.store.fail(service.claim(dense.id), ENDED)
    service.complete(service.claim(ours.id))
    assert command.wait(PATIENCE) == (1 if deleted else 4)
    told = json.loads((tmp_path / "out.txt").read_text())
    assert (told["dense"] and told["dense"]["status"]) == (None if deleted else "failed")
    assert told["adaspa"]["id"] == ours.id and not list(tmp_path.glob("*both*"))


@pytest.mark.parametrize(("count", "as_json"), [(1, False), (1, True), (2, False), (2, True)])
def test_videos_without_a_name_are_named_after_their_jobs(
    service: Service, begun: Callable[..., forked.Started], tmp_path: Path, count: int, as_json: bool
) -> None:
    asked = ("-n", count, "--seed", 7, *(["--json"] if as_json else []))
    command = begun("generate", "a star", *asked, jobs=count)
    made = service.store.unfinished("open")
    assert sorted(job.params.seed for job in made) == [7, 8][:count]
    for job in made:
        service.complete(service.claim(job.id))
    assert command.wait(PATIENCE) == 0
    assert {path.name for path in tmp_path.glob("video_*")} == {f"{job.id}.mp4" for job in made}
    out = (tmp_path / "out.txt").read_text()
    if as_json:
        told = json.loads(out)
        assert {video["id"] for video in (told if count > 1 else [told])} == {job.id for job in made}
    else:
        assert all(f"Wrote {job.id}.mp4" in out for job in made) and out.count("AdaSpa: 4 dense steps") == count


def test_a_comparison_is_of_two_jobs_that_differ_in_their_attention_alone(
    service: Service, begun: Callable[..., forked.Started], tmp_path: Path
) -> None:
    asked = ("--sparsity", 0.5, "--steps", 9, "--guidance", 2.5, "--negative", "a circle")
    output = tmp_path / "both.mp4"
    command = begun("compare", "a star", *asked, "-o", output, jobs=2)
    dense, ours = sorted(service.store.unfinished("open"), key=lambda job: job.params.sparsity or 0)
    assert (dense.params.quality, dense.params.sparsity) == ("exact", None)
    assert ours.params == dense.params.model_copy(update={"quality": None, "sparsity": 0.5}), "and one seed"
    assert (dense.params.steps, dense.params.guidance_scale, dense.params.negative_prompt) == (9, 2.5, "a circle")
    for job in (dense, ours):
        service.complete(service.claim(job.id), filmed(8))
    assert command.wait(PATIENCE) == 0, (tmp_path / "err.txt").read_text()
    assert "PSNR 100.00 dB, SSIM 1.0000" in (tmp_path / "out.txt").read_text()
    assert {path.name for path in tmp_path.glob("*both*")} == {"both.mp4"}
    for name in ("both.webm", "none/both.mp4"):
        assert "--output" in printed(service, "compare", "a star", "-o", tmp_path / name, status=2)
    assert len(ids(service)) == 2


OPTIONS: dict[str, dict[str, Any]] = {
    "--model": {"all": "all"},
    "--size": {"64x64": "64x64"},
    "--frames": {"17": 17},
    "--fps": {"1": 1, "30": 30},
    "--steps": {"1": 1},
    "--guidance": {"1": 1, "2.5": 2.5},
    "--guidance-scale-2": {"0": 0, "9": 9},
    "--negative": {"": "", "a star": "a star"},
    "--seed": {"0": 0, "9007199254740991": 2**53 - 1},
    "--quality": {"fast": "fast"},
    "--sparsity": {"0": 0, "0.5": 0.5},
    "--retained-mass": {"0.5": 0.5},
    "--warmup": {"0": 0},
    "--flow-shift": {"4.5": 4.5},
    "--lora": {
        "eight-steps:0": [{"name": "eight-steps", "scale": 0}],
        "eight-steps": [{"name": "eight-steps", "scale": 1}],
    },
    "--priority": {"bulk": "bulk"},
    "--metadata": {"a=b,c=": {"a": "b", "c": ""}},
    "--user": {"Zoë": "Zoë"},
    "--audio": {"": True},
    "--no-audio": {"": False},
}
FIELDS = {
    "--frames": "num_frames",
    "--guidance": "guidance_scale",
    "--negative": "negative_prompt",
    "--lora": "loras",
    "--no-audio": "audio",
}
"""Fields whose options have other names."""


def test_each_option_of_a_video_is_its_field(settings: Settings, tmp_path: Path) -> None:
    """Also one whose value is nothing or none."""
    ranges = {"guidance_scale_2_range": [0, 9], "flow_shift_range": [1, 9]}
    all_of_it = {"sizes": ["128x128", "64x64"], "frames": [33, 17], "audio": True, **ranges}
    catalog = demo_catalog(tmp_path / "catalog.json", {"all": all_of_it})
    with serving(settings.model_copy(update={"catalog": catalog}), tmp_path) as service:
        for given, values in OPTIONS.items():
            for text, value in values.items():
                asked = [given] if isinstance(value, bool) else [given, text]
                done = CliRunner().invoke(
                    app, ["generate", "a star", *asked, "--detach", "--json", "--server", service.url]
                )
                assert done.exit_code == 0, (asked, done.exception)
                name = FIELDS.get(given, given[2:].replace("-", "_"))
                found = json.loads(done.stdout)[name]
                for lora in found if name == "loras" else ():
                    del lora["sha256"]
                assert found == value, asked


def test_detached_videos_are_told_in_the_order_of_their_seeds(service: Service, tmp_path: Path) -> None:
    asked = ("generate", "a star", "-n", 3, "--seed", 5, "--detach", "-o", tmp_path / "star.mp4")
    made = printed(service, *asked).split()
    as_json = json.loads(printed(service, *asked, "--json"))
    for found in (made, [video["id"] for video in as_json]):
        jobs = [service.store.get(video_id) for video_id in found]
        assert [job and job.params.seed for job in jobs] == [5, 6, 7]
    assert json.loads(printed(service, "generate", "a star", "--detach", "--json"))["status"] == "queued"
    assert not list(tmp_path.glob("star*"))


def test_an_estimate_says_what_it_knows_and_why_it_knows_no_more(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaspa_service.gateway.state.RECENT_SECONDS", 0.0)
    lines = printed(service, "estimate", "--steps", 20).splitlines()
    assert lines[0] == "demo, 128x128, 33 frames, 20 steps"
    presets = {line.split("\t")[0]: line.split("\t")[1:] for line in lines[1:-1]}
    assert {*presets} == {"default", "exact", "quality", "balanced", "fast"}
    assert all(row[:2] == ["-", "-"] and "completed yet" in row[2] for row in presets.values())
    assert lines[-1] == "Start time unknown; workers that serve the interactive queue: 0."
    asked = json.loads(printed(service, "estimate", "--quality", "fast", "--priority", "bulk", "--json"))
    assert (asked["quality"], asked["priority"], ids(service)) == ("fast", "bulk", [])
    service.store.announce(Catalog.load(None).default, "worker")
    for count in (1, 2):
        service.completed(quality="fast", steps=20)
        lines = printed(service, "estimate", "--steps", 20).splitlines()
        jobs = f"{count} job{'s' * (count - 1)} of 128x128, 33 frames"
        assert [line for line in lines if line.startswith("fast")] == [f"fast\t1.5\t1.5\t{jobs}"]
        assert lines[-1] == "A worker would start it immediately."


def test_a_usage_is_told_by_day_and_model_with_its_sum(service: Service) -> None:
    assert printed(service, "usage").splitlines()[-1] == "0 jobs and 0.0 GPU-seconds in 30 days"
    service.completed()
    service.store.fail(service.claim(service.create()["id"]), ENDED)
    row, total = printed(service, "usage", "--days", 3).splitlines()
    assert row.split("\t")[1:5] == ["demo", "1", "1", "0"] and total.startswith("2 jobs and ")
    assert total.endswith(" GPU-seconds in 3 days")
    assert [each["model"] for each in json.loads(printed(service, "usage", "--json"))["data"]] == ["demo"]
    for days in (0, 401):
        assert "--days" in printed(service, "usage", "--days", days, status=2)


def test_words_are_completed_by_what_begins_so_and_not_at_all_without_a_server(service: Service) -> None:
    made = [service.create(prompt=f"star {n}")["id"] for n in range(2)]

    def completed(line: str, server: str = service.url) -> set[str]:
        asked = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_ADASPA_COMPLETE": "complete_bash"}
        done = adaspa(server=server, **asked)
        assert (done.returncode, done.stderr) == (0, "")
        return {*done.stdout.split()}

    assert completed("adaspa cancel ") == {*made}
    assert completed(f"adaspa delete {made[0]}") == {made[0]}
    assert completed("adaspa generate --model ") >= {"demo"}
    assert completed("adaspa generate --model x") == completed("adaspa cancel none") == set()
    for server in (NOWHERE, "nonsense", "http://a.example:80a"):
        assert completed("adaspa cancel ", server) == set()


@pytest.mark.parametrize(
    "server",
    [
        *("http://a.example", "http://a.example/", "https://a.example:8443/service/", "HTTP://localhost:1"),
        *("http://[::1]:8000", "http://zoë.example:65535"),
    ],
)
def test_an_address_may_end_with_a_slash(server: str) -> None:
    assert checked(server) == server.rstrip("/")


@pytest.mark.parametrize("command", ["jobs", "token", "open"])
def test_an_address_is_one_of_http(command: str) -> None:
    for server in (
        *("", "a.example", "ftp://a.example", "//a.example", "localhost:8000", "http://", "http:///a", "http://:8000"),
        *("http://a.example:80a", "http://a.example:65536", "http://a.example:0", "http://a.example:-1"),
        *("http://a.example\r", "http://a..example", "http://xn--", f"http://{'a' * 64}.example", "http://[::1"),
    ):
        done = CliRunner().invoke(app, [command, "--server", server])
        said = " ".join(done.stderr.replace("│", " ").split())
        assert done.exit_code == 2 and "--server" in said and "a URL; allowed: http://... or https://..." in said, said


def test_words_that_are_no_text_are_a_mistake_in_the_command_line(service: Service) -> None:
    """As a name from a file in Latin-1: it comes as half a surrogate pair."""
    for asked in (("generate", "Zo\udceb"), ("keys", "create", "--name", "\udceb"), ("show", "\udceb")):
        said = printed(service, *asked, status=2)
        assert said == f"adaspa: {asked[-1]!r} is not UTF-8; allowed: UTF-8\n"
    assert ids(service) == []


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("gateway", "adaspa_service.gateway"),
        ("worker", "adaspa_worker"),
        ("worker --model demo --only bulk", "adaspa_worker --model demo --only bulk"),
        ("worker --only interactive", "adaspa_worker --only interactive"),
        ("fetch-model wan", "adaspa_worker.fetch_model --model wan"),
        ("fetch-model wan --dry-run", "adaspa_worker.fetch_model --model wan --dry-run"),
        ("fetch-model wan --resolve --dry-run", "adaspa_worker.fetch_model --model wan --resolve --dry-run"),
    ],
)
def test_a_command_for_a_part_of_the_service_becomes_that_part(
    monkeypatch: pytest.MonkeyPatch, asked: str, line: str
) -> None:
    def become(program: str, given: list[str]) -> None:
        raise SystemExit(" ".join([program, *given]))

    monkeypatch.setattr(terminal.os, "execv", become)
    done = CliRunner().invoke(app, asked.split())
    assert str(done.exception) == f"{sys.executable} {sys.executable} -m {line}"
