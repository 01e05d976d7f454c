"""Scenes of a store that the audit drives itself, in the place of gateways and workers: each step in the order that is
wanted, on a Valkey of its own. No time has to pass: what is due by time is put there."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from adaspa_api.report import AttentionReport, JobError
from adaspa_api.words import ErrorCode, JobStatus, Priority, Quality
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.fits import Fits
from adaspa_jobs.job import JobParams, Progress
from adaspa_jobs.store import JobCancelled, JobStore, Lease, LeaseLost, QueueFull
from adaspa_service.webhooks.deliveries import DeliveryStore, Outcome
from admitting import admit, create
from tiny_catalog import model_spec
from valkey_process import running_valkey
from waiting import until

from chaos.scenes import Scene
from chaos.stage import Stage
from chaos.watch import look, violations

MODEL = "played"
PARAMS = JobParams(
    **{"model": MODEL, "prompt": "a red circle", "width": 64, "height": 64, "num_frames": 9, "fps": 8},
    **{"steps": 4, "guidance_scale": 4.0, "seed": 1},
)
SPENT = dict.fromkeys((f"{kind}_{what}" for kind in ("dense", "search", "sparse") for what in ("steps", "seconds")), 0)
REPORT = AttentionReport.model_validate({"density": 1.0} | SPENT)
ERROR = JobError(code=ErrorCode.generation_failed, message="as it was told")
LOST_AFTER = 3
HOUR_MS = 3600 * 1000
MONTH_MS = 30 * 24 * HOUR_MS
LOOKS = 100
DUE_SECONDS = 10
AGAIN = ("complete", "give back", "give back after an error")
"""What whoever gave a job back may say again, or say late."""


class Bench:
    """A store with workers that are played.

    Args:
        client: of a Valkey with nothing in it.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.store = JobStore(client, max_attempts=LOST_AFTER, lease_seconds=600)
        self._workers = 0

    def admit(self, owner: str = "a", **options: Any) -> str:
        return admit(self.store, PARAMS, owner=owner, **options)[0].id

    def claim(self, worker: str = "", process: str = "p") -> Lease:
        """The next job, for a worker of its own."""
        self.check()
        self._workers += 1
        lease = self.store.claim(MODEL, worker or f"worker-{self._workers}", process)
        assert lease is not None, "no job for a worker that asks"
        return lease

    def lose(self, job_id: str) -> None:
        """The lease of a job runs out, and a janitor sees it; if it has not looked for long, it looks again."""
        for _ in range(LOOKS):
            self.client.zadd("adaspa:leases", {job_id: 0}, xx=True)
            self.store.requeue_expired()
            if self.client.zscore("adaspa:leases", job_id) is None:
                return
        raise AssertionError(f"{job_id}: its lease is over, and it keeps it")

    def check(self) -> None:
        """All that stands in the store agrees."""
        broken = [*violations(look(self.client))]
        assert not broken, broken

    def status(self, job_id: str) -> str:
        self.check()
        job = self.store.get(job_id)
        return str(job.status) if job else "gone"

    def all_of(self, job_id: str) -> tuple[Any, ...]:
        """What an attempt that is refused must leave as it is."""
        key = f"adaspa:job:{job_id}"
        lease, told = self.client.zscore("adaspa:leases", job_id), self.client.xlen(f"adaspa:events:{job_id}")
        return self.client.hgetall(key), lease, told, self.client.hgetall(f"adaspa:preview:{job_id}")

    def acts(self, lease: Lease) -> dict[str, Callable[[], None]]:
        """All that a worker may do with a lease."""
        store, progress = self.store, Progress(phase="denoising", step=1, steps=4, preview_step=1)
        return {
            "renew": lambda: store.renew(lease),
            "report": lambda: store.report_progress(lease, progress),
            "preview": lambda: store.report_preview(lease, progress, b"webp"),
            "complete": lambda: store.complete(lease, {}, REPORT, {}),
            "fail": lambda: store.fail(lease, ERROR),
            "give back after an error": lambda: store.requeue_after_worker_error(lease, ERROR),
            "end as cancelled": lambda: store.release_cancelled(lease),
            "give back": lambda: store.release(lease),
        }

    def refuses(self, lease: Lease, by: type[Exception], *but: str) -> None:
        """Each of these acts is refused, and changes nothing."""
        for what, act in self.acts(lease).items():
            if what not in but:
                before = self.all_of(lease.job.id)
                try:
                    act()
                except (LeaseLost, JobCancelled) as refusal:
                    assert isinstance(refusal, by), f"attempt {lease.attempt} may not {what}: {refusal!r}, not {by}"
                else:
                    raise AssertionError(f"attempt {lease.attempt} may {what}, and is to hear {by.__name__}")
                assert self.all_of(lease.job.id) == before, f"attempt {lease.attempt} is refused to {what}, and has"


