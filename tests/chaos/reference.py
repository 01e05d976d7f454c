"""What the store has to hold after each transition, in plain Python: beside it the real one is compared, key by key.

Times are whole milliseconds of the clock that the scripts read. Keys are named as in ``lua/_shared.lua``.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from adaspa_jobs.job import SCHEMA_VERSION

from chaos.watch import ENDS

GAP_MS = 3000
LANES = 4
"""Deliveries that one receiver gets at a time."""
EVENTS = "events:"
PREFERRED = ("interactive", "bulk")
"""Priorities, the one first that goes first where both have had as much."""


class Anything:
    """Equal to whatever stands there: a text for people."""

    def __eq__(self, _: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Reference:
    """A store that does what the documents say.

    Args:
        lease_ms, max_attempts, queue_cap, ttl_ms, bulk_share: as of the real one.
    """

    def __init__(self, *, lease_ms: int, max_attempts: int, queue_cap: int, ttl_ms: int, bulk_share: float) -> None:
        self.lease_ms, self.max_attempts, self.queue_cap = lease_ms, max_attempts, queue_cap
        self.ttl_ms, self.share = ttl_ms, {"bulk": bulk_share, "interactive": 1 - bulk_share}
        self.us = 0
        self.keys: dict[str, Any] = defaultdict(dict)
        """Hashes and sorted sets as dictionaries, sets as sets, streams as lists, strings as numbers."""
        self.bells: dict[str, int] = defaultdict(int)
        """Messages in the broker's lists, by queue."""

    @property
    def now(self) -> int:
        return self.us // 1000

    @property
    def steady(self) -> int:
        """Time that passed while janitors looked."""
        return self.now - int(self.keys.get("skipped") or 0)

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.keys[f"job:{job_id}"]
        return found

    def jobs(self) -> list[str]:
        return sorted(
            name.removeprefix("job:") for name, value in self.keys.items() if name.startswith("job:") and value
        )

    def queue(self, job_id: str) -> str:
        return queue_of(self.job(job_id)["model"], self.job(job_id)["priority"])

    def ranked(self, name: str) -> list[str]:
        """Members of a sorted set in their order."""
        return [member for member, _ in sorted(self.keys[name].items(), key=lambda item: (item[1], item[0]))]

    def until(self, name: str, score: float) -> list[str]:
        return [member for member in self.ranked(name) if self.keys[name][member] <= score]

    # Parts of transitions

    def look(self) -> None:
        """A janitor looks: time in which none did does not count."""
        last, longest = self.keys.get("swept_at"), max(self.lease_ms / 3, GAP_MS)
        passed = self.now - int(last or self.now)
        if not last or passed < 0 or passed > longest / 4:
            self.keys["swept_at"] = self.now
        if passed < 0 or passed > longest:
            self.keys["skipped"] = int(self.keys.get("skipped") or 0) + passed
            self.keys["leases"] = dict.fromkeys(self.keys["leases"], self.now + self.lease_ms)
        self.keys["leases"] = {
            job_id: min(end, self.now + self.lease_ms) for job_id, end in self.keys["leases"].items()
        }

    def emit(self, job_id: str, kind: str) -> None:
        job = self.job(job_id)
        told = {"type": kind, **{name: job[name] for name in ("status", "attempt", "progress")}}
        self.keys.setdefault(EVENTS + job_id, []).append(told)

    def refusal(self, job_id: str, token: str) -> str:
        job = self.job(job_id)
        if job.get("status") != "in_progress" or job.get("token") != token:
            return "lost"
        return "cancelled" if job.get("cancel_requested") else ""

    def note_usage(self, job_id: str, what: str, amount: int) -> None:
        job, day = self.job(job_id), self.keys[f"usage:{self.now // 86_400_000}"]
        name = f"{job['owner']}|{job['model']}|{what}"
        day[name] = day.get(name, 0) + amount

    def gpus(self, model: str) -> int:
        return int(self.keys["served"][model]["gpus"]) if model in self.keys["served"] else 1

    def begin_attempt(self, job_id: str, nonce: str) -> None:
        job = self.job(job_id)
        job["attempt"] += 1
        job["token"] = f"{job['attempt']}-{nonce}"
        job["lease_ms"] = f"{self.lease_ms} {job['attempt']}"
        job["gpus"] = ""
        job["progress"] = {"phase": "loading", "step": 0, "steps": job["params"]["steps"]}

    def leave_running(self, job_id: str) -> None:
        job = self.job(job_id)
        running, worker = self.keys[f"running:{job['model']}"], job.get("worker")
        if job_id in running:
            ran = max(0, self.steady - running.pop(job_id))
            job["ran_ms"] = job.get("ran_ms", 0) + ran
            self.note_usage(job_id, "gpu_ms", ran * self.gpus(job["model"]))
        self.keys["leases"].pop(job_id, None)
        if worker and self.keys["leases_by_worker"].get(worker) == job_id:
            del self.keys["leases_by_worker"][worker]

    def had(self, model: str, priority: str) -> float:
        """The cost of what was begun of a priority, over its share."""
        return float(self.keys[f"share:{model}"].get(priority, 0.0))

    def join_queue(self, job_id: str, place: float | None = None) -> None:
        job, queue = self.job(job_id), self.queue(job_id)
        waiting, owner, model = self.keys[f"waiting:{queue}"], job["owner"], job["model"]
        if not waiting:
            present = self.had(model, "present")
            self.keys[f"share:{model}"][job["priority"]] = max(self.had(model, job["priority"]), present)
        if place is None:
            owners = self.keys[f"owners:{queue}"]
            place = max(self.keys["virtual"].get(queue, 0.0), owners.get(owner, 0.0))
            owners[owner] = place + job["cost"]
        job |= {
            "status": "queued",
            "worker": "",
            "progress": {"phase": "queued", "step": 0, "steps": job["params"]["steps"]},
        }
        self.keys.setdefault("queues", set()).add(queue)
        waiting[job_id] = self.keys[f"waiting_by_owner:{queue}:{owner}"][job_id] = place
        self.keys[f"arrivals:{queue}"][job_id] = self.steady
        self.keys["backlog"][queue] = self.keys["backlog"].get(queue, 0.0) + job["cost"]
        self.keys[f"owned:{queue}"][owner] = self.keys[f"owned:{queue}"].get(owner, 0) + 1
        self.emit(job_id, "queued")

    def leave_queue(self, job_id: str) -> bool:
        job, queue = self.job(job_id), self.queue(job_id)
        owner, waiting, owned = job["owner"], self.keys[f"waiting:{queue}"], self.keys[f"owned:{queue}"]
        if job_id not in waiting:
            return False
        for name in (f"waiting:{queue}", f"waiting_by_owner:{queue}:{owner}", f"arrivals:{queue}"):
            del self.keys[name][job_id]
        self.keys["backlog"][queue] -= job["cost"]
        if not waiting:
            del self.keys["backlog"][queue]
        owned[owner] -= 1
        if not owned[owner]:
            del owned[owner]
        return True

    def lacking(self, queue: str) -> int:
        return max(0, len(self.keys[f"waiting:{queue}"]) - self.bells[queue])

    def finish(self, job_id: str, status: str) -> None:
        """Every end."""
        job, queue = self.job(job_id), self.queue(job_id)
        owner, cost = job["owner"], job["cost"]
        self.leave_running(job_id)
        place = self.keys[f"waiting:{queue}"].get(job_id)
        if self.leave_queue(job_id):
            mine = self.keys[f"waiting_by_owner:{queue}:{owner}"]
            for other in [each for each, at in mine.items() if at > place]:
                mine[other] = self.keys[f"waiting:{queue}"][other] = mine[other] - cost
            if owner in self.keys[f"owners:{queue}"]:
                self.keys[f"owners:{queue}"][owner] -= cost
        code = job["error"]["code"] if status == "failed" and "error" in job else ""
        ended = self.keys["ended"]
        name = f"{job['model']}|{status}|{code}"
        ended[name] = ended.get(name, 0) + 1
        self.note_usage(job_id, status, 1)
        self.keys[f"unfinished:{owner}"] -= {job_id}
        self.keys.pop(f"preview:{job_id}", None)
        job |= {"status": status, "completed_at": self.now // 1000, "expires_at": (self.now + self.ttl_ms) // 1000}
        if job.get("discarded"):
            self.keys["purge"][job_id] = 0
        else:
            self.keys["expiry"][job_id] = self.steady + self.ttl_ms
            if job["attempt"]:
                self.keys["leavings"][job_id] = 0
            if url := job.get("webhook_url"):
                self.owe(job_id, url, status)
        self.emit(job_id, status)

    def discard(self, job_id: str) -> None:
        job = self.job(job_id)
        job["discarded"] = 1
        self.keys[f"jobs:{job['owner']}"].pop(job_id, None)
        for name in ("expiry", "leavings"):
            self.keys[name].pop(job_id, None)
        if (key := job["idempotency"]) and job_id in self.keys[f"idempotency:{key}"].get("batch", ""):
            del self.keys[f"idempotency:{key}"]
        if job["status"] in ENDS:
            self.keys["purge"][job_id] = 0
            return
        job["cancel_requested"] = 1
        if job["status"] == "queued":
            self.finish(job_id, "cancelled")

    def lose_worker(self, job_id: str, error: Any) -> bool:
        job = self.job(job_id)
        job["lost_attempts"] += 1
        lost = self.keys["leases_lost"]
        lost[job["model"]] = lost.get(job["model"], 0) + 1
        if job.get("cancel_requested"):
            self.finish(job_id, "cancelled")
        elif job["lost_attempts"] >= self.max_attempts:
            job["error"] = error
            self.finish(job_id, "failed")
        else:
            self.leave_running(job_id)
            self.join_queue(job_id)
            return True
        return False

    def held_by(self, worker: str) -> str | None:
        job_id = self.keys["leases_by_worker"].get(worker)
        return job_id if job_id and self.job(job_id).get("worker") == worker else None

    # What gateways ask

    def repeated(self, key: str, digest: str) -> tuple[str, list[str]] | None:
        known = self.keys[f"idempotency:{key}"]
        if not known:
            return None
        if known["digest"] != digest:
            return "conflict", []
        ids = known["batch"].split(",")
        return "known", [each for each in ids if self.job(each) and not self.job(each).get("discarded")]

    def admit(
        self,
        *,
        owner: str,
        model: str,
        priority: str,
        params: list[dict[str, Any]],
        cost: float,
        new_ids: Callable[[], list[str]],
        key: str | None = None,
        digest: str = "",
        max_in_flight: int | None = None,
        folder: str | None = None,
        shared: bool = False,
        **noted: Any,
    ) -> tuple[str, list[str], int]:
        """How the request ends, its jobs, and the bells that are to be rung."""
        count, queue = len(params), queue_of(model, priority)
        if key and (known := self.repeated(key, digest)):
            return *known, 0
        if folder and shared and not self.keys.get(f"inputs:{folder}"):
            return "no_inputs", [], 0
        if folder and not shared and folder not in self.keys["awaited_inputs"]:
            return "late_inputs", [], 0
        unfinished = self.keys.setdefault(f"unfinished:{owner}", set())
        if max_in_flight is not None and len(unfinished) + count > max_in_flight:
            return "in_flight", [], 0
        owned = self.keys[f"owned:{queue}"]
        if len(self.keys[f"waiting:{queue}"]) + count > self.queue_cap:
            even = self.queue_cap / len({*owned, owner})
            if owned.get(owner, 0) + count > even:
                return "full", [], 0
        if folder and not shared:
            del self.keys["awaited_inputs"][folder]
        ids = new_ids()
        assert len(ids) == count, f"{len(ids)} jobs of {count}"
        for number, (job_id, asked) in enumerate(zip(ids, params, strict=True)):
            self.keys["last_id"] = max(self.us, int(self.keys.get("last_id") or 0) + 1)
            stamp = f"video_{self.keys['last_id']:014x}"
            assert job_id.startswith(stamp), f"{job_id}: is not of its time, {stamp}"
            self.job(job_id).update(
                {"owner": owner, "model": model, "params": asked, "created_at": self.now // 1000, "attempt": 0},
                lost_attempts=0,
                schema_version=1,
                priority=priority,
                cost=cost,
                trace="",
                idempotency=key if key and not number else "",
                **{name: value for name, value in noted.items() if value is not None},
            )
            if folder:
                self.job(job_id)["inputs"] = folder
                self.keys.setdefault(f"inputs:{folder}", set()).add(job_id)
            self.keys[f"jobs:{owner}"][job_id] = 0
            unfinished.add(job_id)
            self.join_queue(job_id)
        if key:
            self.keys[f"idempotency:{key}"] = {"id": ids[0], "digest": digest, "batch": ",".join(ids)}
        return "created", ids, min(count, self.lacking(queue))

    def cancel(self, job_id: str) -> str | None:
        job = self.job(job_id)
        if not job:
            return None
        if job["status"] not in ENDS:
            job["cancel_requested"] = 1
        if job["status"] == "queued":
            self.finish(job_id, "cancelled")
        return str(job["status"])

    def delete(self, job_id: str) -> bool:
        job = self.job(job_id)
        if not job or job.get("discarded"):
            return False
        self.discard(job_id)
        self.forget(job_id)
        return True

    # What workers ask

    def claim(
        self, model: str, worker: str, process: str, priorities: list[str], *, nonce: Callable[[], str], error: Any
    ) -> str | None:
        """The job of which an attempt begins."""
        if held := self.held_by(worker):
            if self.job(held)["process"] == process:
                self.begin_attempt(held, nonce())
                self.keys["leases"][held] = self.now + self.lease_ms
                self.emit(held, "in_progress")
                return held
            self.lose_worker(held, error)
        own = self.keys[f"fits:{model}"].get(worker)
        for priority in sorted(priorities, key=lambda each: (self.had(model, each), PREFERRED.index(each))):
            queue = queue_of(model, priority)
            living = (*self.keys[f"serving:{queue}"].items(), *self.keys[f"fitting:{queue}"].items())
            live = [each for each, end in living if end >= self.steady and each != worker]
            for job_id in self.ranked(f"waiting:{queue}"):
                asked = self.job(job_id)["params"]
                if self.job(job_id)["schema_version"] > SCHEMA_VERSION:
                    continue
                others = [self.keys[f"fits:{model}"].get(each) for each in live]
                if fit(own, asked) or not any(fit(each, asked) for each in others):
                    self.begin(job_id, model, priority, queue)
                    self.begin_attempt(job_id, nonce())
                    job = self.job(job_id)
                    job |= {"status": "in_progress", "worker": worker, "process": process}
                    job.setdefault("started_at", self.now // 1000)
                    self.keys[f"running:{model}"][job_id] = self.steady
                    self.keys["leases"][job_id] = self.now + self.lease_ms
                    self.keys["leases_by_worker"][worker] = job_id
                    self.emit(job_id, "in_progress")
                    return job_id
        return None

    def begin(self, job_id: str, model: str, priority: str, queue: str) -> None:
        place = self.keys[f"waiting:{queue}"][job_id]
        present = self.keys["virtual"][queue] = max(self.keys["virtual"].get(queue, 0.0), place)
        self.job(job_id)["place"] = place
        self.leave_queue(job_id)
        owners = self.keys[f"owners:{queue}"]
        for owner in [each for each, end in owners.items() if end <= present]:
            del owners[owner]
        shares = self.keys[f"share:{model}"]
        shares["present"] = max(self.had(model, priority), self.had(model, "present"))
        shares[priority] = self.had(model, priority) + self.job(job_id)["cost"] / self.share[priority]

    def renew(self, job_id: str, token: str, *told: Any) -> str:
        """Renew a lease, and publish progress, each with an event of its own."""
        if refused := self.refusal(job_id, token):
            return refused
        self.keys["leases"][job_id] = self.now + self.lease_ms
        for progress in told:
            self.job(job_id)["progress"] = progress
            self.emit(job_id, "progress")
        return ""

    def preview(self, job_id: str, token: str, progress: Any, image: str) -> str:
        if refused := self.refusal(job_id, token):
            return refused
        self.keys[f"preview:{job_id}"] = {"step": progress["preview_step"], "image": image}
        self.job(job_id)["progress"] = progress
        self.emit(job_id, "preview")
        return ""

    def end(
        self,
        job_id: str,
        token: str,
        outcome: str,
        *,
        error: Any = None,
        preset: str = "",
        timed: Any = None,
        **made: Any,
    ) -> str:
        job = self.job(job_id)
        if job.get("token") != token:
            return "lost"
        status, cancelled = job["status"], bool(job.get("cancel_requested"))
        comes_to = "queued" if outcome in ("released", "worker_error") else outcome
        if status == comes_to or (outcome == "worker_error" and status == "failed"):
            return ""
        if status != "in_progress" and (outcome, status) != ("completed", "queued"):
            return "lost"
        if cancelled != (outcome == "cancelled"):
            return "cancelled" if cancelled else "lost"
        if outcome == "completed":
            job |= made
            began = self.keys[f"running:{job['model']}"].get(job_id)
            if began is not None and not job["progress"].get("resumed_from_step"):
                self.push(f"paces:{job['model']}", float(f"{max(0, self.steady - began) / 1000 / job['cost']:.6g}"))
                if timed:
                    self.push(f"times:{job['model']}:{preset}", timed)
        if outcome == "worker_error":
            job["worker_errors"] = job.get("worker_errors", 0) + 1
            if job["worker_errors"] >= self.max_attempts:
                comes_to = "failed"
        if comes_to == "queued":
            self.leave_running(job_id)
            self.join_queue(job_id, job["place"])
        else:
            if comes_to == "failed":
                job["error"] = error
            self.finish(job_id, comes_to)
        return ""

    def push(self, name: str, value: Any) -> None:
        self.keys[name] = [value, *(self.keys.get(name) or [])][:50]

    def start_worker(self, worker: str, error: Any) -> str | None:
        held = self.held_by(worker)
        return held if held and self.lose_worker(held, error) else None

    def announce(
        self,
        spec: dict[str, Any],
        worker: str,
        priorities: list[str],
        fits: Any,
        *,
        holds_ms: int,
        counts_ms: int,
        remembers_ms: int,
        digest: str,
    ) -> list[int]:
        model = spec["id"]
        workers, entries = self.keys[f"workers:{model}"], self.keys[f"entries:{model}"]
        by = self.keys["served_by"].get(model)
        gone = workers.get(by, self.steady) <= self.steady
        if entries.get(worker) != digest or by == worker or gone or model not in self.keys["served"]:
            self.keys["served"][model], self.keys["served_by"][model] = spec, worker
        entries[worker] = digest
        self.keys["served_since"].setdefault(model, self.now // 1000)
        self.keys["served_until"][model] = self.steady + holds_ms
        workers[worker] = self.steady + counts_ms
        told, fitting = self.keys[f"fits:{model}"], [f"fitting:{queue_of(model, each)}" for each in PREFERRED]
        told.pop(worker, None)
        if fits:
            told[worker] = fits
        for priority, key in zip(PREFERRED, fitting, strict=True):
            self.keys[key].pop(worker, None)
            if fits and priority in priorities:
                self.keys[key][worker] = self.steady + remembers_ms
            for gone in self.until(key, self.steady):
                del self.keys[key][gone]
        for gone in told.keys() - {each for key in fitting for each in self.keys[key]}:
            del told[gone]
        for gone in self.until(f"workers:{model}", self.steady):
            del workers[gone]
            entries.pop(gone, None)
            for priority in PREFERRED:
                self.keys[f"serving:{queue_of(model, priority)}"].pop(gone, None)
        for priority in set(PREFERRED) - set(priorities):
            self.keys[f"serving:{queue_of(model, priority)}"].pop(worker, None)
        bells = []
        for priority in priorities:
            queue = queue_of(model, priority)
            lacking = self.lacking(queue)
            if lacking and abs(self.now - self.keys["rung"].get(queue, 0)) < 1000:
                lacking = 0
            elif lacking:
                self.keys["rung"][queue] = self.now
            bells.append(min(lacking, 100))
            self.keys[f"serving:{queue}"][worker] = self.steady + counts_ms
            self.keys["served_at"][queue] = self.steady
        return bells

    def announced(self) -> list[str]:
        for model in self.until("served_until", self.steady):
            del self.keys["served"][model], self.keys["served_until"][model]
        return sorted(self.keys["served"])

    # What janitors ask

    def requeue(self, error: Any) -> list[str]:
        self.look()
        due = self.until("leases", self.now)[:100]
        return [job_id for job_id in due if self.lose_worker(job_id, error)]

    def time_out(self, wait_ms: int, unserved_ms: int, timed_out: Any, unserved: Any, unoffered: Any) -> list[str]:
        self.look()
        failed: list[str] = []

        def fail(queue: str, before: int, error: Any) -> None:
            for job_id in self.until(f"arrivals:{queue}", before)[:100]:
                self.job(job_id)["error"] = error
                self.finish(job_id, "failed")
                failed.append(job_id)

        for queue in self.keys.get("queues") or ():
            fail(queue, self.steady - wait_ms, timed_out)
            if self.steady - self.keys["served_at"].get(queue, 0) > unserved_ms:
                fail(queue, self.steady - unserved_ms, unserved)
        return sorted(failed)

    def expire(self) -> int:
        self.look()
        due = self.until("expiry", self.steady)[:100]
        for job_id in due:
            self.discard(job_id)
        return len(due)

    def take_due(self, name: str, again_ms: int) -> list[str]:
        self.look()
        due = self.until(name, self.steady)[:100]
        self.keys[name] |= dict.fromkeys(due, self.steady + again_ms)
        return due

    def note_tidy(self, job_id: str) -> None:
        self.keys["leavings"].pop(job_id, None)

    def purge(self, job_id: str) -> bool:
        job = self.job(job_id)
        if job and (job["status"] not in ENDS or not job.get("discarded")):
            return False
        self.keys.pop(f"job:{job_id}", None)
        self.keys.pop(EVENTS + job_id, None)
        self.keys["purge"].pop(job_id, None)
        return True

    def leave_inputs(self, job_id: str) -> str | None:
        job = self.job(job_id)
        folder = job.get("inputs")
        if not folder or job["status"] not in ENDS or not job.get("discarded"):
            return None
        sharing = self.keys[f"inputs:{folder}"] - {job_id}
        known = {each for each in sharing if self.job(each)}
        self.keys[f"inputs:{folder}"] = sharing if known else set()
        return None if known else str(folder)

    def await_inputs(self, folder: str, wait_ms: int) -> None:
        self.keys["awaited_inputs"][folder] = self.steady + wait_ms

    def take_lost_inputs(self) -> list[str]:
        for folder in self.until("awaited_inputs", self.steady)[:100]:
            del self.keys["awaited_inputs"][folder]
            self.keys["lost_inputs"][folder] = 0
        return self.ranked("lost_inputs")[:100]

    def forget_inputs(self, folder: str) -> None:
        self.keys.pop(f"inputs:{folder}", None)
        for name in ("awaited_inputs", "lost_inputs"):
            self.keys[name].pop(folder, None)

    # Webhooks

    def owe(self, job_id: str, url: str, status: str) -> None:
        lane = f"{urlsplit(url).netloc}#{int(job_id[-1], 16) % LANES}"
        self.keys[f"webhook:{job_id}"] = {"type": f"video.{status}", "owner": self.job(job_id)["owner"], "url": url}
        self.keys[f"webhook:{job_id}"] |= {"lane": lane, "attempts": 0, "record": dict(self.job(job_id))}
        self.schedule(job_id, lane, self.now)

    def schedule(self, job_id: str, lane: str, due: int) -> None:
        self.keys["webhooks"][job_id] = self.keys[f"webhook_lane:{lane}"][job_id] = due
        self.keys["webhook_lanes"][lane] = min(due, self.keys["webhook_lanes"].get(lane, math.inf))

    def forget(self, job_id: str) -> None:
        if lane := self.keys[f"webhook:{job_id}"].get("lane"):
            self.keys[f"webhook_lane:{lane}"].pop(job_id, None)
        for name in ("webhooks", "webhooks_dead"):
            self.keys[name].pop(job_id, None)
        self.keys.pop(f"webhook:{job_id}", None)

    def take(self, limit: int, attempt_ms: int, owner_attempts: int) -> list[str]:
        """Deliveries of which an attempt begins."""
        over, taken, lanes = self.now + attempt_ms, [], self.keys["webhook_lanes"]
        for lane in self.until("webhook_lanes", self.now):
            if len(taken) == limit:
                break
            waiting = self.ranked(f"webhook_lane:{lane}")
            if not waiting:
                del lanes[lane]
                continue
            job_id = waiting[0]
            delivery, due = self.keys[f"webhook:{job_id}"], self.keys[f"webhook_lane:{lane}"][job_id]
            trying = self.keys[f"webhook_trying:{delivery['owner']}"]
            if self.keys.get(f"webhook_busy:{lane}"):
                lanes[lane] = over
            elif due > self.now:
                lanes[lane] = due
            elif len([end for end in trying.values() if end > self.now]) >= owner_attempts:
                lanes[lane] = self.now + 500
            else:
                trying[job_id] = over
                delivery["attempts"] += 1
                self.keys[f"webhook_busy:{lane}"] = job_id
                lanes[lane] = self.keys["webhooks"][job_id] = self.keys[f"webhook_lane:{lane}"][job_id] = over
                taken.append(job_id)
        return taken

    def note(
        self,
        job_id: str,
        outcome: str,
        *,
        kind: str,
        over: int,
        lane: str,
        owner: str,
        error: str,
        body: str | None,
        again: int | None,
    ) -> None:
        """What came of an attempt whose time is ``over`` then; ``again`` ms later there is another."""
        counts, delivery = self.keys["webhook_counts"], self.keys[f"webhook:{job_id}"]
        trying = self.keys[f"webhook_trying:{owner}"]
        under_way = over > self.now and trying.get(job_id) == over

        def count(name: str) -> None:
            counts[name] = counts.get(name, 0) + 1

        count(f"attempts|{outcome}")
        if delivery and delivery["type"] == kind and outcome == "delivered":
            count("ended|delivered")
            self.forget(job_id)
        elif delivery and under_way:
            delivery |= {"error": error, "tried_at": self.now // 1000}
            if body is not None:
                delivery["body"] = body
                delivery.pop("record", None)
            if again is not None:
                self.schedule(job_id, lane, self.now + again)
            else:
                count("ended|dead")
                del self.keys["webhooks"][job_id], self.keys[f"webhook_lane:{lane}"][job_id]
                self.keys["webhooks_dead"][job_id] = self.now
        if under_way:
            del trying[job_id], self.keys[f"webhook_busy:{lane}"]
            left = self.ranked(f"webhook_lane:{lane}")
            if left:
                self.keys["webhook_lanes"][lane] = max(self.now, self.keys[f"webhook_lane:{lane}"][left[0]])
            else:
                self.keys["webhook_lanes"].pop(lane, None)

    def redeliver(self, job_id: str) -> bool:
        delivery = self.keys[f"webhook:{job_id}"]
        if not delivery:
            return False
        if self.keys["webhooks_dead"].pop(job_id, None) is not None:
            delivery["attempts"] = 0
        self.schedule(job_id, delivery["lane"], self.now)
        return True

    def trim(self, dead_ms: int, kept: int) -> list[str]:
        for job_id in self.until("webhooks_dead", self.now - dead_ms):
            self.forget(job_id)
        dropped = []
        while len(self.keys["webhooks"]) + len(self.keys["webhooks_dead"]) > kept:
            dead = self.ranked("webhooks_dead")
            job_id = dead[0] if dead else self.ranked("webhooks")[-1]
            if not dead:
                self.keys["webhook_counts"]["ended|dropped"] = self.keys["webhook_counts"].get("ended|dropped", 0) + 1
                dropped.append(job_id)
            self.forget(job_id)
        return dropped


def queue_of(model: str, priority: str) -> str:
    return f"{model}:bulk" if priority == "bulk" else model


def fit(told: Any, asked: dict[str, Any]) -> bool:
    """Whether a request fits into the memory of a worker that told this."""
    most = (told or {}).get("frames", {}).get(asked.get("quality") or "", {}).get(f"{asked['width']}x{asked['height']}")
    return most is None or asked["num_frames"] <= most


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Where the store's keys are not what they have to be."""
    wrong = []
    for name in sorted(found.keys() | wanted.keys()):
        there, has_to = found.get(name) or None, wanted.get(name) or None
        if not same(there, has_to):
            wrong.append(f"{name}: {narrowed(there, has_to)}")
    return wrong


def narrowed(there: Any, has_to: Any) -> str:
    """What of a key is different."""
    if isinstance(there, dict) and isinstance(has_to, dict):
        names = [each for each in there.keys() | has_to.keys() if not same(there.get(each), has_to.get(each))]
        return "; ".join(f"{each} is {there.get(each)!r}, not {has_to.get(each)!r}" for each in sorted(names))[:400]
    return f"is {str(there)[:200]}, not {str(has_to)[:200]}"


def same(there: Any, has_to: Any) -> bool:
    if there == has_to:  # nearly always, and soon said
        return True
    if isinstance(has_to, Anything):
        return there is not None
    if isinstance(there, dict) and isinstance(has_to, dict):
        return there.keys() == has_to.keys() and all(same(there[name], has_to[name]) for name in there)
    if isinstance(there, list) and isinstance(has_to, list):
        return len(there) == len(has_to) and all(map(same, there, has_to))
    if isinstance(there, int | float) and isinstance(has_to, int | float):
        return math.isclose(there, has_to, rel_tol=1e-9, abs_tol=1e-6)
    return bool(there == has_to)


@cache
def read(text: str) -> Any:
    """A value of the store: JSON where it is such."""
    try:
        return json.loads(text)
    except ValueError:
        return text
