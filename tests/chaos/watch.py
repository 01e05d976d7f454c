"""What has to hold in the store at every moment: looked at again and again, each time all of it in one script."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import redis

from chaos.fleet import MAX_ATTEMPTS

ENDS = ("completed", "failed", "cancelled")
EVERY_SECONDS, SHARE = 0.4, 0.1
"""Between two looks, at least; and the share of the time that looks may take."""
NONCE = 8
"""Characters of a token that no other attempt has, at least."""
TOLD = ("status", "attempt", "progress")
MOVING = ("status", "attempt", "progress", "discarded", "cancel_requested")
STILL_LOOKS, STILL_BEATS = 60, 8
"""After so many looks of janitors and beats of workers in which nothing moves, nothing will: half a minute or more."""
DUMP = """
local found = {}
for _, key in ipairs(redis.call('KEYS', 'adaspa:*')) do
  local kind = redis.call('TYPE', key).ok
  local name = string.sub(key, 8)
  if string.find(name, '^preview:') then
    found[name] = redis.call('HGET', key, 'step')
  elseif kind == 'stream' then
    local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
    found[name] = last and last[2]
  elseif kind == 'hash' then
    found[name] = redis.call('HGETALL', key)
  elseif kind == 'zset' then
    found[name] = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'set' then
    found[name] = redis.call('SMEMBERS', key)
  elseif kind == 'string' then
    found[name] = redis.call('GET', key)
  end