@contextmanager
def bench() -> Iterator[Bench]:
    """One with a Valkey of its own."""
    with (
        running_valkey("--appendonly", "yes", "--appendfsync", "always") as folder,
        redis.Redis(unix_socket_path=f"{folder}/valkey.sock") as client,
    ):
        yield Bench(client)


class Fenced(Scene):
    """Attempts whose lease is lost, in each state of the job."""

    name = "by hand: earlier attempts"
    promise = "of two attempts at a job at one time, the earlier one is refused everything"

    def play(self, stage: Stage) -> None:
        with bench() as at:
            first_id = at.admit()
            first = at.claim()
            at.lose(first_id)
            at.refuses(first, LeaseLost, *AGAIN)
            second = at.claim()
            assert (second.job.id, second.attempt) == (first_id, 2)
            for what in ("renew", "report"):
                ends = at.client.zscore("adaspa:leases", first_id)
                at.client.zincrby("adaspa:leases", -1000, first_id)
                at.acts(second)[what]()
                assert at.client.zscore("adaspa:leases", first_id) >= ends, f"to {what} does not renew a lease"
            at.refuses(first, LeaseLost)
            at.store.release(second)
            at.store.release(second)
            for lease in (first, second):
                at.refuses(lease, LeaseLost, *(AGAIN if lease is second else ()))
            third = at.claim()
            at.acts(third)["complete"]()
            at.acts(third)["complete"]()
            for lease in (first, second, third):
                at.refuses(lease, LeaseLost, *(("complete",) if lease is third else ()))
            assert at.status(first_id) == "completed"
            late_id = at.admit()
            late = at.claim()
            at.lose(late_id)
            assert at.status(late_id) == "queued"
            at.acts(late)["complete"]()
            assert at.status(late_id) == "completed" and at.store.claim(MODEL, "another") is None
            failed_id = at.admit()
            failed = at.claim()
            for _ in range(2):
                at.store.fail(failed, ERROR)
            at.refuses(failed, LeaseLost, "fail", "give back after an error")
            assert at.status(failed_id) == "failed"


class Stopped(Scene):
    """Cancels and deletions of running jobs, whose workers hear of it or are lost."""

    name = "by hand: cancels"
    promise = "an acknowledged cancel wins, and a worker hears of it whatever it does next"

    def play(self, stage: Stage) -> None:
        with bench() as at:
            ways = [(act, lost) for act in (at.store.request_cancel, at.store.discard) for lost in (False, True)]
            for act, lost in ways:
                job_id = at.admit()
                lease = at.claim()
                with suppress(LeaseLost):
                    at.store.release_cancelled(lease)
                    raise AssertionError("a job ended as cancelled that nobody cancelled")
                act(job_id)
                at.refuses(lease, JobCancelled, "end as cancelled")
                if lost:
                    at.lose(job_id)
                else:
                    at.store.release_cancelled(lease)
                    at.store.release_cancelled(lease)
                assert at.status(job_id) == "cancelled", f"is {at.status(job_id)} after {act.__name__}"
                assert at.store.claim(MODEL, "another") is None
                assert at.store.request_cancel(job_id) is JobStatus.cancelled
                due = at.store.take_purgeable()
                assert due == ([job_id] if act == at.store.discard else []), f"{due} are to be removed"
                assert at.store.purge(job_id) == (act == at.store.discard)
            running = at.admit()
            lease = at.claim()
            at.store.discard(running)
            assert not at.store.purge(running), "a job was removed while its worker runs it"
            at.store.release_cancelled(lease)
            assert at.store.purge(running)


