"""The ``adaspa`` command against a real gateway: jobs and models, in lines and as JSON, and its exit statuses."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import forked
import httpx
import pytest
from adaspa_api.report import JobError
from adaspa_api.videos import Video
from adaspa_api.words import ErrorCode
from adaspa_client import ApiError, Client, Unauthorized
from adaspa_command import ADASPA, NOWHERE, adaspa, clean_environment, in_terminal
from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.settings import SettingsError
from adaspa_service.access.keys import Scope
from adaspa_service.cli import completion, main
from adaspa_service.cli.generate import submit
from adaspa_service.cli.jobs import facts
from adaspa_service.cli.progress import NotCompleted
from adaspa_service.local import LocalError
from holding_proxy import holding
from running_gateway import FILES, Service
from waiting import PATIENCE, until


def test_models_as_lines_and_as_json(service: Service) -> None:
    service.create()
    lines = adaspa("models", server=service.url).stdout.splitlines()
    assert lines[0] == "demo\t128x128\t33\t1-100 (24)\t1-10 (4)\t1\t0"
    model, _ = json.loads(adaspa("models", "--json", server=service.url).stdout)
    assert model["default_steps"] == 24


def test_jobs_newest_first_by_status_and_by_page(service: Service) -> None:
    done = service.completed(prompt="a blue\n\x1b[1msquare", seed=7)
    waiting = [service.create()["id"] for _ in range(3)]
    lines = [line.split("\t") for line in adaspa("jobs", server=service.url).stdout.splitlines()]
    assert [line[0] for line in lines] == [*reversed(waiting), done]
    assert lines[-1][1:3] == ["completed", "100 %"] and lines[-1][4:] == ["demo", "7", "a blue [1msquare"]
    (only,) = json.loads(adaspa("jobs", "--status", "completed", "--json", server=service.url).stdout)
    assert only["id"] == done and only["prompt"] == "a blue\n\x1b[1msquare"
    page = adaspa("jobs", "--limit", 2, "--after", waiting[-1], server=service.url).stdout
    assert [line.split("\t")[0] for line in page.splitlines()] == [waiting[1], waiting[0]]
    oldest = adaspa("jobs", "--oldest-first", "--limit", 1, server=service.url).stdout
    assert oldest.startswith(done)


def test_a_terminal_gets_a_table_that_names_the_next_page(service: Service) -> None:
    ids = [service.create()["id"] for _ in range(2)]
    _, shown = in_terminal("jobs", "--limit", 1, server=service.url)
    assert "STATUS" in shown and "\x1b[" in shown
    assert ids[1] in shown.partition("adaspa jobs --after")[0]  # whole, to be copied
    assert f"adaspa jobs --after {ids[1]}" in " ".join(shown.split())


def test_a_job_is_shown_with_what_adaspa_did(service: Service) -> None:
    video_id = service.completed(seed=7, quality="fast")
    shown = adaspa("show", video_id, server=service.url).stdout
    for part in (
        "status\tcompleted",
        "seed\t7",
        "quality\tfast",
        "4 dense steps in 1.0 s",
        "recall 0.900 (estimate), unevenness 0.024",
    ):
        assert part in shown
    assert "attention work 0.65 of dense" in shown and "weights: transformer int8/bfloat16, vae float32" in shown
    assert "fell back: layer 0 did not run through AdaSpa (2 calls)" in shown
    told = json.loads(adaspa("show", video_id, "--json", server=service.url).stdout)
    assert told["attention"]["density"] == 0.3
    adapted = told | {"loras": [{"name": "ink", "scale": 0.5}, {"name": "eight-steps", "scale": 1.0}]}
    assert facts(Video.model_validate(adapted))["lora adapters"] == "ink:0.5, eight-steps:1"


def test_following_a_job_that_fails(service: Service) -> None:
    lease = service.claim(service.create()["id"])
    command = [ADASPA, "show", "--follow", lease.job.id]
    env = clean_environment(ADASPA_SERVER=service.url)
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    service.step(lease, 3)
    assert process.stdout is not None
    while "step 3/24" not in process.stdout.readline():
        assert process.poll() is None
    service.store.fail(lease, JobError(code=ErrorCode.out_of_memory, message="No memory."))
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 4
    assert said == f"adaspa: {lease.job.id} ended failed: No memory. (out_of_memory)\n"


def test_demo_ends_with_the_jobs_error_and_writes_nothing(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With this gateway in the place of the service that it starts; tests/e2e/test_serve.py starts that one."""

    class Running:
        url = service.url

        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> "Running":
            return self

        def __exit__(self, *_: object) -> None: ...
        def watch(self) -> None:
            if lease := service.store.claim("demo", "worker-1"):
                service.store.fail(lease, JobError(code=ErrorCode.out_of_memory, message="No memory."))

    monkeypatch.setattr(import_module("adaspa_service.cli.demo"), "Supervisor", Running)
    monkeypatch.setattr("sys.argv", ["adaspa", "demo", "--output", str(tmp_path / "out.mp4")])
    with pytest.raises(SystemExit, match="4"):
        main()
    said = capsys.readouterr().err
    assert "ended failed: No memory. (out_of_memory)" in said and said.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_files_of_a_job_are_downloaded(service: Service, tmp_path: Path) -> None:
    video_id = service.completed()
    target = tmp_path / "out.mp4"
    assert adaspa("download", video_id, "-o", target, server=service.url).returncode == 0
    assert target.read_bytes() == FILES["video"][2]
    picture = tmp_path / "out.webp"
    adaspa("download", video_id, "-o", picture, "--variant", "thumbnail", server=service.url)
    assert picture.read_bytes() == FILES["thumbnail"][2]
    refused = adaspa("download", service.create()["id"], "-o", target, server=service.url)
    assert refused.returncode == 1 and "queued" in refused.stderr
    assert target.read_bytes() == FILES["video"][2]