end
return cjson.encode(found)
"""


class Snapshot:
    """The store at one moment: keys without their prefix.

    Args:
        found: as the script gives them: hashes and sorted sets as lists of pairs, flat.
    """

    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found
        self.jobs = {name.removeprefix("job:"): self.pairs(name) for name in found if name.startswith("job:")}

    def pairs(self, name: str) -> dict[str, str]:
        """A hash, or a sorted set with its scores."""
        flat = self._found.get(name) or []
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def members(self, name: str) -> set[str]:
        """A set."""
        return set(self._found.get(name) or ())

    def named(self, prefix: str) -> dict[str, str]:
        """What follows a prefix in the names of keys, and these keys."""
        return {name.removeprefix(prefix): name for name in self._found if name.startswith(prefix)}

    def text(self, name: str) -> str:
        """A string."""
        return str(self._found.get(name, ""))

    def moved(self) -> Any:
        """What is another whenever anything happens to a job or its event."""
        jobs = {job_id: [job.get(name) for name in MOVING] for job_id, job in self.jobs.items()}
        return jobs, self.pairs("webhook_counts"), self.named("key:"), self.named("events:")

    def __contains__(self, name: str) -> bool:
        return name in self._found


def look(client: redis.Redis) -> Snapshot:
    """The store as it is now."""
    return Snapshot(json.loads(client.eval(DUMP, 0)))


def violations(store: Snapshot, max_attempts: int = MAX_ATTEMPTS) -> Iterator[str]:
    """What does not agree with what, where jobs have so many attempts."""
    for job_id, job in store.jobs.items():
        for what in of_a_job(store, job_id, job, max_attempts):
            yield f"{job_id} ({job.get('status')}): {what}"
    yield from of_queues(store)
    yield from of_sets(store)
    yield from of_keys_and_images(store)
    yield from of_webhooks(store)


def of_a_job(store: Snapshot, job_id: str, job: dict[str, str], max_attempts: int) -> Iterator[str]:
    """What is wrong with one job."""
    yield from where_it_stands(store, job_id, job)
    status, attempt, ended = job["status"], int(job["attempt"]), job["status"] in ENDS
    hidden = job.get("discarded") == "1"
    token = job.get("token", "").partition("-")
    running = status == "in_progress"
    lost, failed = int(job["lost_attempts"]), int(job.get("worker_errors", 0))
    told = store.pairs(f"events:{job_id}")
    known = store.pairs(f"idempotency:{job.get('idempotency')}").get("batch", "").split(",")
    for wrong, what in (
        (running and store.pairs("leases_by_worker").get(job["worker"]) != job_id, "its worker does not hold it"),
        (attempt > 0 and (token[0] != str(attempt) or len(token[2]) < NONCE), f"has the token {job.get('token')}"),
        (status == "queued" and (hidden or job.get("cancel_requested") == "1"), "waits, though cancelled or deleted"),
        (("started_at" in job) != (attempt > 0), f"started at {job.get('started_at')}, at attempt {attempt}"),
        (max(lost, failed) > attempt, f"lost {lost} and failed {failed} of {attempt} attempts"),
        (
            not ended and max(lost, failed) >= max_attempts,
            f"lost {lost}, failed {failed}, of {max_attempts} allowed",
        ),
        (ended and f"preview:{job_id}" in store, "has a preview"),
        (ended != ("completed_at" in job) or ended != ("expires_at" in job), "has no time of its end, or one too many"),
        (any(told.get(name) != job.get(name) for name in TOLD), f"its last event is {told}"),
        (not hidden and job.get("idempotency") and job_id not in known, "its Idempotency-Key does not know it"),
    ):
        if wrong:
            yield what
    for artifact in json.loads(job.get("artifacts", "{}")).values():
        if artifact["key"].split("/")[2] != job["token"]:
            yield f"its file is {artifact['key']}, its token {job['token']}"


def where_it_stands(store: Snapshot, job_id: str, job: dict[str, str]) -> Iterator[str]:
    """Where one job stands, and where it must not."""
    status, owner, model, queue = job["status"], job["owner"], job["model"], queue_of(job)
    ended, hidden = status in ENDS, job.get("discarded") == "1"
    for name, there in {
        f"waiting:{queue}": status == "queued",
        f"waiting_by_owner:{queue}:{owner}": status == "queued",
        f"arrivals:{queue}": status == "queued",
        f"running:{model}": status == "in_progress",
        "leases": status == "in_progress",
        "expiry": ended and not hidden,
        "purge": ended and hidden,
        f"jobs:{owner}": not hidden,
    }.items():
        if (job_id in store.pairs(name)) != there:
            yield f"is {'not ' if there else ''}in {name}"
    if (job_id in store.members(f"unfinished:{owner}")) == ended:
        yield f"is {'' if ended else 'not '}in unfinished:{owner}"
    if job_id in store.pairs("leavings") and (not ended or hidden):
        yield "is in leavings"
    if (folder := job.get("inputs")) and not hidden and job_id not in store.members(f"inputs:{folder}"):
        yield f"does not share the images {folder}, of which it is made"


def queue_of(job: dict[str, str]) -> str:
    """The queue that it waits in."""
    return f"{job['model']}:bulk" if job["priority"] == "bulk" else job["model"]


def of_queues(store: Snapshot) -> Iterator[str]:
    """What is counted of each queue."""
    for queue, name in store.named("waiting:").items():
        waiting = store.pairs(name)
        by_owner: dict[str, int] = defaultdict(int)
        cost = 0.0
        for job_id, place in waiting.items():
            if job := store.jobs.get(job_id):
                by_owner[job["owner"]] += 1
                cost += float(job["cost"])
                if store.pairs(f"waiting_by_owner:{queue}:{job['owner']}").get(job_id) != place:
                    yield f"{job_id}: has two places in {queue}"
        owned = {owner: int(count) for owner, count in store.pairs(f"owned:{queue}").items()}
        if owned != by_owner:
            yield f"queue {queue}: {owned} are counted by owner, {dict(by_owner)} wait"
        if abs(float(store.pairs("backlog").get(queue, 0)) - cost) > 1e-6 * (1 + cost):
            yield f"queue {queue}: a backlog of {store.pairs('backlog').get(queue)} is counted, {cost} waits"
    for queue in store.pairs("backlog"):
        if f"waiting:{queue}" not in store:
            yield f"queue {queue}: is empty, with a backlog"


def of_sets(store: Snapshot) -> Iterator[str]:
    """What stands in the store's sets has to be a job that may."""
    kinds = ("waiting:", "waiting_by_owner:", "arrivals:")
    may: dict[str, tuple[str, ...]] = {name: ("queued",) for kind in kinds for name in store.named(kind).values()}
    may |= dict.fromkeys(store.named("running:").values(), ("in_progress",))
    may |= {"leases": ("in_progress",), "expiry": ENDS, "purge": ENDS, "leavings": ENDS}
    for name, statuses in may.items():
        for job_id in store.pairs(name):
            if (status := store.jobs.get(job_id, {}).get("status")) not in statuses:
                yield f"{job_id} ({status}): is in {name}"
    for worker, job_id in store.pairs("leases_by_worker").items():
        job = store.jobs.get(job_id, {})
        if (job.get("status"), job.get("worker")) != ("in_progress", worker):
            yield f"{job_id} ({job.get('status')}, of {job.get('worker')}): worker {worker} holds it"
    for owner, name in store.named("unfinished:").items():
        for job_id in store.members(name):
            job = store.jobs.get(job_id, {})
            if job.get("owner") != owner or job.get("status") in ENDS:
                yield f"{job_id} ({job.get('status')}): is in {name}"


