"""Why a worker stops a job, rests or looks again: each reason by a clock that the test sets."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import accumulate, chain, pairwise, repeat
from types import SimpleNamespace
from typing import Any

import pytest
from adaspa_jobs import logs
from adaspa_jobs.job import Progress
from adaspa_jobs.storage import StorageUnavailable
from adaspa_jobs.store import JobCancelled, LeaseLost, StoreUnavailable
from adaspa_worker import attempt, checkpoint, group, lease, runner
from adaspa_worker.checkpoint import Checkpoints
from adaspa_worker.group import GroupFailed
from adaspa_worker.lease import GROUP_SECONDS, RENEWED_SHARE, LeaseKeeper, TimeLimitExceeded, WorkerStopping
from admitting import create
from chaos.workshop import bench, params, raising
from virtual_time import Seconds
from waiting import until

UNWIND, LIMIT = 30.0, 1000.0
REASONS = [JobCancelled("x"), LeaseLost("x"), TimeLimitExceeded("x"), GroupFailed("x")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seconds]:
    made = Seconds()
    for module in (attempt, lease, runner, checkpoint):
        monkeypatch.setattr(module, "time", made)
    yield made


class Store:
    """What a keeper asks, and when; it may be away, or refuse."""

    lease_seconds = 30.0

    def __init__(self, clock: Seconds) -> None:
        self.clock, self.asked, self.error = clock, list[tuple[float, str]](), dict[str, Exception]()
        self.told: list[tuple[float, int]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        def ask(_: object, *told: Any) -> None:
            self.asked.append((self.clock.now, name))
            if name in self.error:
                raise self.error[name]
            self.told += [(self.clock.now, progress.step) for progress in told]

        return ask

    def names(self) -> list[str]:
        """What was asked since the last time."""
        found, self.asked = [name for _, name in self.asked], []
        return found


def denoised(step: int) -> Progress:
    return Progress(phase="denoising", step=step, steps=100)


def lived(keeps: LeaseKeeper, clock: Seconds, seconds: float, *happens: tuple[float, Callable[[], object]]) -> float:
    """Run what a keeper's thread does for so long, or until it abandons the attempt; the seconds that this took.

    Args:
        keeps: the keeper.
        clock: its time.
        seconds: when the attempt ends.
        happens: what the job's own thread does, and when.
    """
    begin, left = clock.now, sorted(happens, key=lambda each: each[0])

    def wait(pause: float) -> bool:
        wakes = min(clock.now + pause, begin + seconds)
        while left and begin + left[0][0] <= wakes:
            when, act = left.pop(0)
            clock.now = max(clock.now, begin + when)
            act()
        clock.now = max(clock.now, wakes)
        return clock.now >= begin + seconds

    keeps._done = SimpleNamespace(wait=wait)  # type: ignore[assignment]
    keeps._keep()
    return clock.now - begin


def keeper(store: Store, **changes: Any) -> LeaseKeeper:
    own = {"every": 2.0, "limit": LIMIT, "unwind": UNWIND, "abandon": print, "tell_every": 1.0} | changes
    job: Any = SimpleNamespace(job=SimpleNamespace(id="video_x"))
    return LeaseKeeper(store, job, lambda: False, **own)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", REASONS, ids=lambda reason: type(reason).__name__)
def test_a_job_stops_for_the_first_reason_and_has_its_time_to_unwind_from_then(
    clock: Seconds, first: Exception
) -> None:
    keeps = keeper(Store(clock))
    keeps.check()
    keeps._interrupt(first)  # type: ignore[arg-type]
    told = clock.now
    for later in REASONS:
        clock.now += 1
        keeps._interrupt(later)  # type: ignore[arg-type]
        with pytest.raises(type(first)):
            keeps.check()
        with pytest.raises(type(first)):
            keeps.report(Progress(phase="denoising", step=1, steps=4))
        grace = GROUP_SECONDS if isinstance(first, GroupFailed) else UNWIND
        assert keeps._grace_until() == told + grace


def test_a_load_has_the_whole_time_of_its_job_to_be_unwound(clock: Seconds) -> None:
    keeps = keeper(Store(clock))
    deadline = clock.now + LIMIT
    keeps.report(Progress(phase="loading"))
    keeps._interrupt(REASONS[0])  # type: ignore[arg-type]
    assert keeps._grace_until() == deadline + UNWIND
    clock.now = deadline + 5
    late = keeper(Store(clock), limit=-5.0)
    late.report(Progress(phase="loading"))
    late._interrupt(REASONS[2])  # type: ignore[arg-type]
    assert late._grace_until() == clock.now + UNWIND, "one that begins late has its time, too"


@pytest.mark.parametrize("reason", REASONS[:2], ids=lambda reason: type(reason).__name__)
def test_who_has_heard_that_a_job_is_over_asks_and_tells_no_more_of_it(clock: Seconds, reason: Exception) -> None:
    store = Store(clock)
    keeps = keeper(store)
    keeps.report(Progress(phase="denoising", step=1, steps=4))
    keeps.report(Progress(phase="denoising", step=2, steps=4))
    assert store.names() == ["report_progress"], "the second waits for a second"
    store.error = {"hear": reason, "renew": reason}
    clock.now += 3
    keeps._hear()
    assert len(store.names()) == 1
    clock.now += 30
    keeps._hear()
    keeps._tell()
    assert store.names() == []


def test_a_renewal_that_failed_is_made_again_until_it_is_heard(clock: Seconds) -> None:
    store = Store(clock)
    keeps = keeper(store)
    clock.now += 2
    assert keeps._hear() and store.names() == ["hear"], "a lease that has just been taken is not renewed"
    clock.now += 5
    store.error = {"renew": StoreUnavailable("away")}
    assert not keeps._hear() and not keeps._hear()
    assert store.names() == ["renew", "renew"]
    store.error = {}
    assert keeps._hear() and keeps._hear()
    assert store.names() == ["renew", "hear"]
    keeps.check()


def test_steps_that_could_not_be_told_do_not_count_as_heard(clock: Seconds) -> None:
    store = Store(clock)
    keeps = keeper(store)
    clock.now += 7
    store.error = {"report_progress": StoreUnavailable("away")}
    keeps.report(Progress(phase="denoising", step=1, steps=4))
    assert keeps._hear() and store.names() == ["report_progress", "renew"]
    store.error = {}
    clock.now += 7
    keeps.report(Progress(phase="denoising", step=2, steps=4))
    assert keeps._hear() and store.names() == ["report_progress", "hear"], "telling renews the lease"


def test_a_worker_that_is_to_stop_says_so_after_every_other_reason(clock: Seconds) -> None:
    job: Any = SimpleNamespace(job=SimpleNamespace(id="video_x"))
    keeps = LeaseKeeper(
        Store(clock),  # type: ignore[arg-type]
        job,
        lambda: True,
        every=2.0,
        limit=LIMIT,
        unwind=UNWIND,
        abandon=print,
    )
    with pytest.raises(WorkerStopping):
        keeps.check()
    keeps._interrupt(REASONS[0])  # type: ignore[arg-type]
    with pytest.raises(JobCancelled):
        keeps.wait(5)


def test_who_goes_on_from_a_checkpoint_writes_the_next_one_as_far_behind_it(clock: Seconds) -> None:
    with bench() as at:
        create(at.store, params())
        held = at.store.claim("stub", "one")
        assert held is not None
        Checkpoints(at.storage, held, 4, 600.0).save({"step": 6})
        for every_steps, seconds, wanted in ((4, 0.0, range(10, 20)), (None, 599.0, ()), (None, 600.0, range(7, 20))):
            kept = Checkpoints(at.storage, held, every_steps, 600.0, _last_time=clock.now - 900)
            assert kept.load() is not None
            clock.now += seconds
            assert [step for step in range(7, 20) if kept.due(step)] == [*wanted]


def test_storage_is_looked_at_again_after_a_failure_and_not_after_a_video(clock: Seconds) -> None:
    with bench(back_off_seconds=(1.0, 8.0)) as at:
        looks: list[float] = []
        plain = at.storage.check

        def check() -> None:
            looks.append(clock.now)
            plain()

        at.storage.check = check  # type: ignore[method-assign]
        at.run()
        at.run()
        assert len(looks) == 1, "a storage that has just taken a video is looked at"
        denoise, at.engine.denoise = at.engine.denoise, raising(StorageUnavailable("away"))  # type: ignore[method-assign]
        at.run()
        at.engine.denoise = denoise  # type: ignore[method-assign]
        at.runner.run("stub")
        assert len(looks) == 2, "a storage that failed is taken for whole"
        clock.now += runner.STORED_SECONDS
        at.run()
        assert len(looks) == 3, "what storage took a minute ago tells nothing"


def test_a_worker_that_rests_hears_that_it_is_to_stop(clock: Seconds) -> None:
    with bench(back_off_seconds=(60.0,), stopping=lambda: clock.sleeps > 5) as at:
        at.engine.denoise = raising(StorageUnavailable("away"))  # type: ignore[method-assign]
        began = clock.now
        at.run()
        assert clock.now - began < 2


@pytest.mark.parametrize("every", [0.5, 2.0, 5.0])
def test_a_job_without_steps_is_asked_about_in_time_and_its_lease_renewed(clock: Seconds, every: float) -> None:
    store = Store(clock)
    began, share = clock.now, RENEWED_SHARE * store.lease_seconds
    assert lived(keeper(store, every=every), clock, 121.0) == 121.0
    times = [began, *(when for when, _ in store.asked)]
    assert {then - when for when, then in pairwise(times)} == {every}
    renewals = [began, *(when for when, name in store.asked if name == "renew")]
    assert all(share <= then - when < share + every for when, then in pairwise(renewals)) and len(renewals) > 10


@pytest.mark.parametrize("every", [0.5, 5.0])
def test_a_store_that_is_away_is_asked_each_second_until_it_is_back(clock: Seconds, every: float) -> None:
    store = Store(clock)
    away = {name: StoreUnavailable("away") for name in ("hear", "renew")}
    happens = [(9.0, lambda: store.error.update(away)), (13.6, store.error.clear)]
    began = clock.now
    lived(keeper(store, every=every), clock, 25.0, *happens)
    while_away = [when - began for when, _ in store.asked if 10 <= when - began <= 14]
    assert {then - when for when, then in pairwise(while_away)} == {min(every, 1.0)}
    back = [(when - began, name) for when, name in store.asked if when - began >= 13.6]
    assert back[0] == (14.0, "renew") and back[1] == (14.0 + every, "hear")


@pytest.mark.parametrize("away", [False, True])
def test_a_worker_beats_whatever_becomes_of_its_job(
    clock: Seconds, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    beats: list[float] = []
    monkeypatch.setattr(lease, "beat", lambda: beats.append(clock.now))
    store, began = Store(clock), clock.now
    if away:
        store.error = {"hear": StoreUnavailable("away"), "renew": StoreUnavailable("away")}
    keeps = keeper(store)
    keeps.report(Progress(phase="loading"))
    cancelled: dict[str, Exception] = {"hear": JobCancelled("x"), "renew": JobCancelled("x")}
    lived(keeps, clock, 100.0, (40.0, lambda: store.error.update(cancelled)))
    assert max(then - when for when, then in pairwise([began, *beats, began + 100.0])) <= 2.0, "while it unwinds, too"


@pytest.mark.parametrize("unwind", [2.0, UNWIND])
@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: type(reason).__name__)
def test_an_attempt_that_does_not_stop_is_abandoned_once_its_time_to_unwind_is_over(
    clock: Seconds, monkeypatch: pytest.MonkeyPatch, reason: Exception, unwind: float
) -> None:
    """Each reason comes at 7.3 s: by the clock, from the group, or from the store, which is asked every 2 s."""
    store, abandoned = Store(clock), list[Exception]()
    limit, happens = LIMIT, list[tuple[float, Callable[[], object]]]()
    if isinstance(reason, TimeLimitExceeded):
        limit = 7.3
    elif isinstance(reason, GroupFailed):
        happens.append((7.3, lambda: monkeypatch.setattr(group, "failure", lambda: reason)))
    else:
        happens.append((7.3, lambda: store.error.update({"hear": reason, "renew": reason})))
    keeps = keeper(store, limit=limit, unwind=unwind, abandon=abandoned.append)
    heard: list[float] = []

    def hears() -> None:
        with suppress(Exception):
            keeps.check()
            return
        heard.append(clock.now)

    keeps.report(denoised(1))
    began = clock.now
    happens += [(when / 10, hears) for when in range(1, 500)]
    took = lived(keeps, clock, 60.0, *happens)
    grace = min(GROUP_SECONDS, unwind) if isinstance(reason, GroupFailed) else unwind
    noted = heard[0] - began
    assert 7.3 <= noted <= 7.3 + (0.2 if isinstance(reason, TimeLimitExceeded) else 2.1)
    assert [type(each) for each in abandoned] == [type(reason)]
    assert noted - 0.15 + grace <= took <= noted + grace + 1.1


def test_a_cancelled_load_is_abandoned_only_after_the_time_of_its_job(clock: Seconds) -> None:
    store, abandoned = Store(clock), list[Exception]()
    store.error = {"hear": JobCancelled("x")}
    keeps = keeper(store, limit=50.0, abandon=abandoned.append)
    keeps.report(Progress(phase="loading"))
    took = lived(keeps, clock, 200.0)
    assert 50.0 + UNWIND <= took <= 51.0 + UNWIND
    assert [type(reason) for reason in abandoned] == [JobCancelled], "what was first, not the end of its time"


def test_every_step_is_told_in_order_and_soon_and_steps_that_are_told_need_no_question(clock: Seconds) -> None:
    store = Store(clock)
    keeps, began = keeper(store), clock.now
    steps = [(0.3 * number, lambda number=number: keeps.report(denoised(number))) for number in range(1, 101)]
    lived(keeps, clock, 40.0, *steps)
    assert [step for _, step in store.told] == [*range(1, 101)]
    assert all(-0.01 < when - began - 0.3 * step <= 1.1 for when, step in store.told), "each within a second"
    writes = [when - began for when, name in store.asked if name == "report_progress"]
    assert len(writes) <= 32 and min(then - when for when, then in pairwise(writes)) > 0.999, "not each by itself"
    questions = [when - began for when, name in store.asked if name != "report_progress"]
    assert min(questions) > 30 and questions[0] <= writes[-1] + 3.1, "as long as there are steps, nothing else is asked"


@pytest.mark.parametrize("error", [JobCancelled("x"), LeaseLost("x"), StoreUnavailable("x")], ids=repr)
def test_a_thread_that_tells_of_steps_hears_what_the_store_answers(clock: Seconds, error: Exception) -> None:
    store = Store(clock)
    keeps = keeper(store, every=600.0)
    keeps.report(denoised(1))
    keeps.report(denoised(2))
    lived(keeps, clock, 1.5, (0.5, lambda: store.error.update(report_progress=error)))
    assert [name for _, name in store.asked] == ["report_progress", "report_progress"]
    if isinstance(error, StoreUnavailable):
        keeps.check()
        store.error.clear()
        keeps.report(denoised(3))
        lived(keeps, clock, 1.5)
        assert store.told[-1][1] == 3, "it goes on"
    else:
        with pytest.raises(type(error)):
            keeps.check()


def test_what_a_leases_thread_logs_names_job_and_attempt(caplog: pytest.LogCaptureFixture) -> None:
    store = Store(Seconds())
    store.error = {"hear": StoreUnavailable("away"), "renew": StoreUnavailable("away")}
    caplog.handler.addFilter(logs.add_fields)
    with logs.bound(job="video_y", attempt=3), keeper(store, every=0.01):
        until(lambda: "could not renew" in caplog.text, "the thread logs that the store is away")
    caplog.handler.removeFilter(logs.add_fields)
    named = [record.__dict__ for record in caplog.records if "could not renew" in record.getMessage()]
    assert {(each.get("job"), each.get("attempt")) for each in named} == {("video_y", 3)}


@pytest.mark.parametrize("patience", [0.2, 0.6, 1.6, 7.6, 15.6, 120.0])
def test_an_upload_is_tried_again_as_long_as_its_patience_lasts_and_no_longer(clock: Seconds, patience: float) -> None:
    tries: list[float] = []

    def away(*_: object) -> None:
        tries.append(clock.now)
        raise StorageUnavailable("away")

    with bench(upload_retry_seconds=patience, time_limit_seconds=1e6) as at:
        at.storage.put_file = away  # type: ignore[method-assign]
        began = clock.now
        job = at.run()
        pauses = [0.0, *chain(lease.RETRY_SECONDS, repeat(lease.RETRY_SECONDS[-1], 20))]
        wanted = [when for when in accumulate(pauses) if when <= patience]
        assert [when - began for when in tries] == pytest.approx(wanted)
        assert clock.now - began == pytest.approx(wanted[-1]) and (job.status, job.worker_errors) == ("queued", 1)


def test_a_worker_that_waits_for_its_storage_hears_that_it_is_to_stop(clock: Seconds) -> None:
    began = clock.now
    with bench(upload_retry_seconds=600.0, stopping=lambda: clock.now >= began + 20) as at:
        at.storage.put_file = raising(StorageUnavailable("away"))  # type: ignore[method-assign]
        create(at.store, params())
        with pytest.raises(WorkerStopping):
            at.runner.run("stub")
        assert clock.now - began == pytest.approx(20, abs=0.2)


def test_a_process_whose_device_failed_rests_before_it_ends(clock: Seconds) -> None:
    """Else the one in its place would take the next job at once, with the same device."""
    ends: list[float] = []
    with bench(back_off_seconds=(60.0,), end_process=lambda: ends.append(clock.now)) as at:
        at.engine.denoise = raising(GroupFailed("a process died"))  # type: ignore[method-assign]
        began = clock.now
        at.run()
        assert [when - began for when in ends] == [pytest.approx(60, abs=0.2)]


@pytest.mark.parametrize("written", [True, False], ids=["written", "storage away"])
def test_a_checkpoint_is_due_by_steps_or_by_time_also_after_one_that_could_not_be_written(
    clock: Seconds, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    with bench() as at:
        create(at.store, params())
        held = at.store.claim("stub", "one")
        assert held is not None
        if not written:
            monkeypatch.setattr(at.storage, "create", raising(StorageUnavailable("away")))
        for every_steps in (None, 4):
            kept = Checkpoints(at.storage, held, every_steps, 600.0)
            clock.now += 700
            saved = clock.now
            kept.save({"step": 10})
            for seconds in (0.0, 599.0, 600.0):
                clock.now = saved + seconds
                for step in range(11, 20):
                    by_steps = every_steps is not None and step - 10 >= every_steps
                    assert kept.due(step) == (by_steps or seconds >= 600), (every_steps, seconds, step)


def test_a_preview_that_cannot_be_told_costs_the_job_nothing(clock: Seconds) -> None:
    store = Store(clock)
    keeps = keeper(store)
    progress = denoised(2).model_copy(update={"preview_step": 2})
    store.error = {"report_preview": StoreUnavailable("away")}
    keeps.report_preview(progress, b"RIFF")
    assert store.names() == ["report_preview"]
    for reason in REASONS[:2]:
        store.error = {"report_preview": reason}
        with pytest.raises(type(reason)):
            keeps.report_preview(progress, b"RIFF")
    keeps._interrupt(REASONS[2])  # type: ignore[arg-type]
    store.names()
    with pytest.raises(TimeLimitExceeded):
        keeps.report_preview(progress, b"RIFF")
    assert store.names() == [], "who has to stop tells no more"


@pytest.mark.parametrize("steps", [False, True])
def test_a_slow_store_is_asked_in_time_for_the_lease_that_it_has_then(clock: Seconds, steps: bool) -> None:
    """A lease is as long from when the store was asked, not from when it answered."""
    slow, ask = 4.0, Store.__getattr__

    class Slow(Store):
        def __getattr__(self, name: str) -> Callable[..., None]:
            def asks(*given: Any) -> None:
                ask(self, name)(*given)
                clock.now += slow

            return asks

    store = Slow(clock)
    keeps = keeper(store)
    happens = [(20.0 * number, lambda number=number: keeps.report(denoised(number))) for number in range(1, 5)]
    lived(keeps, clock, 100.0, *(happens if steps else ()))
    renewed = [when for when, name in store.asked if name in ("renew", "report_progress")]
    asked = [when for when, _ in store.asked]
    share = RENEWED_SHARE * store.lease_seconds
    assert len(renewed) > 5 and max(then - when for when, then in pairwise(renewed)) <= share + slow + 1.1
    assert max(then - when for when, then in pairwise(asked)) <= slow + 1.1


def test_neither_checkpoints_nor_previews_count_the_load(clock: Seconds, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(checkpoint_steps=None, checkpoint_seconds=600.0, time_limit_seconds=1e6) as at:
        written: list[str] = []
        keep = at.storage.create
        monkeypatch.setattr(at.storage, "create", lambda key, *rest: (written.append(key), keep(key, *rest))[1])
        at.runner.engine = lambda _: (clock.sleep(700), at.engine)[1]
        assert at.run().status == "completed"
        assert not [key for key in written if key.startswith("checkpoints/")]


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: type(reason).__name__)
def test_a_hanging_attempt_ends_its_process_also_where_redis_is_away(
    clock: Seconds, monkeypatch: pytest.MonkeyPatch, reason: Exception
) -> None:
    """Once the worker is to stop: until then Redis may come back."""
    began = clock.now
    with bench(stopping=lambda: clock.now >= began + 50) as at:
        create(at.store, params())
        held = at.store.claim("stub", "one")
        assert held is not None
        for name in ("fail", "release_cancelled", "requeue_after_worker_error", "get"):
            monkeypatch.setattr(at.store, name, raising(StoreUnavailable("away")))
        at.runner._abandon(held, reason)  # type: ignore[arg-type]
        assert at.ended.is_set()
        waited = 0 if isinstance(reason, LeaseLost) else 50 + lease.STOPPING_SECONDS
        assert waited <= clock.now - began <= waited + 2.1


@pytest.mark.parametrize("every", [2.0, 5.0])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_a_cancel_is_heard_in_time_after_the_last_step(clock: Seconds, every: float, share: float) -> None:
    """However long before the next question the step was told: the thread wakes each second."""
    store = Store(clock)
    keeps, began, step = keeper(store, every=every), clock.now, share * every
    lived(keeps, clock, 30.0, (step, lambda: keeps.report(denoised(1))))
    questions = [when - began for when, name in store.asked if name != "report_progress"]
    assert step + every <= questions[0] < step + every + 1.01


def test_a_worker_that_finds_no_job_asks_its_storage_once_a_minute(clock: Seconds) -> None:
    """However often it is rung for; while storage is away it asks each time, and takes no job."""
    with bench(back_off_seconds=(1.0, 5.0)) as at:
        looks: list[float] = []
        check = at.storage.check
        at.storage.check = lambda: (looks.append(clock.now), check())[1]  # type: ignore[method-assign]
        began = clock.now
        for _ in range(5):
            at.runner.run("stub")
        clock.now = began + runner.STORED_SECONDS - 0.5
        at.runner.run("stub")
        assert looks == [began]
        clock.now = began + runner.STORED_SECONDS
        at.runner.run("stub")
        assert looks == [began, began + runner.STORED_SECONDS]
        clock.now += runner.STORED_SECONDS
        create(at.store, params())
        away = clock.now
        at.storage.check = lambda: (looks.append(clock.now), raising(StorageUnavailable("away"))())[1]  # type: ignore[method-assign]
        for _ in range(4):
            at.runner.run("stub")
        assert [when - away for when in looks[2:]] == pytest.approx([0.0, 1.0, 6.0, 11.0], abs=0.5)
        assert clock.now - away == pytest.approx(16.0, abs=0.5), "it rests after each"
        assert at.store.load("stub").unfinished == 1
