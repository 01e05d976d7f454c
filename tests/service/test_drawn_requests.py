"""Requests of several keys in a drawn order, with Redis cut off now and then, while workers take jobs and lose them.

Beside the service stands what the documents say of it, in plain Python. After each request what clients, receivers of
links and storage can see is compared with that.
"""

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import Progress, percent
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobCancelled, Lease, LeaseLost
from adaspa_service.access.keys import Scope
from chaos.by_cuts import cut
from chaos.watch import look, violations
from claiming import FAILURE, lose_lease
from drawn import picture
from event_stream import parse
from receiver import Receiver, receiving
from running_gateway import FILES, REPORT, Service, data_uri, serving
from tiny_catalog import model_spec, write_catalog
from waiting import PATIENCE, until

REQUESTS = 300
ATTEMPTS = 3
IMAGES = [data_uri(picture(64, 64)), data_uri(picture(96, 48))]
ENDS = ("completed", "failed", "cancelled")
CALLERS = {"a": "read write", "b": "read write", "writer": "write", "reader": "read"}
PAIRS: list[dict[str, str]] = [{}, {}, {"of": "odd"}, {"of": "even", "a": "b"}]
MODELS = ("one", "two")

pytestmark = pytest.mark.asks


@dataclass
class Wanted:
    """What is to be seen of a job."""

    owner: str
    asked: dict[str, Any]
    status: str = "queued"
    attempt: int = 0
    progress: Progress = field(default_factory=Progress)
    lost: int = 0
    errors: int = 0
    error: str | None = None
    cancelled: bool = False
    """A running job that is asked to stop."""
    deleted: bool = False
    remixed: str | None = None
    images: frozenset[str] = frozenset()
    """Files in storage that it is made of."""
    files: frozenset[str] = frozenset()
    """Files in storage that its attempts left."""
    video: bytes = b""
    told_of: bool = False
    """Its end is to be sent to the receiver."""
    unwanted: bool = False
    """Deleted before it had ended, so that its receiver hears nothing."""
    hushed: bool = False
    """Deleted after it had ended: what its receiver has not heard by then, it does not hear any more."""
    told: list[tuple[str, str, int, int]] = field(default_factory=list)
    """Events: type, status, attempt, step."""

    def tell(self, kind: str) -> None:
        self.told.append((kind, self.status, self.attempt, self.progress.step))

    def become(self, status: str, **more: Any) -> None:
        """A transition, with its event."""
        self.status = status
        for name, value in more.items():
            setattr(self, name, value)
        self.tell(status)

    @property
    def heard(self) -> bool:
        """Whether its receiver may have heard how it ended."""
        return self.told_of and self.status in ENDS and not self.unwanted

    def requeue(self) -> None:
        self.become("queued", progress=Progress(steps=self.progress.steps))