class Attempts(Scene):
    """Attempts that are lost, fail by their worker, are given back, or whose claim is repeated."""

    name = "by hand: attempts"
    promise = "a job is given up after its attempts, and not before"

    def play(self, stage: Stage) -> None:
        with bench() as at:
            job_id = at.admit()
            for _ in range(5):
                at.store.release(at.claim())
            for number in range(LOST_AFTER):
                assert at.status(job_id) == "queued", f"is {at.status(job_id)} after {number} lost workers"
                at.claim()
                at.lose(job_id)
            job = at.store.get(job_id)
            assert job is not None and job.error is not None
            assert (job.status, job.error.code) == ("failed", "worker_lost"), job.error
            erring = at.admit()
            for number in range(LOST_AFTER):
                assert at.status(erring) == "queued", f"is {at.status(erring)} after {number} errors of workers"
                lease = at.claim()
                at.store.requeue_after_worker_error(lease, ERROR)
                at.store.requeue_after_worker_error(lease, ERROR)
            assert at.status(erring) == "failed"
            again = at.admit()
            first = at.claim("one", "p")
            second = at.claim("one", "p")  # the answer to its claim was lost
            assert (second.job.id, second.attempt) == (again, 2)
            job = at.store.get(again)
            assert job is not None and job.lost_attempts == 0, "a repeated claim counts as a loss"
            at.refuses(first, LeaseLost)
            third = at.claim("one", "another process")
            job = at.store.get(again)
            assert job is not None and (job.lost_attempts, third.attempt) == (1, 3), "a dead process is not counted"
            at.refuses(second, LeaseLost)


class Spent(Scene):
    """Attempts hold their worker for a while, and end in every way."""

    name = "by hand: time spent"
    promise = "the time for which workers held an owner's jobs is counted, however each attempt ended"

    def play(self, stage: Stage) -> None:
        with bench() as at:
            at.admit()
            ways: dict[str, Callable[[Lease], None]] = {
                "given back": at.store.release,
                "lost": lambda lease: at.lose(lease.job.id),
                "taken from a dead process": lambda lease: at.store.release(at.claim("one", "another process")),
                "ended by an error of the worker": lambda lease: at.store.requeue_after_worker_error(lease, ERROR),
                "completed": lambda lease: at.acts(lease)["complete"](),
                "failed": lambda lease: at.store.fail(lease, ERROR),
            }
            spent = 0.0
            for what, end in ways.items():
                if not at.store.load(MODEL).unfinished:
                    at.admit()
                lease = at.claim("one")
                at.client.zincrby(f"adaspa:running:{MODEL}", -10_000, lease.job.id)  # it began so much earlier
                end(lease)
                (row,) = at.store.usage(1)["a"]
                assert row.gpu_seconds - spent > 9.999, (
                    f"an attempt of 10 s that was {what}: {row.gpu_seconds - spent} s"
                )
                spent = row.gpu_seconds


class Turns(Scene):
    """Jobs of several owners, costs and priorities are taken one after another."""

    name = "by hand: turns"
    promise = "places in the queue are as told, owners take turns, and bulk jobs have their share"

    def play(self, stage: Stage) -> None:
        with bench() as at:
            owners = "aaaabccb"
            ids = [at.admit(owner) for owner in owners]
            jobs = at.store.readable(ids)
            places = at.store.queue_positions(jobs)
            told = sorted(ids, key=lambda job_id: places[job_id])
            assert sorted(places.values()) == [*range(1, len(ids) + 1)]
            taken = [at.claim() for _ in ids]
            assert [lease.job.id for lease in taken] == told, "jobs are taken in another order than was told"
            order = [lease.job.owner for lease in taken]
            assert {*order[:3]} == {"a", "b", "c"} and order[6:] == ["a", "a"], f"turns of owners: {order}"
            back = taken[2]
            waiting = [at.admit(back.job.owner) for _ in range(2)]
            for give_back in (at.store.release, lambda lease: at.store.requeue_after_worker_error(lease, ERROR)):
                give_back(back)
                places = at.store.queue_positions(at.store.readable([back.job.id, *waiting]))
                assert places[back.job.id] == 1, f"a job that was given back is at place {places[back.job.id]}"
                back = at.claim()
                assert back.job.id == told[2], "a job that was given back is not next"
        with bench() as at:
            for _ in range(3):
                at.admit("a", cost=10.0)
            for _ in range(5):
                at.admit("b", cost=1.0)
            order = [at.claim().job.owner for _ in range(8)]
            assert order.index("a", order.index("a") + 1) > 5, f"turns of jobs of the costs 10 and 1: {order}"
        with bench() as at:
            for _ in range(12):
                at.admit("a")
                at.admit("a", priority=Priority.bulk)
            first = [at.claim().job.priority for _ in range(10)]
            assert first.count(Priority.bulk) in (1, 2, 3), (
                f"{first.count(Priority.bulk)} bulk jobs of ten, for a fifth"
            )