def test_several_jobs_are_cancelled_and_deleted(service: Service) -> None:
    ids = [service.create()["id"] for _ in range(2)]
    assert adaspa("cancel", *ids, server=service.url).stdout == f"{ids[0]}: cancelled\n{ids[1]}: cancelled\n"
    asked = adaspa("delete", *ids, server=service.url)
    assert asked.returncode == 2 and "--yes" in asked.stderr
    assert adaspa("delete", "--yes", *ids, server=service.url).returncode == 0
    assert adaspa("jobs", server=service.url).stdout == ""


def test_a_detached_prompt_prints_its_id(service: Service) -> None:
    asked = ("--seed", 7, "--steps", 9, "--quality", "fast", "--guidance", 2.5, "--negative", "a star", "-o", "x.webm")
    sent = ("--priority", "bulk", "--webhook-url", "https://93.184.215.14/hooks?token=t")
    ended = adaspa("generate", "a red circle", "--detach", *asked, *sent, server=service.url)
    job = service.http.get(f"/videos/{ended.stdout.strip()}").json()
    wanted = {"seed": 7, "steps": 9, "quality": "fast", "guidance_scale": 2.5, "output_format": "webm"}
    assert {name: job[name] for name in wanted} == wanted and job["negative_prompt"] == "a star"
    assert job["priority"] == "bulk"
    assert service.store.client.hget(f"adaspa:job:{job['id']}", "webhook_url") == sent[-1].encode()


@pytest.fixture
def generating(service: Service, tmp_path: Path) -> Iterator[Callable[..., forked.Started]]:
    """Starts a command that asks for videos and waits for them; it writes what it says into ``out`` and ``err``."""
    running: list[forked.Started] = []

    def start(*arguments: object) -> forked.Started:
        line = ["adaspa", "generate", "a star", *map(str, arguments)]
        said = tmp_path / "out", tmp_path / "err"
        running.append(forked.Started(main, line, clean_environment(ADASPA_SERVER=service.url), *said))
        until(lambda: said[0].exists() and "queued" in said[0].read_text(), "it waits for its first video")
        return running[-1]

    yield start
    for each in running:
        each.kill()
        each.wait()