class Desk:
    """A service, its callers, and what is wanted of it.

    Args:
        service: a running gateway.
        clients: those of each key.
        receiver: of all webhooks.
        seed: of the order.
    """

    def __init__(self, service: Service, clients: dict[str, httpx.Client], receiver: Receiver, seed: int) -> None:
        self.service, self.clients, self.receiver, self.random = service, clients, receiver, Random(seed)
        self.jobs: dict[str, Wanted] = {}
        self.leases: list[Lease] = []
        self.keys: dict[tuple[str, str], tuple[str, list[str]]] = {}
        self.said: list[str] = []
        self.workers = 0
        self.acts: list[tuple[Callable[[], None], int]] = [
            *((self.create, 10), (self.remix, 6), (self.stop, 6), (self.claim, 18), (self.step, 16), (self.end, 16)),
            *(
                (self.lose, 8),
                (self.expire, 3),
                (self.rotate, 3),
                (self.files, 6),
                (self.follow, 8),
                (self.walk, 8),
                (self.use, 4),
            ),
        ]

    def play(self) -> None:
        acts, weights = zip(*self.acts, strict=True)
        for number in range(REQUESTS):
            act = self.random.choices(acts, weights)[0]
            self.said.append(act.__name__)
            try:
                act()
                self.look(self.random.sample([*self.jobs], min(3, len(self.jobs))))
                if number % 25 == 24:
                    self.look([*self.jobs])
                    self.queues()
                    self.stored()
                    self.heard()
            except AssertionError as error:
                raise AssertionError(f"{error}\n  after {' / '.join(self.said[-6:])}") from error
        for video_id in [*self.jobs]:
            self.ask("DELETE", f"/videos/{video_id}", self.jobs[video_id].owner, video_id)
        for lease in self.leases:
            if self.jobs[lease.job.id].status == "in_progress":
                self.ended(lease, "cancelled")
        self.stored()
        left = [key for key in self.service.store.client.keys("adaspa:*") if b"video_" in key]  # type: ignore[union-attr]
        until(lambda: not [k for k in left if b":events:" not in k and self.service.store.client.exists(k)], f"{left}")

    def some(self, *, shown: bool = False, **having: Any) -> str | None:
        """A job that is like this, or none."""
        fits = [
            video_id
            for video_id, job in self.jobs.items()
            if all(getattr(job, name) == value for name, value in having.items()) and not (shown and job.deleted)
        ]
        return self.random.choice(fits) if fits else None

    def ask(self, method: str, path: str, caller: str, video_id: str | None = None, **more: Any) -> httpx.Response:
        """Ask, and see that only who may is answered.

        Args:
            video_id: whose owner alone may.
        """
        answer = self.clients[caller].request(method, f"/v1{path}", **more)
        if method != "GET":
            self.said[-1] += f" {method} {path} by {caller} ({answer.status_code})"
        scope = "read" if method == "GET" else "write"
        if scope not in CALLERS[caller]:
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope"), answer.text[:200]
        elif video_id is not None:
            job = self.jobs[video_id]
            if job.owner != caller or job.deleted:
                assert answer.status_code == 404, f"{caller} is told {answer.text[:200]}"
            elif method == "DELETE" and answer.status_code == 200:
                self.deleted(job)
        return answer

    # What clients ask

    def create(self) -> None:
        draw, caller = self.random, self.random.choice([*CALLERS])
        asked: dict[str, Any] = {"prompt": f"a {secrets.token_hex(4)}", "model": draw.choice(MODELS)}
        asked |= {"seed": draw.randrange(1000), "metadata": draw.choice(PAIRS), "user": draw.choice((None, "u"))}
        asked |= {"priority": draw.choice(("interactive", "bulk"))}
        if draw.random() < 0.5:
            asked["webhook_url"] = f"{self.receiver.url}/{caller}"
        count = draw.choice((None, None, 1, 2, 3))
        if draw.random() < 0.3:
            asked["input_reference"] = draw.choice(IMAGES)
        self.admitted(caller, "/videos", asked, count, key=draw.choice((None, None, "k1", "k2", "k3")))

    def remix(self) -> None:
        if (source := self.some(shown=True)) is None:
            return
        draw, job = self.random, self.jobs[source]
        caller = draw.choice([job.owner, job.owner, *CALLERS])
        asked = {"prompt": f"another {secrets.token_hex(4)}", "metadata": draw.choice(PAIRS)}
        self.admitted(caller, f"/videos/{source}/remix", asked, None, key=draw.choice((None, "k1", "k4")))

    def admitted(
        self,
        caller: str,
        path: str,
        asked: dict[str, Any],
        count: int | None,
        *,
        key: str | None,
    ) -> None:
        """Ask for videos, at times with Redis cut off: whoever is told to come again does so."""
        draw = self.random
        body = asked if count is None else asked | {"n": count}
        known = self.keys.get((caller, key)) if key else None
        if known and draw.random() < 0.6:  # the same once more
            path, body = json.loads(known[0])
            count = body.get("n")
        text = json.dumps([path, body])
        headers = {"Idempotency-Key": key} if key else {}
        if key and draw.random() < 0.4 and "write" in CALLERS[caller]:
            with cut(self.service, draw.randrange(5), draw.choice(("before", "after"))):
                first = self.clients[caller].post(f"/v1{path}", json=body, headers=headers)
            self.said[-1] += f" cut off ({first.status_code})"
            assert first.status_code in (200, 503, 422, 404), first.text[:200]
        answer = self.ask("POST", path, caller, json=body, headers=headers)
        if "write" not in CALLERS[caller]:
            return
        if known and not self.jobs[known[1][0]].deleted:  # the first one keeps the key
            alive = [each for each in known[1] if not self.jobs[each].deleted]
            if known[0] != text:
                assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_key_reused")
                return
            assert answer.status_code == 200, answer.text[:200]
            assert ids_of(answer) == alive, f"a key that is sent again gives {ids_of(answer)}, not {alive}"
            assert answer.headers["idempotent-replayed"] == "true"
            return
        source = path.split("/")[2] if path.endswith("/remix") else None
        if source and (self.jobs[source].owner != caller or self.jobs[source].deleted):
            assert answer.status_code == 404, answer.text[:200]
            return
        assert answer.status_code == 200, answer.text[:200]
        ids = ids_of(answer)
        assert len(ids) == len(set(ids)) == (count or 1) and not {*ids} & {*self.jobs}, f"made {ids}"
        assert ("data" in answer.json()) == (count is not None)
        self.made(caller, body, ids, source)
        if key:
            self.keys[caller, key] = text, ids

    def made(self, caller: str, body: dict[str, Any], ids: list[str], source: str | None) -> None:
        for number, video_id in enumerate(ids):
            record = self.service.store.get(video_id)
            assert record is not None
            if source:
                old = self.jobs[source]
                asked = old.asked | {"prompt": body["prompt"], "metadata": body["metadata"], "user": None}
                job = Wanted(caller, asked, remixed=source, images=old.images)
            else:
                job = Wanted(caller, body | {"seed": body["seed"] + number})
                job.images = frozenset(each.key for each in record.params.inputs)
                assert bool(job.images) == ("input_reference" in body)
            job.progress = Progress(steps=record.params.steps)
            job.told_of = "webhook_url" in body
            self.jobs[video_id] = job
            job.tell("queued")

    def stop(self) -> None:
        """Cancel or delete a job, whoever's it is."""
        if (video_id := self.some()) is None:
            return
        job = self.jobs[video_id]
        caller = self.random.choice([job.owner, job.owner, *CALLERS])
        mine = job.owner == caller and not job.deleted
        if self.random.random() < 0.5:
            self.ask("DELETE", f"/videos/{video_id}", caller, video_id)
            return
        answer = self.ask("POST", f"/videos/{video_id}/cancel", caller, video_id)
        if "write" in CALLERS[caller] and mine:
            assert answer.status_code == 200, answer.text[:200]
            if job.status == "queued":
                job.become("cancelled")
            elif job.status == "in_progress":
                job.cancelled = True
            assert answer.json()["status"] == job.status

    def deleted(self, job: Wanted) -> None:
        job.deleted, job.unwanted, job.hushed = True, job.status not in ENDS, job.status in ENDS
        if job.status == "queued":
            job.become("cancelled")
        elif job.status == "in_progress":
            job.cancelled = True

    def expire(self) -> None:
        """The time is over for which an ended job is kept; its event still comes."""
        ended = [each for each, job in self.jobs.items() if job.status in ENDS and not job.deleted]
        if not ended:
            return
        video_id, store = self.random.choice(ended), self.service.store
        self.said[-1] += f" {video_id}"
        store.client.zadd("adaspa:expiry", {video_id: 0}, xx=True)

        def gone() -> bool:
            store.expire()
            return video_id not in {job.id for job in store.readable([video_id]) if not job.discarded}

        until(gone, f"{video_id} expires")
        self.jobs[video_id].deleted = True

    def rotate(self) -> None:
        """A key gets another secret, with or without a time for which the earlier one holds."""
        caller, grace = self.random.choice([*CALLERS]), self.random.choice((0, 3600))
        self.said[-1] += f" {caller} {grace}"
        client, keys = self.clients[caller], self.service.parts.keys
        earlier = {"Authorization": client.headers["Authorization"]}
        owner = next(key.id for key in keys.all() if key.name == caller)
        client.headers["Authorization"] = f"Bearer {keys.rotate(owner, grace)}"
        for headers, status in ((earlier, 200 if grace else 401), ({}, 200)):
            found = client.get("/v1/models", headers=headers).status_code
            wanted = 403 if status == 200 and "read" not in CALLERS[caller] else status
            assert found == wanted, f"{caller} with {'an earlier' if headers else 'its'} secret: {found}, not {wanted}"

    # What workers do

    def claim(self) -> None:
        model = self.random.choice(MODELS)
        self.workers += 1
        lease = self.service.store.claim(model, f"worker-{self.workers}", "p")
        waiting = [each for each, job in self.jobs.items() if job.status == "queued" and job.asked["model"] == model]
        assert (lease is not None) == bool(waiting), f"{len(waiting)} jobs wait, and {lease} is given"
        if lease is not None:
            self.said[-1] += f" {lease.job.id}"
            assert lease.job.id in waiting, "a job is given that does not wait"
            job = self.jobs[lease.job.id]
            job.attempt += 1
            job.become("in_progress", progress=Progress(phase="loading", steps=job.progress.steps))
            self.leases.append(lease)

    def lease(self) -> tuple[Lease, Wanted, bool] | None:
        """One that was given, and whether it still holds."""
        if not self.leases:
            return None
        lease = max(self.random.choices(self.leases, k=2), key=lambda each: self.jobs[each.job.id].errors)
        job = self.jobs[lease.job.id]
        holds = job.status == "in_progress" and job.attempt == lease.attempt
        self.said[-1] += f" {lease.job.id} at attempt {lease.attempt}"
        return lease, job, holds

    def step(self) -> None:
        if (found := self.lease()) is None:
            return
        lease, job, holds = found
        step = min(job.progress.step + self.random.choice((1, 1, 2)), job.progress.steps)
        progress = Progress(phase="denoising", step=step, steps=job.progress.steps, step_kind="sparse", eta_seconds=2.5)
        preview = self.random.random() < 0.3
        if preview:
            progress = progress.model_copy(update={"preview_step": step})
        act: Callable[[], None] = (
            (lambda: self.service.store.report_preview(lease, progress, b"webp of %d" % step))
            if preview
            else (lambda: self.service.store.report_progress(lease, progress))
        )
        if self.refused(act, job, holds):
            return
        job.progress = progress
        job.tell("preview" if preview else "progress")
        if preview and "read" in CALLERS[job.owner] and not job.deleted:
            shown = self.ask("GET", f"/videos/{lease.job.id}", job.owner, lease.job.id).json()["preview_url"]
            assert self.clients[job.owner].get(shown).content == b"webp of %d" % step

    def refused(self, act: Callable[[], object], job: Wanted, holds: bool) -> bool:
        """Do what only the latest attempt at a job that goes on may."""
        wanted = "" if holds and not job.cancelled else "cancelled" if holds else "lost"
        found = outcome(act)
        assert found == wanted, f"an attempt is told {found!r}, not {wanted!r}"
        return bool(wanted)

    def end(self) -> None:
        if (found := self.lease()) is None:
            return
        lease, job, holds = found
        how = self.random.choice(("completed", "completed", "failed", "worker error", "released", "cancelled"))
        if holds and job.cancelled and self.random.random() < 0.7:
            how = "cancelled"
        elif (how == "cancelled" and not job.cancelled) or (job.deleted and job.status in ENDS):
            return  # nobody asked for that, or its record is gone, or soon will be
        self.said[-1] += f" {how}"
        if self.ended(lease, how) != "cancelled" and self.random.random() < 0.6:  # else it may say so again
            self.leases.remove(lease)

    def ended(self, lease: Lease, how: str) -> str:
        """An attempt ends in this way; what it is told."""
        store, job = self.service.store, self.jobs[lease.job.id]
        latest = job.attempt == lease.attempt
        comes_to = "queued" if how in ("worker error", "released") else how
        again = latest and (job.status == comes_to or (how == "worker error" and job.status == "failed"))
        holds = latest and job.status == "in_progress"
        late = latest and how == "completed" and job.status == "queued"  # a video that is done counts
        content, prefix = secrets.token_bytes(64), f"videos/{lease.job.id}/{lease.token}/"
        ways: dict[str, Callable[[], object]] = {
            "completed": lambda: self.service.complete(lease, video=content),
            "failed": lambda: store.fail(lease, FAILURE),
            "worker error": lambda: store.requeue_after_worker_error(lease, FAILURE),
            "released": lambda: store.release(lease),
            "cancelled": lambda: store.release_cancelled(lease),
        }
        if again or not (holds or late):  # else what it stores may go at once
            ways["completed"] = lambda: store.complete(lease, {}, REPORT, {})
        told = outcome(ways[how])
        if again or late:
            wanted = ""
        else:
            wanted = "lost" if not holds else "cancelled" if job.cancelled and how != "cancelled" else ""
        assert told == wanted, f"an attempt that ends is told {told!r}, not {wanted!r}"
        if told and how == "completed":
            self.service.parts.storage.delete_prefix(prefix)  # as its worker does
        if told or again:
            return told
        job.errors += how == "worker error"
        if how == "completed":
            job.become(how, video=content, files=frozenset(prefix + name for name, _, _ in FILES.values()))
        elif how == "cancelled":
            job.become(how)
        elif how == "failed" or job.errors == ATTEMPTS:
            job.become("failed", error=FAILURE.code)
        else:
            job.requeue()
        return told

    def lose(self) -> None:
        """A worker is not heard of any more."""
        running = [each for each, job in self.jobs.items() if job.status == "in_progress"]
        if not running:
            return
        video_id = max(self.random.sample(running, min(3, len(running))), key=lambda each: self.jobs[each].lost)
        job, store = self.jobs[video_id], self.service.store
        lose_lease(store, video_id)
        until(
            lambda: store.requeue_expired() is not None and not store.client.zscore("adaspa:leases", video_id), "lost"
        )
        job.lost += 1
        if job.cancelled:
            job.become("cancelled")
        elif job.lost == ATTEMPTS:
            job.become("failed", error="worker_lost")
        else:
            job.requeue()

    # What is seen

    def look(self, ids: list[str]) -> None:
        """Each of them is shown to its owner as it is, and to nobody else."""
        for video_id in ids:
            job = self.jobs[video_id]
            for caller in {self.random.choice([*CALLERS]), job.owner}:
                answer = self.ask("GET", f"/videos/{video_id}", caller, video_id)
                if answer.status_code == 200:
                    self.shown(video_id, job, answer.json())
        broken = [*violations(look(self.service.store.client))]
        assert not broken, broken

    def shown(self, video_id: str, job: Wanted, video: dict[str, Any]) -> None:
        running = job.status == "in_progress"
        wanted = {name: job.asked[name] for name in ("prompt", "model", "seed", "metadata", "user", "priority")}
        wanted |= {"id": video_id, "status": job.status, "attempt": job.attempt, "step": job.progress.step}
        wanted |= {"steps": job.progress.steps, "remixed_from_video_id": job.remixed}
        wanted |= {"phase": job.status if job.status in ENDS else job.progress.phase}
        wanted |= {"progress": 100 if job.status == "completed" else percent(job.progress)}
        wanted |= {"eta_seconds": job.progress.eta_seconds if running else None}
        found = {name: video[name] for name in wanted}
        assert found == wanted, f"{video_id} is shown as {found}, not {wanted}"
        assert (video["error"] or {}).get("code") == job.error
        assert len(video["inputs"]) == len(job.images)
        assert (video["queue_position"] is not None) == (job.status == "queued"), f"place {video['queue_position']}"
        assert (video["completed_at"] is not None) == (video["expires_at"] is not None) == (job.status in ENDS)
        assert (video["started_at"] is not None) == (job.attempt > 0)
        assert (video["preview_url"] is not None) == (running and job.progress.preview_step is not None)
        assert (video["attention"] is not None) == (video["content_type"] is not None) == (job.status == "completed")

    def walk(self) -> None:
        """Page after page shows what is there, each once."""
        draw, caller = self.random, self.random.choice([*CALLERS])
        order, limit, pairs = draw.choice(("asc", "desc")), draw.choice((1, 2, 3, 100)), draw.choice(PAIRS[1:])
        asked = {"order": order, "limit": limit, **{f"metadata[{name}]": value for name, value in pairs.items()}}
        found, after = list[str](), dict[str, str]()
        while True:
            answer = self.ask("GET", "/videos", caller, params=asked | after)
            if answer.status_code == 403:
                return
            page = answer.json()
            assert len(page["data"]) <= limit
            for video in page["data"]:
                self.shown(video["id"], self.jobs[video["id"]], video)
                found.append(video["id"])
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        mine = [each for each, job in self.jobs.items() if job.owner == caller and not job.deleted]
        wanted = [each for each in mine if pairs.items() <= self.jobs[each].asked["metadata"].items()]
        assert found == sorted(wanted, reverse=order == "desc"), f"{caller} lists {found}, not {sorted(wanted)}"

    def files(self) -> None:
        """A video's files, or its images, by a key and by a link."""
        images = self.random.random() < 0.5
        having = [each for each, job in self.jobs.items() if (job.images if images else job.status == "completed")]
        if not having:
            return
        video_id = self.random.choice(having)
        job, variant = self.jobs[video_id], "first_frame" if images else "video"
        caller = self.random.choice([job.owner, job.owner, *CALLERS])
        asked = {"variant": variant}
        whole = self.ask("GET", f"/videos/{video_id}/content", caller, video_id, params=asked)
        link = self.ask("GET", f"/videos/{video_id}/link", caller, video_id, params=asked)
        assert whole.status_code in (link.status_code, 403), f"{whole}, and for a link {link}"
        if whole.status_code == 200:
            by_link = httpx.get(link.json()["url"])
            assert by_link.status_code == 200 and by_link.content == whole.content
            assert by_link.headers["etag"] == f'"{hashlib.sha256(whole.content).hexdigest()}"'
            if not images:
                assert whole.content == job.video
                end = self.random.randrange(1, 64)
                part = self.clients[caller].get(by_link.url, headers={"Range": f"bytes={end - 1}-{end}"})
                assert (part.status_code, part.content) == (206, job.video[end - 1 : end + 1])

    def follow(self) -> None:
        """All events, or those behind one; of a job that goes on, as many as there are."""
        if (video_id := self.some()) is None:
            return
        job = self.jobs[video_id]
        caller = self.random.choice([job.owner, job.owner, *CALLERS])
        begun = self.ask("GET", f"/videos/{video_id}", caller, video_id)
        if begun.status_code != 200:
            return
        names = ("type", "status", "attempt", "step")
        told = [each for each in job.told if each[0] != "preview"]  # of previews only the latest is told
        last, behind = None, 0
        with self.stream(caller, video_id, last) as events:
            for wanted in told:
                event = self.next_of(events)
                assert self.told(event, names) == wanted, f"told {event}, not {wanted}"
                if self.random.random() < 0.3 and wanted is not told[-1]:
                    last, behind = event["id"], behind + 1
                    break
                behind += 1
            if behind == len(told) and job.status in ENDS:
                assert next(events, None) is None, "a stream goes on after the last event"
        if last:
            with self.stream(caller, video_id, last) as events:
                for wanted in told[behind:]:
                    event = self.next_of(events)
                    assert self.told(event, names) == wanted, f"behind {last}: told {event}, not {wanted}"

    @contextmanager
    def stream(self, caller: str, video_id: str, last: str | None) -> Iterator[Iterator[dict[str, Any]]]:
        headers = {"Last-Event-ID": last} if last else {}
        with self.clients[caller].stream("GET", f"/v1/videos/{video_id}/events", headers=headers) as response:
            assert response.status_code == 200, response.status_code
            yield parse(response.iter_lines())

    def next_of(self, events: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """The next one that stands in the job's history."""
        return next(event for event in events if "id" in event and event["event"] != "preview")

    def told(self, event: dict[str, Any], names: tuple[str, ...]) -> tuple[Any, ...]:
        return event["event"], *(event["data"][name] for name in names[1:])

    def use(self) -> None:
        caller = self.random.choice([*CALLERS])
        answer = self.ask("GET", "/usage", caller)
        if answer.status_code == 200:
            rows, wanted = answer.json()["data"], Counter[tuple[str, str]]()
            for job in self.jobs.values():
                if job.owner == caller and job.status in ENDS:
                    wanted[job.asked["model"], job.status] += 1
            found = Counter({(row["model"], end): row[end] for row in rows for end in ENDS if row[end]})
            assert found == wanted and answer.json()["jobs"] == wanted.total(), f"{caller} used {found}, not {wanted}"

    def queues(self) -> None:
        """Each job that waits has a place of its own."""
        places: dict[tuple[str, str], list[int | None]] = {}
        for video_id, job in self.jobs.items():
            if job.status == "queued":
                found = self.service.store.look(video_id)
                assert found is not None
                places.setdefault((job.asked["model"], job.asked["priority"]), []).append(found.position)
        for queue, found in places.items():
            assert sorted(found) == [*range(1, len(found) + 1)], f"places in {queue}: {found}"  # type: ignore[type-var]

    def heard(self) -> None:
        """The receiver has one event of each job that ended, under one id, with the job as it ended."""
        owed = {video_id for video_id, job in self.jobs.items() if job.heard and not job.hushed}
        until(lambda: owed <= {call.video_id for call in self.receiver.calls}, "all events come")
        ids: dict[str, set[str]] = {}
        for call in self.receiver.calls:
            job, event = self.jobs[call.video_id], call.event
            assert job.heard, f"{call.video_id}: an event comes that nobody is to have"
            assert event["type"] == f"video.{job.status}" and call.path == f"/{job.owner}"
            self.shown(call.video_id, job, event["data"])
            ids.setdefault(call.video_id, set()).add(call.headers["webhook-id"])
            assert event["id"] == call.headers["webhook-id"]
        assert all(len(each) == 1 for each in ids.values()), f"events have several ids: {ids}"

    def stored(self) -> None:
        """Storage holds what jobs are made of and what was made of them, and nothing else."""
        wanted: set[str] = set()
        for job in self.jobs.values():
            if not job.deleted or job.status == "in_progress":
                wanted |= job.images | (job.files if job.status == "completed" else frozenset())
        storage, running = (
            self.service.parts.storage,
            {each for each, job in self.jobs.items() if job.status not in ENDS},
        )

        def kept() -> set[str]:
            # Images of a request that was cut off stay until it can no longer be admitted.
            awaited = {folder.decode() for folder in self.service.store.client.zrange("adaspa:awaited_inputs", 0, -1)}  # type: ignore[union-attr]
            files = {key for key in storage.keys("videos/") if key.split("/")[1] not in running}  # of lost attempts
            return files | {key for key in storage.keys("inputs/") if key.split("/")[1] not in awaited}

        try:
            until(lambda: kept() == wanted, "storage holds what belongs to a job", PATIENCE / 10)
        except AssertionError as error:
            raise AssertionError(f"storage lacks {wanted - kept()}, and has {kept() - wanted} too many") from error


def outcome(act: Callable[[], object]) -> str:
    """What an attempt is told: to go on, that its job is cancelled, or that it has lost it."""
    try:
        act()
    except LeaseLost:
        return "lost"
    except JobCancelled:
        return "cancelled"
    return ""


def ids_of(answer: httpx.Response) -> list[str]:
    found = answer.json()
    return [video["id"] for video in found.get("data", [found])]


@pytest.mark.parametrize("order", range(2))
def test_whatever_is_asked_in_whatever_order_is_as_the_documents_say(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    monkeypatch.setattr("adaspa_jobs.store.BATCH", 3)
    monkeypatch.setattr("adaspa_jobs.store.SCANNED", 9)
    monkeypatch.setattr("adaspa_service.gateway.events.BATCH", 4)
    both = {"tasks": ["text_to_video", "image_to_video"], "sizes": ["64x64", "96x48"], "max_batch": 3}
    catalog = write_catalog(
        tmp_path / "catalog.json", *(model_spec("builtin:demo", id=name, **both) for name in MODELS)
    )
    own = {"catalog": catalog, "max_attempts": ATTEMPTS, "webhook_http": True, "webhook_networks": "127.0.0.0/8"}
    own |= {"lease_seconds": 86400, "webhook_retry_seconds": (0.05,) * 20}  # no time runs out here
    asked = Settings.model_validate(settings.model_dump() | own)
    with serving(asked, tmp_path) as service, receiving() as receiver, ExitStack() as stack:
        for name in MODELS:
            service.store.announce(ModelSpec.model_validate(model_spec("builtin:demo", id=name, **both)), f"w-{name}")
        clients = {}
        for name, scopes in CALLERS.items():
            _, token = service.parts.keys.create(name, frozenset(map(Scope, scopes.split())))
            headers = {"Authorization": f"Bearer {token}"}
            clients[name] = stack.enter_context(httpx.Client(base_url=service.url, headers=headers, timeout=PATIENCE))
        Desk(service, clients, receiver, order).play()
