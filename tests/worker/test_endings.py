"""How an attempt ends: what becomes of its job, its files and its message, and what is counted, whatever Redis does."""

import logging
from collections.abc import Callable
from io import BytesIO
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from adaspa_api.report import TokenCount
from adaspa_api.words import JobStatus, StepKind
from adaspa_jobs import logs
from adaspa_jobs.storage import StorageUnavailable
from adaspa_jobs.store import JobCancelled, LeaseLost, StoreUnavailable
from adaspa_worker import checkpoint, course, encode, lease, metrics, runner
from adaspa_worker.checkpoint import Checkpoints
from adaspa_worker.lease import LeaseKeeper, WorkerStopping
from adaspa_worker.objects import remove_unused
from adaspa_worker.tasks import clip
from admitting import create
from chaos.workshop import Workshop, bench, params, raising
from PIL import Image
from virtual_time import Seconds


class Ending(NamedTuple):
    """An attempt that is at its last step, and how it is to end."""

    act: Callable[[Workshop, str], object]
    """What happens to the job of this id."""
    transition: str
    """The store's method that the worker tells of it."""
    status: str
    counted: str
    raises: type[Exception] | None = None


def fails(error: Exception) -> Callable[[Workshop, str], object]:
    return lambda at, job: raising(error)()


def cancelled(at: Workshop, job: str) -> None:
    at.store.request_cancel(job)
    raise JobCancelled(job)


ENDINGS = {
    "done": Ending(lambda at, job: None, "complete", "completed", "completed"),
    "cancelled": Ending(cancelled, "release_cancelled", "cancelled", "cancelled"),
    "failed": Ending(fails(ValueError("shapes do not fit")), "fail", "failed", "failed"),
    "worker's fault": Ending(fails(StorageUnavailable("away")), "requeue_after_worker_error", "queued", "worker_error"),
    "told to stop": Ending(lambda at, job: at.stopping.set(), "release", "queued", "released", WorkerStopping),
}


def counts() -> dict[str, float]:
    """Attempts at jobs of the stub so far, by how they ended."""
    samples = [each for each in metrics.attempts.collect()[0].samples if each.name.endswith("_total")]
    return {each.labels["outcome"]: each.value for each in samples if each.labels["model"] == "stub"}


def busy() -> list[float]:
    return [each.value for each in metrics.busy.collect()[0].samples if each.labels["model"] == "stub"]


def ended(at: Workshop, ending: Ending) -> tuple[Any, dict[str, float], Exception | None]:
    """Run a job to such an end: its record, what was counted, and what the worker raised."""
    job, before, denoise = create(at.store, params()), counts(), at.engine.denoise
    during: list[float] = []

    def acts(asked: Any, encoded: Any, on_step: Callable[[int, Any], None], resume: Any = None) -> Any:
        during.extend(busy())
        ending.act(at, job.id)
        return denoise(asked, encoded, on_step, resume)

    at.engine.denoise = acts  # type: ignore[method-assign]
    raised: Exception | None = None
    try:
        at.runner.run("stub")
    except (WorkerStopping, StoreUnavailable) as error:
        raised = error
    at.engine.denoise = denoise  # type: ignore[method-assign]
    assert during == [1.0] and busy() == [0.0]
    counted = {name: value - before.get(name, 0) for name, value in counts().items() if value != before.get(name, 0)}
    return at.store.get(job.id), counted, raised


@pytest.mark.parametrize("answers", ["at once", "away", "lost"])
@pytest.mark.parametrize("name", ENDINGS)
def test_an_attempt_ends_as_it_would_if_redis_had_answered_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, answers: str
) -> None:
    """Redis is away for the first two tries to tell of the end, or it takes the first and its answer is lost."""
    ending, clock, tries = ENDINGS[name], Seconds(), list[str]()
    for module in (lease, runner):
        monkeypatch.setattr(module, "time", clock)
    with bench() as at:
        plain = getattr(at.store, ending.transition)

        def told(*arguments: Any, **more: Any) -> None:
            tries.append(answers)
            if answers == "away" and len(tries) < 3:
                raise StoreUnavailable("away")
            plain(*arguments, **more)
            if answers == "lost" and len(tries) == 1:
                raise StoreUnavailable("cut off")

        monkeypatch.setattr(at.store, ending.transition, told)
        job, counted, raised = ended(at, ending)
        assert len(tries) == {"at once": 1, "away": 3, "lost": 2}[answers]
        assert (job.status, job.lost_attempts, counted) == (ending.status, 0, {ending.counted: 1})
        assert job.worker_errors == (ending.counted == "worker_error")
        assert type(raised) is (ending.raises or type(None)), "else the bell of a job that waits is lost"
        assert caplog.text.count("the store is unavailable") == (answers != "at once"), "once, however often it asks"
        files = [artifact.key for artifact in job.artifacts.values()]
        assert sorted(at.storage.keys(f"videos/{job.id}/")) == sorted(files) and bool(files) == (name == "done")
        if job.status == "queued":
            at.stopping.clear()
            at.runner.run("stub")
            assert at.store.get(job.id).status == "completed", "the next attempt is as any other"