class Shares(Scene):
    """A full queue, and workers whose memory does not hold every job."""

    name = "by hand: shares and memory"
    promise = "a full queue has room for whoever has less than an even part of it, and a job goes to where it fits"

    def play(self, stage: Stage) -> None:
        with bench() as at:
            full = JobStore(at.client, queue_cap=6)

            def takes(owner: str, count: int) -> bool:
                try:
                    return bool(full.admit_all([PARAMS] * count, owner=owner).jobs)
                except QueueFull:
                    return False

            found = [takes(owner, count) for owner, count in (("a", 7), ("a", 6), ("a", 1), ("b", 4), ("b", 3))]
            assert found == [False, True, False, False, True], f"of six places for a and b: {found}"
            found = [takes(owner, count) for owner, count in (("b", 1), ("c", 3), ("c", 2), ("c", 1), ("a", 1))]
            assert found == [False, False, True, False, False], f"of six places for a, b and c: {found}"
        with bench() as at:
            spec = ModelSpec.model_validate(model_spec("builtin:demo", id=MODEL))
            small = {"": {"64x64": 9}, "fast": {"64x64": 5}, "exact": {"64x64": 0}}
            at.store.announce(spec, "small", fits=Fits(limit=1, frames=small))
            at.store.announce(spec, "large", fits=Fits(limit=2, frames={}))
            asked = [(None, 9, True), (Quality.fast, 9, False), (Quality.fast, 5, True), (Quality.exact, 5, False)]
            for quality, frames, may in asked:
                changes = {"quality": quality, "num_frames": frames, "width": 64, "height": 64}
                job_id = create(at.store, PARAMS.model_copy(update=changes)).id
                lease = at.store.claim(MODEL, "small", "p")
                assert (lease is not None) == may, f"{frames} frames with {quality or 'the default'}: {lease}"
                lease = lease or at.store.claim(MODEL, "large", "p")
                assert lease is not None and lease.job.id == job_id
                at.store.fail(lease, ERROR)


class Times(Scene):
    """Jobs wait too long, are kept too long, and time is skipped in which nobody looks."""

    name = "by hand: times"
    promise = "what is due by time is done, and time in which nobody looks does not count"

    def play(self, stage: Stage) -> None:
        with bench() as at:
            now = time.time() * 1000
            until(lambda: at.store.requeue_expired() == [], "a janitor looks")
            late, unserved, young = (at.admit() for _ in range(3))
            at.client.zadd(f"adaspa:arrivals:{MODEL}", {late: now - 25 * HOUR_MS, unserved: now - 7 * HOUR_MS})
            at.client.hset("adaspa:served_at", MODEL, str(int(now + HOUR_MS)))
            assert at.store.time_out() == [late]
            at.client.hset("adaspa:served_at", MODEL, str(int(now - 7 * HOUR_MS)))
            assert at.store.time_out() == [unserved]
            codes = [job.error and job.error.code for job in at.store.readable([late, unserved, young])]
            assert codes == ["queue_timeout", "model_not_served", None], codes
            running = at.claim()
            assert running.job.id == young
            at.client.zadd("adaspa:expiry", {late: now - 1})
            assert at.store.expire() == 1, "one job's time is over"
            assert [job.discarded for job in at.store.readable([late, unserved])] == [True, False]
            waits = at.admit()
            for key, job_id in (("leases", young), (f"arrivals:{MODEL}", waits), ("expiry", unserved)):
                at.client.zincrby(f"adaspa:{key}", -MONTH_MS, job_id)  # a month passes, and nobody looks
            at.client.decrby("adaspa:swept_at", MONTH_MS)
            assert (at.store.requeue_expired(), at.store.time_out(), at.store.expire()) == ([], [], 0), "after a month"
            assert (at.status(waits), at.status(young), at.status(unserved)) == ("queued", "in_progress", "failed")