def test_an_interrupted_command_cancels_all_of_its_videos(
    service: Service, generating: Callable[..., forked.Started], tmp_path: Path
) -> None:
    other = service.create()["id"]
    command = generating("-n", 4, "-o", tmp_path / "star.mp4")
    jobs = sorted(service.store.unfinished("open"), key=lambda job: job.params.seed)
    first, gone, *rest = [job.id for job in jobs if job.id != other]
    made = [first, *rest]
    service.http.delete(f"/videos/{gone}")
    command.send_signal(signal.SIGINT)
    assert command.wait(PATIENCE) == 130 and len(made) == 3
    ended = {job_id: service.http.get(f"/videos/{job_id}").json()["status"] for job_id in (other, *made)}
    assert ended == {other: "queued", **dict.fromkeys(made, "cancelled")}
    assert all(job_id in (tmp_path / "err").read_text() for job_id in made)
    assert not list(tmp_path.glob("star*"))


def interrupted(service: Service, folder: Path, line: str, *numbers: int) -> str:
    """Interrupt a command at each answer to its creations that is held, by their numbers; what it said of it."""
    said = folder / "out", folder / "err"
    with holding(service.url, *numbers) as (url, held):
        arguments = ["adaspa", *line.split(), "a star", "-o", str(folder / "star.mp4")]
        command = forked.Started(main, arguments, clean_environment(ADASPA_SERVER=url), *said)
        try:
            for _ in numbers:
                assert held.acquire(timeout=PATIENCE), "its answer is under way"
                command.send_signal(signal.SIGINT)
            assert command.wait(PATIENCE) == 130
        finally:
            command.kill()
            command.wait()
    return said[1].read_text()


@pytest.mark.parametrize(
    ("line", "number", "count"),
    [("generate", 1, 1), ("generate -n 3", 1, 3), ("generate --detach", 1, 1), ("compare", 1, 1), ("compare", 2, 2)],
)
def test_a_command_that_is_interrupted_before_it_knows_its_jobs_cancels_them(
    service: Service, tmp_path: Path, line: str, number: int, count: int
) -> None:
    said = interrupted(service, tmp_path, line, number)
    jobs = service.http.get("/videos").json()["data"]
    assert [job["status"] for job in jobs] == ["cancelled"] * count
    assert all(job["id"] in said for job in jobs)
    assert "asking the server" in said


def test_a_second_interruption_still_cancels_the_jobs_that_are_known(service: Service, tmp_path: Path) -> None:
    said = interrupted(service, tmp_path, "compare", 2, 3)
    *_, first = service.http.get("/videos").json()["data"]
    assert first["status"] == "cancelled" and first["id"] in said


@pytest.mark.parametrize(("status", "told"), [(400, False), (429, True), (503, True)])
def test_an_interrupted_request_that_was_refused_made_no_job(
    capsys: pytest.CaptureFixture[str], status: int, told: bool
) -> None:
    answers = iter((KeyboardInterrupt(), ApiError(status, "no")))

    def send(_: str) -> list[Video]:
        raise next(answers)

    with Client("http://127.0.0.1:1") as client, pytest.raises(SystemExit):
        submit(client, send)
    said = capsys.readouterr().err
    assert ("the server does not say" in said) == told and "cancelled no job" in said