@pytest.mark.parametrize("name", ENDINGS)
def test_a_worker_that_stops_while_redis_stays_away_leaves_its_job_to_the_lease(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    ending, clock = ENDINGS[name], Seconds()
    for module in (lease, runner):
        monkeypatch.setattr(module, "time", clock)
    with bench() as at:

        def away(*_: Any, **__: Any) -> None:
            at.stopping.set()
            raise StoreUnavailable("away")

        monkeypatch.setattr(at.store, ending.transition, away)
        began = clock.now
        job, counted, raised = ended(at, ending)
        assert isinstance(raised, StoreUnavailable), "the message goes back"
        assert lease.STOPPING_SECONDS <= clock.now - began <= lease.STOPPING_SECONDS + 1.1
        assert job.status == "in_progress" and counted == {"store_unavailable": 1}
        assert f"{job.id}: could not end attempt 1; its lease will expire" in caplog.text


@pytest.mark.parametrize("ends", ["completed", "cancelled"])
def test_who_comes_too_late_tells_nothing_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    """Another attempt has the job by now; it may be cancelled, too."""
    with bench() as at:

        def lost(at: Workshop, job: str) -> None:
            at.store.client.zadd("adaspa:leases", {job: 0}, xx=True)
            assert at.store.requeue_expired() == [job]
            assert at.store.claim("stub", "another")
            if ends == "cancelled":
                raise JobCancelled(job)

        job, counted, raised = ended(at, Ending(lost, "", "", ""))
        assert (job.status, job.attempt, raised) == ("in_progress", 2, None)
        assert "completed" not in counted and sum(counted.values()) == 1
        assert at.storage.keys(f"videos/{job.id}/") == []


def test_a_job_that_is_cancelled_as_it_fails_is_cancelled() -> None:
    def both(at: Workshop, job: str) -> None:
        at.store.request_cancel(job)
        raise ValueError("shapes do not fit")

    with bench(hear_seconds=600.0) as at:
        job, _, raised = ended(at, Ending(both, "", "", ""))
        assert (job.status, job.error, raised) == ("cancelled", None, None)


@pytest.mark.parametrize("reason", [LeaseLost("x"), JobCancelled("x")], ids=repr)
def test_an_attempt_that_is_over_writes_no_checkpoint(monkeypatch: pytest.MonkeyPatch, reason: Exception) -> None:
    """Also if it hears of that while it takes the snapshot, which may last."""
    keepers: list[LeaseKeeper] = []
    kept = LeaseKeeper.__enter__

    def enter(keeper: LeaseKeeper) -> LeaseKeeper:
        keepers.append(keeper)
        return kept(keeper)

    monkeypatch.setattr(LeaseKeeper, "__enter__", enter)
    with bench(checkpoint_steps=2) as at:
        written: list[str] = []
        snapshot, create_ = at.engine.snapshot, at.storage.create

        def hears() -> Any:
            keepers[-1]._interrupt(reason)  # type: ignore[arg-type]
            return snapshot()

        monkeypatch.setattr(at.storage, "create", lambda key, *rest: (written.append(key), create_(key, *rest))[1])
        with monkeypatch.context() as context:
            context.setattr(at.engine, "snapshot", hears)
            create(at.store, params())
            at.runner.run("stub")
        assert not [key for key in written if key.startswith("checkpoints/")]
        at.run()
        at.runner.run("stub")  # a job that it still holds comes first
        assert [key for key in written if key.startswith("checkpoints/")], "other attempts do"


def test_a_gone_or_unreadable_checkpoint_costs_no_more_than_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    with bench() as at:
        job = create(at.store, params())
        held = at.store.claim("stub", "one")
        assert held is not None
        kept = Checkpoints(at.storage, held, 4, 600.0)
        kept.save({"step": 3})
        keys = at.storage.keys
        gone = f"checkpoints/{job.id}/000009-000009-gone"
        monkeypatch.setattr(at.storage, "keys", lambda prefix: [*keys(prefix), gone])
        found = kept.load()
        assert found is not None and found["step"] == 3, "one was removed after it was listed"
        for away in ("keys", "read"):
            with monkeypatch.context() as context:
                context.setattr(at.storage, away, raising(StorageUnavailable("away")))
                assert kept.load() is None, "storage that is away is no reason to fail"
        assert kept.load() is not None


def test_the_latest_progress_is_told_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int]] = []
    with bench(tell_seconds=3600.0) as at:
        report, complete = at.store.report_progress, at.store.complete

        def tells(held: Any, *progress: Any) -> None:
            told.extend((each.phase, each.step) for each in progress)
            report(held, *progress)

        monkeypatch.setattr(at.store, "report_progress", tells)
        monkeypatch.setattr(at.store, "complete", lambda *rest: (told.append(("complete", 0)), complete(*rest))[1])
        at.run()
    assert told[0] == ("loading", 0) and told[-2:] == [("uploading", 6), ("complete", 0)]
    assert [step for phase, step in told if phase == "denoising"] == [0, 1, 2, 3, 4, 5, 6]


