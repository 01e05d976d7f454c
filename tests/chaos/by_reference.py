"""A scene in which everything that may be asked of a store is asked in a drawn order, and compared with a reference.

The store is a real one, with a Valkey of its own and a clock that the scene sets. After each request its answer and
every key have to be as ``reference.py`` says.
"""

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha1
from random import Random
from statistics import median
from typing import Any
from unittest.mock import patch

import redis
from adaspa_api.report import JobError
from adaspa_api.words import ErrorCode, Priority, Quality
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.fits import Fits
from adaspa_jobs.job import SCHEMA_VERSION, Artifact, Input, JobParams, Labels, Progress
from adaspa_jobs.store import (
    AWAITED_SECONDS,
    IdempotencyConflict,
    InputsGone,
    InputsLate,
    JobCancelled,
    JobStore,
    Lease,
    LeaseLost,
    QueueFull,
    TooManyInFlight,
)
from adaspa_service.webhooks.deliveries import Delivery, DeliveryStore, Outcome
from tiny_catalog import model_spec
from valkey_process import running_valkey

from chaos.by_hand import REPORT
from chaos.reference import EVENTS, Anything, Reference, differences, queue_of, read
from chaos.scenes import Scene
from chaos.simulation import TIME_KEY, simulated_clock
from chaos.stage import Stage
from chaos.watch import ENDS

REQUESTS = 600
"""Of one order."""
MODELS, OWNERS, WORKERS = ("one", "two"), ("a", "b", "c"), ("w1", "w2", "w3")
PROCESSES = ("p", "q")
HOSTS = ("http://a.example:81/x?y", "https://b.example/", "https://a.example:81#c")
ERROR = JobError(code=ErrorCode.generation_failed, message="as it was told")
KNOWN = (("", 2), ("fast", 1))
"""Presets of a worker's memory, and of how many sizes it tells with each; whatever it does not tell of fits."""
TIMED: dict[str, Any] = {
    **{"width": 64, "height": 64, "num_frames": 9, "steps": 4, "guided": True, "denoising": 2.0, "rest": 1.0}
}
"""What an earlier job took."""
TOLD = {"code": "generation_failed", "message": "as it was told"}
LIMITS = {"max_attempts": 2, "queue_cap": 4, "result_ttl_seconds": 600.0, "bulk_share": 0.2}
LIMITS |= {"queue_seconds": 900.0, "unserved_seconds": 300.0}
HOUR_MS = 3_600_000
WAIT_MS, UNSERVED_MS, AWAITED_MS = 900_000, 300_000, 120_000
LOOKED_MS = {30.0: 9_000, 6.0: 2_900}
"""By the seconds of a lease, the time between two looks of janitors that counts as if they looked all the while."""
HOLDS_MS, COUNTS_MS, REMEMBERS_MS, AGAIN_MS = 60_000, 20_000, 900_000, 10_000
SKIPPED_MS = 400 * 24 * HOUR_MS
UNKNOWN = "video_" + "0" * 32
ATTEMPT_MS, DEAD_MS, KEPT, OWNER_ATTEMPTS = 10**9, 300_000, 8, 2
"""Of deliveries: an attempt is never lost by time here, because a busy lane ends by the server's own clock."""
ALL = """
local found = {}
for _, key in ipairs(redis.call('KEYS', 'adaspa:*')) do
  local kind, value = redis.call('TYPE', key).ok, nil
  if kind == 'stream' then
    value = {}
    for i, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do value[i] = entry[2] end
  elseif kind == 'hash' then value = redis.call('HGETALL', key)
  elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'set' then value = redis.call('SMEMBERS', key)
  elseif kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
  else value = redis.call('GET', key) end
  found[string.sub(key, 8)] = { kind, value, redis.call('PTTL', key) }
end
return cjson.encode(found)
"""
"""Everything that stands in the store, of each key its kind, what it holds, and for how long (ms)."""
DAY_MS = 24 * HOUR_MS
LASTING = {
    "usage": (400 * DAY_MS, 401 * DAY_MS),
    "webhook": (-1, DEAD_MS),
    "webhook_busy": (1, ATTEMPT_MS),
    "events": (-1, 10_000),
}
"""For how long (ms) keys of these kinds are kept, at least and at most; -1 is for ever, as all others."""
OUTSIDE = ("simulated_time", "synced")
"""Keys that are not the store's contents."""