class Deliveries(Scene):
    """Deliveries are taken and noted, late and twice."""

    name = "by hand: deliveries"
    promise = "a receiver has an event at a time in each lane, until it is taken or given up"

    def play(self, stage: Stage) -> None:
        with bench() as at:
            deliveries = DeliveryStore(at.client, owner_attempts=2)
            ids = {owner: [at.admit(owner, webhook_url=f"http://{owner}/{n}") for n in range(12)] for owner in "ab"}
            for owner in "ab":
                for job_id in ids[owner]:
                    at.store.request_cancel(job_id)
            taken = deliveries.take(64)
            assert sorted(each.owner for each in taken) == [*"aabb"], "two attempts at a time are for each owner"
            assert len({each.lane for each in taken}) == 4 and deliveries.take(64) == []
            first, second = taken[0], taken[1]
            deliveries.note(first, Outcome.rejected, error="500", again_in=0.0)
            (again,) = until_taken(deliveries)
            assert again.owner == first.owner
            deliveries.note(second, Outcome.gone)
            assert [job for job, _ in deliveries.ids("dead")] == [second.job_id]
            assert deliveries.redeliver(second.job_id) and deliveries.ids("dead") == []
            anew = deliveries.get(second.job_id)
            assert anew is not None and anew.attempts == 0, f"sent again with {anew and anew.attempts} attempts made"
            done = {again.job_id}
            deliveries.note(again, Outcome.delivered)
            for each in taken[2:]:
                deliveries.note(each, Outcome.delivered)
                done.add(each.job_id)
            while len(done) < 24:
                for each in until_taken(deliveries):
                    assert each.job_id not in done, f"{each.job_id}: is taken again after it was delivered"
                    deliveries.note(each, Outcome.delivered)
                    done.add(each.job_id)
            counts = deliveries.counts()
            assert (counts.waiting, counts.dead, counts.ended["delivered"]) == (0, 0, 24), counts
            late = at.admit(webhook_url="http://a/overdue")
            at.store.request_cancel(late)
            for ago, least, most in ((3600.0, 3590.0, 7200.0), (-3600.0, 0.0, 0.0)):
                at.client.zadd("adaspa:webhooks", {late: (time.time() - ago) * 1000})
                found = deliveries.counts().overdue_seconds
                assert least <= found <= most, f"due {ago} s ago: overdue for {found} s"
            at.store.discard(late)
            slow = DeliveryStore(at.client, attempt_seconds=0.05, owner_attempts=1)
            at.store.request_cancel(at.admit(webhook_url="http://a/late"))
            (lost,) = until_taken(slow)
            (later,) = until_taken(slow)
            assert (later.job_id, later.attempts) == (lost.job_id, 2), "an attempt that is lost is made again"
            slow.note(lost, Outcome.rejected, again_in=3600.0)
            due = at.client.zscore("adaspa:webhooks", lost.job_id)
            assert due is not None and due < (time.time() + 60) * 1000, "an attempt that was replaced puts off the next"
            (third,) = until_taken(slow)
            slow.note(third, Outcome.delivered)
            assert slow.counts().waiting == 0 and slow.take(64) == []
            self.late(at, slow)
            self.over(at)

    def over(self, at: Bench) -> None:
        """Jobs whose time is over, or that their owner deletes, before their event was delivered."""
        expired, deleted = (at.admit(webhook_url=f"http://{name}/over") for name in ("expired", "deleted"))
        for job_id in (expired, deleted):
            at.store.request_cancel(job_id)
        at.client.zadd("adaspa:expiry", {expired: 0})
        assert at.store.expire() == 1 and at.store.discard(deleted)
        assert at.store.purge(expired) and at.store.purge(deleted)
        deliveries = DeliveryStore(at.client)
        waiting = [job_id for job_id, _ in deliveries.ids("waiting")]
        assert expired in waiting, "the event of a job that expired is not sent"
        assert deleted not in waiting, "the event of a job that its owner deleted is sent"

    def late(self, at: Bench, slow: DeliveryStore) -> None:
        """Outcomes of attempts whose time is over, while another in their lane is under way."""
        made = [at.admit(webhook_url="http://a/lane") for _ in range(5)]  # of a receiver's four lanes two share one
        lane = {job_id: int(job_id[-1], 16) % 4 for job_id in made}
        pair = next([a, b] for a in made for b in made if a < b and lane[a] == lane[b])
        for job_id in pair:
            at.store.request_cancel(job_id)
        lost = [*until_taken(slow), *until_taken(slow)]
        (present,) = until_taken(DeliveryStore(at.client, attempt_seconds=600))
        for each in lost:
            slow.note(each, Outcome.rejected, again_in=0.0)
            assert slow.take(64) == [], f"{present.job_id}: its lane is taken while it is delivered"


def until_taken(deliveries: DeliveryStore) -> list[Any]:
    """The deliveries that are due next, which by Redis' clock some have to be in a moment."""
    client: Any = deliveries.client
    over = client.time()[0] + DUE_SECONDS
    while True:
        late = client.time()[0] > over
        if found := deliveries.take(64):
            return found
        assert not late, f"no delivery is due within {DUE_SECONDS} s"
        time.sleep(0.01)


SCENES: list[Scene] = [Fenced(), Stopped(), Attempts(), Spent(), Turns(), Shares(), Times(), Deliveries()]