def of_keys_and_images(store: Snapshot) -> Iterator[str]:
    """An Idempotency-Key stands for a job that is there; images are shared by jobs that are made of them."""
    for key, name in store.named("idempotency:").items():
        first, owner = store.jobs.get(store.pairs(name)["id"], {}), key.partition(":")[0]
        if not first or first.get("discarded") == "1" or first["owner"] != owner:
            yield f"a key of {owner} stands for {store.pairs(name)['id']}, which is gone or another's"
    for folder, name in store.named("inputs:").items():
        for job_id in store.members(name):
            if store.jobs.get(job_id, {}).get("inputs") != folder:
                yield f"{job_id}: shares the images {folder}, which are not its own"


def of_webhooks(store: Snapshot) -> Iterator[str]:
    """Each delivery waits in its lane, or was given up."""
    waiting, dead, lanes = store.pairs("webhooks"), store.pairs("webhooks_dead"), store.pairs("webhook_lanes")
    known = store.named("webhook:")
    for job_id, name in known.items():
        lane = store.pairs(name)["lane"]
        queued = job_id in store.pairs(f"webhook_lane:{lane}")
        waits = job_id in waiting
        if waits == (job_id in dead) or queued != waits or (queued and lane not in lanes):
            yield f"{job_id}: its webhook waits ({waits}), was given up ({job_id in dead}), is in its lane ({queued})"
    for job_id in (waiting | dead).keys() - known.keys():
        yield f"{job_id}: a webhook is due that is not there"


def between(was: Snapshot, now: Snapshot) -> Iterator[str]:
    """What may not become of what was."""
    for job_id in was.jobs.keys() & now.jobs.keys():
        old, new = was.jobs[job_id], now.jobs[job_id]
        if int(new["attempt"]) < int(old["attempt"]):
            yield f"{job_id}: was at attempt {old['attempt']}, and is at {new['attempt']}"
        if new["attempt"] == old["attempt"] and new.get("token") != old.get("token"):
            yield f"{job_id}: has two tokens at attempt {old['attempt']}"
        if old["status"] in ENDS:
            for name in old.keys() - {"discarded", "cancel_requested"}:
                if new.get(name) != old[name]:
                    yield f"{job_id}: has ended, and its {name} was {old[name][:80]} and is {str(new.get(name))[:80]}"
        for name in ("owner", "params", "created_at", "cost", "priority", "metadata", "webhook_url", "inputs"):
            if new.get(name) != old.get(name):
                yield f"{job_id}: its {name} changed from {old.get(name)} to {new.get(name)}"
        if old.get("discarded") == "1" and new.get("discarded") != "1":
            yield f"{job_id}: was deleted, and is back"


class Watch:
    """A thread that looks while the service works.

    Args:
        client: of the service's Redis.
        epoch: tells how many times power was cut: nothing is compared beyond that.
    """

    def __init__(self, client: redis.Redis, epoch: Any) -> None:
        self.broken: list[str] = []
        self.looks = 0
        self._still = self._beats = 0
        self._seen: tuple[Any, ...] = ()
        self._client, self._epoch = client, epoch
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def standstill(self) -> int:
        """For how many looks nothing moved, though gateways and workers are at work; 0 as long as that may be well."""
        return self._still if self._still >= STILL_LOOKS and self._beats >= STILL_BEATS else 0

    def begin_anew(self) -> None:
        """Count from now on: what stood still until now was to."""
        self._seen, self._still, self._beats = (), 0, 0

    def _note(self, now: Snapshot) -> None:
        """Count how long nothing has moved, by what gateways and workers do meanwhile."""
        moved, swept, beaten = now.moved(), now.text("swept_at"), now.pairs("served_at")
        if not self._seen or self._seen[0] != moved:
            self._still = self._beats = 0
        else:
            self._still += self._seen[1] != swept
            self._beats += self._seen[2] != beaten
        self._seen = moved, swept, beaten

    def _go(self) -> None:
        before: tuple[int, Snapshot] | None = None
        took = 0.0
        while not self._stopping.wait(max(EVERY_SECONDS, took / SHARE)) and not self.broken:
            began, epoch = time.monotonic(), self._epoch()
            with suppress(redis.RedisError):
                now = look(self._client)
                if epoch != self._epoch():
                    continue
                self.looks += 1
                found = [*violations(now)]
                if before and before[0] == epoch:
                    found += between(before[1], now)
                self.broken += found
                self._note(now)
                took = time.monotonic() - began
                before = epoch, now