def contents(client: redis.Redis) -> tuple[dict[str, Any], set[str]]:
    """The store's keys, as the reference has them, and the names of those that are not kept for ever."""
    found: dict[str, Any] = {}
    passing: set[str] = set()
    for name, (kind, value, lasts) in json.loads(client.eval(ALL, 0)).items():
        if name in OUTSIDE:
            continue
        least, most = LASTING.get(name.partition(":")[0], (-1, -1))
        assert least <= lasts <= most, f"{name}: lasts for {lasts} ms"
        if lasts != -1:
            passing.add(name)
        if kind in ("hash", "zset"):
            found[name] = {key: read(each) for key, each in zip(value[::2], value[1::2], strict=True)}
        elif kind == "stream":
            found[name] = [{key: read(each) for key, each in zip(one[::2], one[1::2], strict=True)} for one in value]
        elif kind == "set":
            found[name] = set(value)
        else:
            found[name] = [read(each) for each in value] if kind == "list" else read(value)
        if name.startswith("webhook:") and "record" in found[name]:
            pairs = found[name]["record"]
            found[name]["record"] = {key: read(each) for key, each in zip(pairs[::2], pairs[1::2], strict=True)}
    return found, passing


@contextmanager
def own_store() -> Iterator[redis.Redis]:
    """A client of a Valkey with nothing in it."""
    with running_valkey() as folder, redis.Redis(unix_socket_path=f"{folder}/valkey.sock") as client:
        yield client