def test_encoding_is_timed_without_the_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by ten seconds with each frame that is decoded, and by one with each that is written."""
    clock = Seconds()
    shown = SimpleNamespace(monotonic=clock.monotonic)
    for module in (course, clip):
        monkeypatch.setattr(module, "time", shown)
    write = encode.VideoWriter.write
    monkeypatch.setattr(encode.VideoWriter, "write", lambda self, frame: (clock.sleep(1), write(self, frame))[1])
    with bench() as at:
        frames = at.engine.frames

        def slow(latents: Any, check: Callable[[], None]) -> Any:
            for frame in frames(latents, check):
                clock.sleep(10)
                yield frame

        monkeypatch.setattr(at.engine, "frames", slow)
        job = at.run()
    assert (job.timings["encoding"], job.timings["decoding"]) == (9.0, 99.0)


@pytest.mark.parametrize("status", JobStatus)
@pytest.mark.parametrize("own", [True, False], ids=["own token", "another's"])
def test_an_attempts_files_stay_only_as_its_jobs_result(status: JobStatus, own: bool) -> None:
    with bench() as at:
        create(at.store, params())
        held = at.store.claim("stub", "one")
        assert held is not None
        keys = [f"videos/{held.job.id}/{token}/video.mp4" for token in (held.token, "2-later", f"{held.token}0")]
        for key in keys:
            at.storage.create(key, b"x")
        record: Any = held.job.model_copy(update={"status": status, "token": held.token if own else "2-later"})
        for found in (record, None):
            store: Any = SimpleNamespace(get=lambda _, found=found: found)
            remove_unused(store, at.storage, held)
            stays = found is not None and own and status is JobStatus.completed
            assert sorted(at.storage.keys("videos/")) == sorted(keys if stays else keys[1:])


def test_what_cannot_be_removed_now_is_left_to_a_janitor(caplog: pytest.LogCaptureFixture) -> None:
    with bench() as at:
        create(at.store, params())
        held = at.store.claim("stub", "one")
        assert held is not None
        at.storage.create(f"videos/{held.job.id}/{held.token}/video.mp4", b"x")
        away: Any = SimpleNamespace(
            get=raising(StoreUnavailable("away")), delete_prefix=raising(StorageUnavailable("no"))
        )
        for store, storage in ((away, at.storage), (at.store, away)):
            caplog.clear()
            remove_unused(store, storage, held)
            assert "objects of attempt 1 may remain in storage" in caplog.text
        assert len(at.storage.keys("videos/")) == 1, "nobody knows whether it is the result"


def test_a_step_that_is_of_no_kind_counts_as_dense() -> None:
    """As those of a model that runs without AdaSpa."""

    def steps() -> dict[str, float]:
        samples = [each for each in metrics.step_seconds.collect()[0].samples if each.name.endswith("_count")]
        return {each.labels["kind"]: each.value for each in samples if each.labels["model"] == "kinds"}

    told: list[Any] = []
    ran = course.Course(params(model="kinds", steps=4), told.append)
    kinds: tuple[StepKind | None, ...] = (None, "dense", "search", None)
    for done, kind in enumerate(kinds, 1):
        ran.step(done, kind)
    assert steps() == {"dense": 3, "search": 1}
    assert [each.step_kind for each in told] == [None, "dense", "search", None]


def test_checkpoints_are_written_at_their_steps_but_not_at_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """After which the video comes."""
    for every, wanted in ((1, [1, 2, 3, 4, 5]), (2, [2, 4]), (4, [4]), (None, [])):
        with bench(checkpoint_steps=every) as at:
            written: list[int] = []
            save = Checkpoints.save

            def noted(self: Checkpoints, given: dict[str, Any], written: list[int] = written, save: Any = save) -> None:
                written.append(given["step"])
                save(self, given)

            with monkeypatch.context() as patch:
                patch.setattr(Checkpoints, "save", noted)
                assert at.run().status == "completed" and written == wanted


def test_a_preview_shows_the_clip_at_its_own_pace_and_progress_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    images: list[bytes] = []
    told: list[tuple[int, int | None]] = []
    monkeypatch.setattr("adaspa_worker.preview.EVERY_SECONDS", 0)
    monkeypatch.setattr("adaspa_worker.preview.SHARE", 1000)
    with bench(tell_seconds=0.0) as at:
        report, preview = at.store.report_progress, at.store.report_preview

        def tells(held: Any, *progress: Any) -> None:
            told.extend((each.step, each.preview_step) for each in progress if each.phase == "denoising")
            report(held, *progress)

        def shows(held: Any, progress: Any, image: bytes) -> None:
            images.append(image)
            preview(held, progress, image)

        monkeypatch.setattr(at.store, "report_progress", tells)
        monkeypatch.setattr(at.store, "report_preview", shows)
        frames = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)
        monkeypatch.setattr(at.engine, "preview", lambda: frames)
        assert at.run(num_frames=9, fps=3).status == "completed"
    assert told == [(0, None), (1, None), *((step, step - 1) for step in range(2, 7))]
    with Image.open(BytesIO(images[0])) as shown:
        shown.load()
        assert shown.n_frames * shown.info["duration"] == 3000  # type: ignore[attr-defined]


def test_all_that_is_logged_while_a_job_runs_names_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(logs.add_fields)
    speaks = logging.getLogger("some.library")
    try:
        with bench() as at:
            job, *_ = ended(at, Ending(lambda at, job: speaks.warning("odd"), "", "", ""))
            speaks.warning("afterwards")
    finally:
        caplog.handler.removeFilter(logs.add_fields)
    odd, after = (each.__dict__ for each in caplog.records if each.name == "some.library")
    assert (odd["job"], odd["attempt"]) == (job.id, 1) and "job" not in after


def test_a_checkpoint_of_another_version_is_not_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    own = params().identity
    monkeypatch.setattr(checkpoint, "VERSION", checkpoint.VERSION + 1)
    later = checkpoint.pack({"step": 3}, own)
    assert checkpoint.unpack(later, own)["step"] == 3
    monkeypatch.undo()
    with pytest.raises(checkpoint.BadCheckpoint, match="another job or version"):
        checkpoint.unpack(later, own)


def test_what_a_prompt_took_is_told_before_the_steps_and_the_report_is_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[str, bool]] = []
    done: list[str] = []
    with bench(tell_seconds=0.0) as at:
        report_progress, frames, report = at.store.report_progress, at.engine.frames, at.engine.report
        tokens = {"prompt_tokens": TokenCount(used=3, cut=0, limit=9)}

        def tells(held: Any, *progress: Any) -> None:
            told.extend((each.phase, each.prompt_tokens is not None) for each in progress)
            report_progress(held, *progress)

        def decodes(latents: Any, check: Callable[[], None]) -> Any:
            yield from frames(latents, check)
            done.append("decoded")

        monkeypatch.setattr(at.store, "report_progress", tells)
        monkeypatch.setattr(at.engine, "encode_prompt", lambda *_: SimpleNamespace(tokens=tokens))
        monkeypatch.setattr(at.engine, "frames", decodes)
        monkeypatch.setattr(at.engine, "report", lambda: (done.append("reported"), report())[1])
        assert at.run().status == "completed"
    assert done == ["decoded", "reported"], "memory of the decoding is in it"
    assert {*told} == {
        *((phase, False) for phase in ("loading", "encoding_prompt")),
        *((phase, True) for phase in ("denoising", "decoding", "uploading")),
    }


def test_the_report_of_a_job_that_is_done_is_counted_once() -> None:
    def jobs() -> float:
        samples = metrics.density.collect()[0].samples
        return sum(each.value for each in samples if each.name.endswith("_count") and each.labels["model"] == "stub")

    with bench() as at:
        before = jobs()
        assert at.run().status == "completed" and jobs() == before + 1
