"""Why a worker stops a job, rests or looks again: each reason by a clock that the test sets."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from adaspa_jobs.job import Progress
from adaspa_jobs.storage import StorageUnavailable
from adaspa_jobs.store import JobCancelled, LeaseLost, StoreUnavailable
from adaspa_worker import checkpoint, lease, runner
from adaspa_worker.checkpoint import Checkpoints
from adaspa_worker.group import GroupFailed
from adaspa_worker.lease import GROUP_SECONDS, LeaseKeeper, TimeLimitExceeded, WorkerStopping
from admitting import create
from chaos.by_worker import bench, params, raising

UNWIND, LIMIT = 30.0, 1000.0
REASONS = [JobCancelled("x"), LeaseLost("x"), TimeLimitExceeded("x"), GroupFailed("x")]


class Clock:
    """A time that passes when it is told to, or when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.sleeps += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    for module in (lease, runner, checkpoint):
        monkeypatch.setattr(module, "time", made)
    yield made


class Store:
    """What a keeper asks, and when; it may be away, or refuse."""

    lease_seconds = 30.0

    def __init__(self, clock: Clock) -> None:
        self.clock, self.asked, self.error = clock, list[tuple[float, str]](), dict[str, Exception]()

    def __getattr__(self, name: str) -> Callable[..., None]:
        def ask(*_: object) -> None:
            self.asked.append((self.clock.now, name))
            if name in self.error:
                raise self.error[name]

        return ask

    def names(self) -> list[str]:
        """What was asked since the last time."""
        found, self.asked = [name for _, name in self.asked], []
        return found


def keeper(store: Store, **changes: Any) -> LeaseKeeper:
    own = {"every": 2.0, "limit": LIMIT, "unwind": UNWIND, "abandon": print, "tell_every": 1.0} | changes
    job: Any = SimpleNamespace(job=SimpleNamespace(id="video_x"))
    return LeaseKeeper(store, job, lambda: False, **own)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", REASONS, ids=lambda reason: type(reason).__name__)
def test_a_job_stops_for_the_first_reason_and_has_its_time_to_unwind_from_then(clock: Clock, first: Exception) -> None:
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


def test_a_load_has_the_whole_time_of_its_job_to_be_unwound(clock: Clock) -> None:
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
def test_who_has_heard_that_a_job_is_over_asks_and_tells_no_more_of_it(clock: Clock, reason: Exception) -> None:
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


def test_a_renewal_that_failed_is_made_again_until_it_is_heard(clock: Clock) -> None:
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


def test_steps_that_could_not_be_told_do_not_count_as_heard(clock: Clock) -> None:
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


def test_a_worker_that_is_to_stop_says_so_after_every_other_reason(clock: Clock) -> None:
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


def test_who_goes_on_from_a_checkpoint_writes_the_next_one_as_far_behind_it(clock: Clock) -> None:
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


def test_storage_is_looked_at_again_after_a_failure_and_not_after_a_video(clock: Clock) -> None:
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


def test_a_worker_that_rests_hears_that_it_is_to_stop(clock: Clock) -> None:
    with bench(back_off_seconds=(60.0,), stopping=lambda: clock.sleeps > 5) as at:
        at.engine.denoise = raising(StorageUnavailable("away"))  # type: ignore[method-assign]
        began = clock.now
        at.run()
        assert clock.now - began < 2