@dataclass
class Drawn:
    """One drawn order.

    Args:
        client: of an empty Valkey.
        seed: of the order.
    """

    client: redis.Redis
    seed: int

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.lease_seconds = self.random.choice([*LOOKED_MS])
        with simulated_clock():
            self.store = JobStore(self.client, lease_seconds=self.lease_seconds, **LIMITS)  # type: ignore[arg-type]
            deliveries = {"attempt_seconds": ATTEMPT_MS / 1000, "dead_seconds": DEAD_MS / 1000}
            self.deliveries = DeliveryStore(self.client, **deliveries, kept=KEPT, owner_attempts=OWNER_ATTEMPTS)
        milliseconds = {"lease_ms": round(self.lease_seconds * 1000), "ttl_ms": 600_000}
        of_both = {name: LIMITS[name] for name in ("max_attempts", "queue_cap", "bulk_share")}
        self.wanted = Reference(**milliseconds, **of_both)  # type: ignore[arg-type]
        self.wanted.us = 1_800_000_000_000_000 + self.random.randrange(86_400_000_000)
        skipped = self.random.randrange(-SKIPPED_MS, SKIPPED_MS)  # as after a clock that was set long ago
        self.client.set("adaspa:skipped", skipped)
        self.wanted.keys["skipped"] = skipped
        for model in MODELS:  # of as many as are kept, the last one goes next
            for name, old in ((f"paces:{model}", 2.5), (f"times:{model}:default", TIMED)):
                self.client.rpush(f"adaspa:{name}", *[json.dumps(old)] * 49)
                self.wanted.keys[name] = [old] * 49
        self.leases: list[Lease] = []
        self.taken: list[Delivery] = []
        self.folders: list[str] = []
        self.said: list[str] = []
        self.acts: list[tuple[Callable[[], None], int]] = [
            *(
                (self.admit, 14),
                (self.claim, 14),
                (self.return_one, 8),
                (self.tell, 14),
                (self.end, 16),
                (self.time_passes, 12),
            ),
            *((self.look_after, 12), (self.cancel, 5), (self.delete, 5), (self.announce, 9), (self.ring, 2)),
            *((self.begin_worker, 4), (self.images, 6), (self.deliver, 10), (self.operate, 3), (self.upgrade, 2)),
        ]

    def play(self, requests: int = REQUESTS) -> None:
        """Ask so many times; the first difference is an AssertionError."""
        acts, weights = zip(*self.acts, strict=True)
        for _ in range(requests):
            self.tell_time()
            act = self.random.choices(acts, weights)[0]
            self.said.append(act.__name__)
            try:
                act()
                self.compare()
                self.read()
            except AssertionError as error:
                order = " / ".join(self.said[-6:])
                raise AssertionError(f"{error}  (after {order}; order {self.seed})") from error

    def tell_time(self) -> None:
        seconds, microseconds = divmod(self.wanted.us, 1_000_000)
        self.client.set(TIME_KEY, f"[{seconds}, {microseconds}]")

    def say(self, *words: object) -> None:
        self.said[-1] += f" {' '.join(map(str, words))}"

    def compare(self) -> None:
        """Every key."""
        gone = {name for name in self.wanted.keys if name.startswith(EVENTS)}
        there, passing = contents(self.client)
        found = {
            name: value
            for name, value in there.items()
            if not name.startswith(EVENTS) or name in gone  # of a removed job they stay for a moment
        }
        # A busy lane is far off by the server's own clock.
        far = self.wanted.now + ATTEMPT_MS // 2
        lanes = [
            {lane: min(due, far) for lane, due in (keys.get("webhook_lanes") or {}).items()}
            for keys in (found, self.wanted.keys)
        ]
        dead = {f"webhook:{job_id}" for job_id in self.wanted.keys["webhooks_dead"]}
        ends = {name for name in passing if name.startswith("webhook:")}
        self.agree("events that are not kept for ever", ends, dead)
        if wrong := differences(found | {"webhook_lanes": lanes[0]}, self.wanted.keys | {"webhook_lanes": lanes[1]}):
            raise AssertionError(f"{wrong[0]} ({len(wrong)} keys differ)")

    def agree(self, what: str, found: object, wanted: object) -> None:
        assert found == wanted, f"{what}: {str(found)[:200]}, not {str(wanted)[:200]}"

    def some_job(self) -> str:
        """One that has not ended as often as another, and now and then one that nobody knows."""
        jobs = self.wanted.jobs()
        unfinished = [each for each in jobs if self.wanted.job(each)["status"] not in ENDS]
        among = self.random.choice((unfinished, unfinished, unfinished, jobs, jobs, jobs, ()))
        return self.random.choice(among) if among else UNKNOWN

    # What is asked

    def time_passes(self) -> None:
        steps = (50, 400, 1_000, 1_000, 2_500, 9_000, 9_000, 9_000, 31_000, -5_000, -8_000)
        swept_at = int(self.wanted.keys.get("swept_at") or self.wanted.now)  # it may be set back, but not behind it
        step = self.random.choice((*steps, *steps, (swept_at - self.wanted.now) // 2, 30_000, 310_000, 910_000))
        self.say(step)
        if step in (30_000, 310_000, 910_000):  # janitors look all the while, and workers and gateways do nothing
            looked = LOOKED_MS[self.lease_seconds]
            for _ in range(0, step, looked):
                self.wanted.us += looked * 1000
                self.tell_time()
                self.agree("what is to be requeued", sorted(self.store.requeue_expired()), self.requeued())
        else:
            self.wanted.us += step * 1000 + self.random.randrange(1000)
            self.tell_time()

    def requeued(self) -> list[str]:
        error = {"code": "worker_lost", "message": Anything()}
        return sorted(self.wanted.requeue(error))

    def params(self, model: str, folder: str | None, source: str | None) -> JobParams:
        given = [
            Input(key=f"inputs/{folder}/first.png", content_type="image/png", bytes=1, sha256="ab" * 32, role="first")  # type: ignore[arg-type]
        ]
        return JobParams(
            **{"model": model, "prompt": "a red circle", "width": self.random.choice((64, 96)), "height": 64},
            **{"num_frames": self.random.choice((5, 9)), "fps": 8, "steps": 4, "seed": 1},
            guidance_scale=self.random.choice((1.0, 4.0)),
            quality=self.random.choice((None, None, Quality.fast)),
            sparsity=None,
            remixed_from=source,
            inputs=tuple(given) if folder else (),
        )

    def admit(self) -> None:
        draw, model = self.random, self.random.choice(MODELS)
        folder = draw.choice([None, None, None, None, *self.folders[-2:], UNKNOWN])
        shared = bool(folder) and folder not in self.wanted.keys["awaited_inputs"] and draw.random() < 0.8
        params = [self.params(model, folder, "video_x" if shared else None)] * draw.choice((1, 1, 1, 2, 3))
        key = draw.choice((None, None, None, "k1", "k2", "k3"))
        owner, digest = draw.choice(OWNERS), draw.choice(("d1", "d1", "d2"))
        priority, cost = draw.choice(tuple(Priority)), draw.choice((1.0, 0.25, 2.5))
        most, url = draw.choice((None, None, 2, 4)), draw.choice((None, *HOSTS))
        labels = Labels(
            metadata=draw.choice(({}, {"of": "odd"}, {"of": "even", "a": "b"})), user=draw.choice((None, "u"))
        )
        made: list[str] = []
        found: Any = None
        try:
            found = self.store.admit_all(
                params,
                (key, digest) if key else None,
                owner,
                max_in_flight=most,
                priority=priority,
                cost=cost,
                webhook_url=url,
                labels=labels,
            )
            outcome, made = "created" if found.new else "known", [job.id for job in found.jobs]
        except tuple(REFUSALS) as refusal:
            outcome = REFUSALS[type(refusal)]
        wanted, ids, bells = self.wanted.admit(
            owner=owner,
            model=model,
            priority=priority.value,
            params=[json.loads(each.model_dump_json()) for each in params],
            cost=cost,
            new_ids=lambda: made,
            key=f"{owner}:{key}" if key else None,
            digest=digest,
            max_in_flight=most,
            folder=folder,
            shared=shared,
            webhook_url=url,
            metadata=labels.metadata or None,
            user=labels.user,
        )
        self.say(owner, model, priority, len(params), f"key {key}", f"at most {most}", f"-> {outcome}")
        self.agree("a request", (outcome, made), (wanted, ids))
        if wanted == "created":
            self.agree("bells", found.bells, bells)
            self.agree("places of new jobs", found.positions, {each: self.place(each) for each in ids})
        if key:
            self.again(owner, key, digest)

    def again(self, owner: str, key: str, digest: str) -> None:
        """Ask whether a key is known."""
        wanted = self.wanted.repeated(f"{owner}:{key}", digest)
        try:
            jobs = self.store.repeated((key, digest), owner)
            found = None if jobs is None else ("known", [job.id for job in jobs])
        except IdempotencyConflict:
            found = "conflict", []
        self.agree("a repeated request", found, wanted)

    def place(self, job_id: str) -> int | None:
        ranked = self.wanted.ranked(f"waiting:{self.wanted.queue(job_id)}")
        return ranked.index(job_id) + 1 if job_id in ranked else None

    def claim(self) -> None:
        draw = self.random
        model = draw.choice(MODELS)
        priorities = draw.choice((list(Priority), list(Priority), [Priority.interactive], [Priority.bulk]))
        self.claim_for(model, f"{model}-{draw.choice(WORKERS)}", draw.choice(PROCESSES), priorities)

    def claim_for(self, model: str, worker: str, process: str, priorities: list[Priority]) -> Lease | None:
        lease = self.store.claim(model, worker, process, priorities)
        nonce = lease.token.partition("-")[2] if lease else ""
        error = {"code": "worker_lost", "message": Anything()}
        names = [each.value for each in priorities]
        wanted = self.wanted.claim(model, worker, process, names, nonce=lambda: nonce, error=error)
        self.say(worker, process, "->", lease and lease.job.id)
        self.agree("the job that is claimed", lease and lease.job.id, wanted)
        if lease:
            assert len(nonce) >= 12, f"the token {lease.token} can be guessed"
            self.agree("the attempt", lease.attempt, self.wanted.job(lease.job.id)["attempt"])
            self.agree(
                "its parameters",
                json.loads(lease.job.params.model_dump_json()),
                self.wanted.job(wanted or "")["params"],
            )
            self.leases.append(lease)
        return lease

    def return_one(self) -> None:
        """Two of a queue's jobs begin; the first is given back, and begins again."""
        draw, model = self.random, self.random.choice(MODELS)
        workers = [f"{model}-{each}" for each in WORKERS]
        free = [each for each in workers if not self.wanted.held_by(each)]
        queues = [draw.choice(tuple(Priority))]
        leases: list[Lease | None] = []
        for worker in free[:2]:
            leases.append(self.claim_for(model, worker, "p", queues))
            self.compare()
        if len(leases) == 2 and leases[0] and leases[1]:
            self.end_as(leases[0], draw.choice(("released", "worker_error")))
            self.compare()
            self.claim_for(model, free[0], "p", queues)

    def lease(self) -> Lease | None:
        """Of the latest, most often one that holds, and now and then one whose job has another attempt under way."""
        latest = self.leases[-12:]
        running = [each for each in latest if self.wanted.job(each.job.id).get("status") == "in_progress"]
        hold = [each for each in running if self.wanted.job(each.job.id)["token"] == each.token]
        overtaken = [each for each in running if each not in hold]
        among = self.random.choice((hold, hold, hold, overtaken, latest)) or latest
        return self.random.choice(among) if among else None

    def outcome(self, transition: Callable[[], None]) -> str:
        try:
            transition()
        except LeaseLost:
            return "lost"
        except JobCancelled:
            return "cancelled"
        return ""

    def tell(self) -> None:
        """A worker renews, or tells of its progress."""
        if not (lease := self.lease()):
            return
        draw, job_id, token = self.random, lease.job.id, lease.token
        told = []
        for _ in range(draw.choice((1, 1, 3))):
            progress = Progress(phase="denoising", step=draw.randrange(1, 4), steps=4)
            progress.preview_step, progress.resumed_from_step = draw.choice((None, 1, 2)), draw.choice((None, None, 1))
            told.append(progress)
        as_told = [json.loads(each.model_dump_json(exclude_none=True)) for each in told]
        what = draw.choice(("renew", "hear", "report", "preview"))
        if what == "preview" and progress.preview_step is not None:
            found = self.outcome(lambda: self.store.report_preview(lease, progress, b"webp"))
            wanted = self.wanted.preview(job_id, token, as_told[-1], "webp")
        elif what == "report":
            found = self.outcome(lambda: self.store.report_progress(lease, *told))
            wanted = self.wanted.renew(job_id, token, *as_told)
        elif what == "hear":
            found, wanted = self.outcome(lambda: self.store.hear(lease)), self.wanted.refusal(job_id, token)
        else:
            found, wanted = self.outcome(lambda: self.store.renew(lease)), self.wanted.renew(job_id, token)
        self.say(what, job_id, f"attempt {lease.attempt}", f"-> {found}")
        self.agree(f"to {what}", found, wanted)

    def end(self) -> None:
        if not (lease := self.lease()):
            return
        ways = ("completed", "completed", "failed", "worker_error", "cancelled", "released")
        self.end_as(lease, self.random.choice(ways))

    def end_as(self, lease: Lease, what: str) -> None:
        draw, job_id, token, params = self.random, lease.job.id, lease.token, lease.job.params
        if what == "completed":
            key = f"videos/{job_id}/{token}/video.mp4"
            file = Artifact(key=key, content_type="video/mp4", bytes=5, sha256="ab" * 32)
            timings = draw.choice(({}, {"loading": 9.0, "denoising": 2.5, "decoding": 1.25, "uploading": 0.5}))
            found = self.outcome(lambda: self.store.complete(lease, {"video": file}, REPORT, timings, ["odd"]))
            timed = {name: getattr(params, name) for name in ("width", "height", "num_frames", "steps")}
            timed |= {"guided": params.guidance_scale > 1, "denoising": 2.5, "rest": 1.75}
            wanted = self.wanted.end(
                job_id,
                token,
                what,
                preset=params.quality or "default",
                timed=timed if timings else None,
                artifacts={"video": file.model_dump()},
                report=json.loads(REPORT.model_dump_json()),
                timings=timings,
                warnings=["odd"],
            )
        else:
            ways: dict[str, Callable[[], None]] = {
                "failed": lambda: self.store.fail(lease, ERROR),
                "worker_error": lambda: self.store.requeue_after_worker_error(lease, ERROR),
                "cancelled": lambda: self.store.release_cancelled(lease),
                "released": lambda: self.store.release(lease),
            }
            found, wanted = self.outcome(ways[what]), self.wanted.end(job_id, token, what, error=TOLD)
        self.say(what, job_id, f"attempt {lease.attempt}", f"-> {found}")
        self.agree(f"an attempt that ends as {what}", found, wanted)

    def cancel(self) -> None:
        job_id = self.some_job()
        self.say(job_id)
        found, wanted = self.store.request_cancel(job_id), self.wanted.cancel(job_id)
        self.agree("a cancel", found and found.value, wanted)

    def delete(self) -> None:
        job_id = self.some_job()
        self.say(job_id)
        self.agree("a deletion", self.store.discard(job_id), self.wanted.delete(job_id))

    def look_after(self) -> None:
        """A chore of janitors."""
        store, wanted = self.store, self.wanted
        made_of_images = [each for each in wanted.keys["purge"] if wanted.job(each).get("inputs")]
        job_id = self.random.choice([self.some_job(), *list(wanted.keys["purge"])[:2], *made_of_images[:2]])
        codes = [{"code": code, "message": Anything()} for code in ("queue_timeout", *["model_not_served"] * 2)]
        chores: dict[str, Callable[[], tuple[Any, Any]]] = {
            "requeue": lambda: (sorted(store.requeue_expired()), self.requeued()),
            "time out": lambda: (sorted(store.time_out()), wanted.time_out(WAIT_MS, UNSERVED_MS, *codes)),
            "expire": lambda: (store.expire(), wanted.expire()),
            "purgeable": lambda: (store.take_purgeable(), wanted.take_due("purge", AGAIN_MS)),
            "untidy": lambda: (store.take_untidy(), wanted.take_due("leavings", AGAIN_MS)),
            "tidy": lambda: (store.note_tidy(job_id), wanted.note_tidy(job_id)),
            "leave inputs": lambda: (store.leave_inputs(job_id), wanted.leave_inputs(job_id)),
            "purge": lambda: (store.purge(job_id), wanted.purge(job_id)),
            "lost inputs": lambda: (store.take_lost_inputs(), wanted.take_lost_inputs()),
        }
        name = self.random.choice(list(chores))
        self.say(name, job_id)
        self.agree(name, *chores[name]())

    def images(self) -> None:
        folder = f"{self.random.getrandbits(128):032x}"
        self.folders.append(folder)
        with patch("adaspa_jobs.store.AWAITED_SECONDS", AWAITED_SECONDS / (HOUR_MS / AWAITED_MS)):
            self.store.await_inputs(folder)
        self.wanted.await_inputs(folder, AWAITED_MS)
        if lost := self.wanted.ranked("lost_inputs"):
            self.store.forget_inputs(lost[0])
            self.wanted.forget_inputs(lost[0])
        used = {
            each
            for each in self.folders
            if any(map(self.wanted.job, self.wanted.keys.get(f"inputs:{each}") or ()))
            or each in self.wanted.keys["awaited_inputs"]
        }
        self.agree("images in use", self.store.inputs_in_use(self.folders), used)

    def begin_worker(self) -> None:
        worker = f"{self.random.choice(MODELS)}-{self.random.choice(WORKERS)}"
        error = {"code": "worker_lost", "message": Anything()}
        self.agree("a worker's start", self.store.start_worker(worker), self.wanted.start_worker(worker, error))

    def announce(self) -> None:
        draw, model = self.random, self.random.choice(MODELS)
        worker = f"{model}-{draw.choice(WORKERS)}"
        spec = ModelSpec.model_validate(model_spec("builtin:demo", id=model, gpus=draw.choice((1, 2))))
        priorities = draw.choice((list(Priority), [Priority.interactive], [Priority.bulk]))
        most = {
            preset: {size: draw.choice((5, 9, 0)) for size in ("64x64", "96x64")[-sizes:]} for preset, sizes in KNOWN
        }
        fits = draw.choice((None, Fits(limit=9, frames=most), Fits(limit=9, frames=most)))
        self.say(worker, [each.value for each in priorities], fits and most)
        bells = self.store.announce(spec, worker, priorities, fits)
        wanted = self.wanted.announce(
            json.loads(spec.model_dump_json()),
            worker,
            [each.value for each in priorities],
            fits and json.loads(fits.model_dump_json()),
            holds_ms=HOLDS_MS,
            counts_ms=COUNTS_MS,
            remembers_ms=REMEMBERS_MS,
            digest=sha1(spec.model_dump_json().encode()).hexdigest(),
        )
        self.agree("bells", list(bells.values()), wanted)
        if draw.random() < 0.5:
            self.agree("models", sorted(each.id for each in self.store.announced()), self.wanted.announced())

    def upgrade(self) -> None:
        """A job turns out to need workers of a later version, or none any more."""
        job_id, version = self.some_job(), self.random.choice((1, 1, SCHEMA_VERSION + 1))
        if job := self.wanted.job(job_id):
            self.say(job_id, version)
            self.client.hset(f"adaspa:job:{job_id}", "schema_version", version)
            job["schema_version"] = version

    def ring(self) -> None:
        queue = queue_of(self.random.choice(MODELS), self.random.choice(("interactive", "bulk")))
        if self.wanted.bells[queue] and self.random.random() < 0.6:
            self.client.delete(f"generate.{queue}")
            self.wanted.bells[queue] = 0
        else:
            self.client.rpush(f"generate.{queue}", "bell")
            self.wanted.bells[queue] += 1

    def deliver(self) -> None:
        draw = self.random
        if draw.random() < 0.4 or not self.taken:
            limit = draw.choice((1, 2, 64))
            found = self.deliveries.take(limit)
            self.taken += found
            self.agree(
                "deliveries", [each.job_id for each in found], self.wanted.take(limit, ATTEMPT_MS, OWNER_ATTEMPTS)
            )
            return
        each = self.taken.pop(draw.randrange(len(self.taken)))
        outcome = draw.choice((Outcome.delivered, Outcome.rejected, Outcome.rejected, Outcome.gone))
        again = None if outcome in (Outcome.gone, Outcome.delivered) else draw.choice((0.0, 2.0, None))
        body = draw.choice((None, "a body"))
        self.say(each.job_id, outcome, again)
        self.deliveries.note(each, outcome, error="why", body=body, again_in=again)
        again_ms = None if again is None else round(again * 1000)
        told = {"lane": each.lane, "owner": each.owner, "error": "why", "body": body, "again": again_ms}
        self.wanted.note(each.job_id, outcome.value, kind=each.type, over=each.over_ms, **told)

    def operate(self) -> None:
        """An operator redelivers; what is too much is forgotten."""
        known = [*self.wanted.keys["webhooks"], *self.wanted.keys["webhooks_dead"], self.some_job()]
        job_id = self.random.choice(sorted(known))
        if self.random.random() < 0.5:
            self.say(job_id)
            self.agree("redelivery", self.deliveries.redeliver(job_id), self.wanted.redeliver(job_id))
        else:
            self.agree("what is dropped", self.deliveries.trim(), self.wanted.trim(DEAD_MS, KEPT))

    # What is read

    def read(self) -> None:
        """Look in some way, which changes nothing."""
        looks = (self.look_at_one, self.look_at_list, self.look_at_load, self.look_at_counts)
        self.random.choice(looks)()

    def look_at_one(self) -> None:
        job_id, job = self.some_job(), None
        found, wanted = self.store.look(job_id), self.wanted.job(job_id)
        self.agree(f"{job_id} is there", found is not None, bool(wanted))
        self.agree("jobs that are known", self.store.known([job_id]), {job_id} if wanted else set())
        if not found:
            return
        job = found.job
        self.agree(f"{job_id}: its place", found.position, self.place(job_id))
        self.agree(f"{job_id}: its place by another way", self.store.queue_position(job), self.place(job_id))
        for name in ("status", "attempt", "owner", "created_at", "priority", "cost", "worker_errors", "lost_attempts"):
            self.agree(f"{job_id}: its {name}", getattr(job, name), wanted.get(name, 0))
        for name in ("started_at", "completed_at", "expires_at", "user"):
            self.agree(f"{job_id}: its {name}", getattr(job, name), wanted.get(name))
        self.agree(f"{job_id}: its metadata", job.metadata, wanted.get("metadata", {}))
        self.agree(f"{job_id}: its warnings", job.warnings, wanted.get("warnings", []))
        self.agree(f"{job_id}: its error", job.error and job.error.code, wanted.get("error", {}).get("code"))
        self.agree(f"{job_id}: it is deleted", job.discarded, bool(wanted.get("discarded")))
        for owner in OWNERS:
            shown = owner == wanted["owner"] and not wanted.get("discarded")
            self.agree(f"{job_id} is shown to {owner}", found.is_shown_to(owner), shown)
        preview = self.wanted.keys.get(f"preview:{job_id}")
        self.agree(
            f"{job_id}: its preview", self.store.preview(job_id), (preview["step"], b"webp") if preview else None
        )

    def look_at_list(self) -> None:
        draw, owner = self.random, self.random.choice(OWNERS)
        order, limit = draw.choice(("asc", "desc")), draw.choice((1, 2, 5, 100))
        after = draw.choice((None, self.some_job()))
        listed = sorted(self.wanted.keys[f"jobs:{owner}"], reverse=order == "desc")
        behind = [each for each in listed if after is None or (each < after if order == "desc" else each > after)]
        jobs, cursor = self.store.page(after, limit, order, owner)  # type: ignore[arg-type]
        self.agree("a page", ([job.id for job in jobs], cursor is not None), (behind[:limit], len(behind) > limit))
        pairs = draw.choice(({"of": "odd"}, {"of": "even", "a": "b"}, {"of": "none"}))
        matching = [each for each in behind if pairs.items() <= self.wanted.job(each).get("metadata", {}).items()]
        jobs, cursor = self.store.page_with(pairs, after, limit, order, owner)  # type: ignore[arg-type]
        self.agree("a filtered page", [job.id for job in jobs], matching[:limit])
        left = matching[limit:]
        self.agree("more follow", cursor is not None, bool(left))
        if cursor:
            rest, _ = self.store.page_with(pairs, cursor, 100, order, owner)  # type: ignore[arg-type]
            self.agree("what follows", [job.id for job in rest], left)
        unfinished = [job.id for job in self.store.unfinished(owner)]
        self.agree("unfinished jobs", unfinished, sorted(self.wanted.keys.get(f"unfinished:{owner}") or ()))

    def look_at_load(self) -> None:
        wanted, model = self.wanted, self.random.choice(MODELS)
        load, running = self.store.load(model), self.wanted.keys[f"running:{model}"]
        live = [each for each, end in wanted.keys[f"workers:{model}"].items() if end >= wanted.steady]
        self.agree("live workers", load.workers, len(live))
        self.agree("running jobs", load.running, len(running))
        paces = wanted.keys.get(f"paces:{model}") or []
        self.near("pace", load.pace, median(paces) if paces else None)
        self.agree("announced since", load.since, wanted.keys["served_since"].get(model))
        for priority, queue in load.queues.items():
            name = queue_of(model, priority.value)
            waiting = wanted.keys[f"waiting:{name}"]
            serving = {each for each, end in wanted.keys[f"serving:{name}"].items() if end >= wanted.steady}
            known = wanted.keys[f"serving:{name}"]
            arrived = min(wanted.keys[f"arrivals:{name}"].values(), default=wanted.steady)
            self.agree("waiting jobs", queue.waiting, len(waiting))
            self.near("their cost", queue.cost, sum(wanted.job(each)["cost"] for each in waiting))
            self.near("how long the first has waited", queue.oldest_seconds, max(0, wanted.steady - arrived) / 1000)
            self.agree("workers of a queue", queue.workers, len(serving))
            there = [each for each in wanted.ranked(f"serving:{name}") if each in serving]
            kept = wanted.keys[f"fitting:{name}"]
            lately = [each for each in wanted.ranked(f"fitting:{name}") if kept[each] >= wanted.steady]
            gone = [each for each in lately if there and each not in serving]
            told = [wanted.keys[f"fits:{model}"].get(each) for each in (*there, *gone)]
            fits = [each and json.loads(each.model_dump_json()) for each in queue.fits]
            self.agree("what fits into them", fits, told)
            held = [
                ((wanted.steady - running[each]) / 1000, wanted.job(each)["cost"])
                for each in wanted.ranked(f"running:{model}")
                if wanted.job(each)["worker"] in known
            ]
            self.agree("jobs of its workers", len(queue.elapsed), len(held))
            for one, other in zip(queue.elapsed, held, strict=True):
                self.near("how long a job runs", one[0], other[0])
                self.near("its cost", one[1], other[1])
        times = {
            preset: [json.loads(each.model_dump_json()) for each in found]
            for preset, found in self.store.times(model).items()
        }
        expected = {preset: wanted.keys.get(f"times:{model}:{preset}") or [] for preset in times}
        self.agree("times of completed jobs", times, expected)

    def near(self, what: str, found: float | None, wanted: float | None) -> None:
        off = found is None or wanted is None or abs(found - wanted) > 1e-6 * (1 + abs(wanted))
        assert not off or (found is None and wanted is None), f"{what}: {found}, not {wanted}"

    def look_at_counts(self) -> None:
        totals, wanted = self.store.totals(), self.wanted.keys
        self.agree("jobs that ended", {"|".join(name): n for name, n in totals.ended.items()}, wanted["ended"])
        self.agree("leases lost", totals.leases_lost, wanted["leases_lost"])
        counts, told = self.deliveries.counts(), wanted["webhook_counts"]
        self.agree("deliveries", (counts.waiting, counts.dead), (len(wanted["webhooks"]), len(wanted["webhooks_dead"])))
        split = {f"attempts|{name}": n for name, n in counts.attempts.items()}
        self.agree("attempts", split | {f"ended|{name}": n for name, n in counts.ended.items()}, told)
        for state, name in (("waiting", "webhooks"), ("dead", "webhooks_dead")):
            ids = [job_id for job_id, _ in self.deliveries.ids(state)]  # type: ignore[arg-type]
            self.agree(f"{state} deliveries", ids, self.wanted.ranked(name)[::-1])


REFUSALS: dict[type[Exception], str] = {
    QueueFull: "full",
    TooManyInFlight: "in_flight",
    IdempotencyConflict: "conflict",
    InputsGone: "no_inputs",
    InputsLate: "late_inputs",
}
"""By what they are called in the scripts."""


@dataclass
class AsReferred(Scene):
    """A drawn order of requests."""

    orders: int = 8
    name = "by hand: drawn orders beside a reference"
    promise = "whatever is asked in whatever order, the store holds and says what the documents do"

    def play(self, stage: Stage) -> None:
        for _ in range(self.orders):
            with own_store() as client:
                Drawn(client, secrets.randbelow(10**6)).play()


SCENES: list[Scene] = [AsReferred()]