def test_jobs_of_a_command_that_is_terminated_are_named(
    service: Service, generating: Callable[..., forked.Started], tmp_path: Path
) -> None:
    command = generating("-n", 2, "-o", tmp_path / "star.mp4")
    jobs = {job.id for job in service.store.unfinished("open")}
    command.terminate()
    assert command.wait(PATIENCE) == 143 and {job.id for job in service.store.unfinished("open")} == jobs
    said = (tmp_path / "err").read_text()
    assert said.count("\n") == 1 and all(job in said for job in jobs)


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_video_that_fails_keeps_no_other_from_being_written(
    service: Service, generating: Callable[..., forked.Started], tmp_path: Path, failing: int, deleted: bool
) -> None:
    command = generating("-n", 3, "--seed", 5, "-o", tmp_path / "star.mp4")
    made = sorted(service.store.unfinished("open"), key=lambda job: job.params.seed)
    for number, job in enumerate(made):
        if number != failing:
            service.complete(service.claim(job.id))
        elif deleted:
            service.http.delete(f"/videos/{job.id}")
        else:
            service.store.fail(service.claim(job.id), JobError(code=ErrorCode.out_of_memory, message="No memory."))
    assert command.wait(PATIENCE) == (1 if deleted else 4)
    lost = made[failing].id
    said = f"there is no video {lost!r}" if deleted else f"{lost} ended failed: No memory. (out_of_memory)"
    assert said in (tmp_path / "err").read_text() and (tmp_path / "err").read_text().count("\n") == 1
    written = {path.name: path.read_bytes() for path in tmp_path.glob("star*")}
    assert written == {f"star-{5 + number}.mp4": FILES["video"][2] for number in range(3) if number != failing}


@pytest.mark.parametrize(
    ("arguments", "named", "status"),
    [
        (["generate", "a star", "--steps", "5000"], "allowed: 1 to 100", 1),
        (["generate", "a star", "-o", "out.avi"], ".mp4, .webm, .gif, .webp", 2),
        (["generate", "a star", "-o", "no/such/folder.mp4"], "the folder no/such does not exist", 2),
        (["generate", "a star", "--local", "--detach"], "--detach", 2),
        (["generate", "a star", "--local", "--webhook-url", "https://example.com"], "--webhook-url", 2),
        (
            ["generate", "a star", "--webhook-url", "ftp://example.com"],
            "webhook_url: is not a URL; allowed: an https",
            1,
        ),
        (["generate", "a star", "--local", "--size", "1x1"], "size", 1),
        (["show", "video_0"], "there is no video", 1),
        (["jobs", "--after", "nonsense"], "after", 1),
        (["jobs", "--status", "lost"], "--status", 2),
        (["models", "--server", "localhost"], "--server", 2),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(service: Service, arguments: list[str], named: str, status: int) -> None:
    ended = adaspa(*arguments, server=service.url)
    assert ended.returncode == status and named in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert service.messages() == 0


def test_only_a_file_is_replaced_by_an_output(service: Service, tmp_path: Path) -> None:
    video_id, pipe = service.completed(), tmp_path / "pipe"
    os.mkfifo(pipe)
    for output, told in ((pipe, "is a pipe or a device"), (tmp_path, "is a folder"), ("-", "standard output is not")):
        ended = adaspa("download", video_id, "--output", output, server=service.url)
        assert (ended.returncode, told in ended.stderr) == (2, True), ended.stderr
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (NotCompleted("it failed", Video.model_construct()), 4, "it failed"),
        (httpx.ConnectError("refused"), 3, "cannot reach the server: refused; is `adaspa serve` running"),
        (httpx.ReadTimeout("late"), 3, "cannot reach the server: late"),
        (Unauthorized(401, "no key"), 1, "no key; set --api-key or ADASPA_API_KEY"),
        (ApiError(400, "steps: 0"), 1, "steps: 0"),
        (LocalError("no service"), 1, "no service"),
        (SettingsError("ADASPA_PORT: 0"), 1, "ADASPA_PORT: 0"),
        (StoreUnavailable("Redis is away"), 1, "Redis is away"),
        (TimeoutError("after 3600 s"), 1, "after 3600 s"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_each_end_has_its_status_and_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, said: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(import_module("adaspa_service.cli"), "app", fail)
    with pytest.raises(SystemExit) as caught:
        main()
    told = capsys.readouterr()
    assert (caught.value.code, told.out) == (status, "")
    assert said in told.err and told.err.count("\n") == bool(said)


def test_output_that_cannot_be_written_is_one_line(service: Service) -> None:
    service.create()
    for arguments in (["jobs"], ["jobs", "--json"], ["models"]):
        with Path("/dev/full").open("w") as full:
            command = [ADASPA, *arguments, "--server", service.url]
            ended = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (ended.returncode, ended.stderr) == (1, "adaspa: [Errno 28] No space left on device\n")


def test_a_command_without_an_output_ends_as_it_would_with_one() -> None:
    for arguments, status in ((["--version"], 0), (["models", "--server", NOWHERE], 3)):
        command = ["sh", "-c", 'exec "$0" "$@" >&-', ADASPA, *arguments]
        ended = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
        assert (ended.returncode, "Traceback" in ended.stderr) == (status, False), ended.stderr


def test_a_server_that_does_not_answer_has_its_own_status() -> None:
    for command, told in (("models", "cannot reach the server"), ("open", "start one with `adaspa serve`")):
        ended = adaspa(command)
        assert ended.returncode == 3
        assert ended.stderr.startswith("adaspa: ") and ended.stderr.count("\n") == 1 and told in ended.stderr


@pytest.mark.asks
def test_the_key_is_taken_from_the_environment(service: Service) -> None:
    _, token = service.parts.keys.create("a person", frozenset({Scope.read}))
    refused = adaspa("jobs", server=service.url)
    assert refused.returncode == 1 and "API key" in refused.stderr
    assert adaspa("jobs", server=service.url, ADASPA_API_KEY=token).returncode == 0


def test_the_shell_completes_commands_and_ids_of_jobs(service: Service) -> None:
    video_id = service.create()["id"]

    def complete(words: str) -> str:
        asked = {"_ADASPA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()))}
        return adaspa(server=service.url, **asked).stdout

    assert "generate" in complete("adaspa ")
    until(lambda: video_id in complete("adaspa show "), "the server answers as soon as a shell waits for it")
    script = '"$0" --show-completion; exit $?'  # the shell is the process that starts it, so it must not become it
    shown = subprocess.run(
        ["bash", "-c", script, ADASPA], check=False, capture_output=True, text=True, timeout=PATIENCE
    )
    assert "complete -o default -F _adaspa_completion adaspa" in shown.stdout, shown.stderr


def test_the_shell_completes_what_was_begun_and_tells_no_error(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [("demo", "one"), ("demo-image", "two"), ("other", "three")]
    assert list(completion.asked(lambda _: found, "demo")) == found[:2]
    assert list(completion.asked(lambda _: found, "none")) == []
    monkeypatch.setenv("ADASPA_SERVER", service.url)
    monkeypatch.setattr(completion, "SECONDS", PATIENCE)
    ids = [service.create()["id"] for _ in range(2)]
    assert [value for value, _ in completion.video_ids("")] == ids[::-1]
    assert [value for value, _ in completion.model_ids("demo-")] == ["demo-image"]
    for server in (NOWHERE, "nonsense", f"{service.url}/nowhere"):
        monkeypatch.setenv("ADASPA_SERVER", server)
        assert [*completion.video_ids(""), *completion.model_ids("")] == []


@pytest.mark.parametrize("key", ["adaspa_key\n", "an old key", "schlüssel"])
def test_a_key_that_no_request_can_carry_is_a_mistake_in_the_command_line(key: str) -> None:
    answer = adaspa("jobs", "--api-key", key, server=NOWHERE)
    assert answer.returncode == 2 and "--api-key" in answer.stderr and key.strip() not in answer.stderr


@pytest.mark.asks
def test_whoever_has_no_key_reads_where_to_put_one(service: Service) -> None:
    service.parts.keys.create("somebody", frozenset(Scope))
    answer = adaspa("jobs", server=service.url)
    assert (
        answer.returncode == 1
        and answer.stderr.startswith("adaspa: Authorization: ")
        and "set --api-key or ADASPA_API_KEY" in answer.stderr
    )
