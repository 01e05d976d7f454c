"""One who uses the service with an API key of its own, is strict about every answer, and leaves nothing behind."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count, cycle
from typing import Any

import httpx
from adaspa_service.access.keys import ApiKey, KeyStore, Scope
from waiting import PATIENCE, until

from chaos.fleet import Part
from chaos.points import Deed, Order
from chaos.sightings import ENDS
from chaos.stage import Stage

SEEDS = count(5000, 10)
"""Several videos of one request have seeds that follow each other, and an order is for one seed."""


class Guest:
    """A client that asks the gateways in turns, while these are not struck.

    Args:
        stage: the scene's.
        scopes: of its key.
        limits: of its key: ``max_in_flight``, ``requests_per_minute``, ``lifetime_seconds``.
    """

    def __init__(self, stage: Stage, scopes: tuple[str, ...] = ("read", "write"), **limits: Any) -> None:
        self.stage, self.made = stage, set[str]()
        self.keys = KeyStore(stage.fleet.client())
        self.key: ApiKey
        self.key, self.token = self.keys.create(stage.name, frozenset(map(Scope, scopes)), **limits)
        self.http = httpx.Client(timeout=PATIENCE)
        self._gateways = cycle(stage.fleet.gateways)

    def url(self, path: str) -> str:
        """A path at the gateway whose turn it is."""
        return f"http://127.0.0.1:{next(self._gateways).port}/v1{path}"

    def at(self, gateway: Part) -> None:
        """Ask this gateway only, from now on."""
        self._gateways = cycle([gateway])

    def headers(self, more: dict[str, str] | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} | (more or {})

    def ask(
        self, method: str, path: str, expect: int = 200, *, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        """Ask once; an answer of another status is a violation, and what it shows is looked at."""
        answer = self.http.request(method, self.url(path), headers=self.headers(headers), **options)
        said = f"{method} {path} {json.dumps(options.get('json', ''))[:200]}"
        assert answer.status_code == expect, f"{said}: {answer.status_code}, not {expect}: {answer.text[:300]}"
        if answer.headers.get("content-type", "").startswith("application/json"):
            if expect < 400:
                self.stage.clients.history.sightings.see(answer.json(), said, self.stage.clients.history.epoch)
            else:
                assert answer.json()["error"]["message"], said
                assert expect not in (429, 503) or int(answer.headers["Retry-After"]) >= 1, said
        return answer

    def json(self, method: str, path: str, expect: int = 200, **options: Any) -> Any:
        return self.ask(method, path, expect, **options).json()

    def refused(self, expect: int, code: str, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask what has to be refused, with this code or for this field."""
        answer = self.ask(method, path, expect, **options)
        error = answer.json()["error"]
        assert code in (error["code"], error["param"]), f"{method} {path}: {error}, not {code}"
        return answer

    def create(
        self, *, key: str = "", path: str = "/videos", headers: dict[str, str] | None = None, **body: Any
    ) -> Any:
        """Create a video, or with ``n`` several; each is as it was asked for."""
        asked = {"prompt": "a red circle", "steps": 4, "seed": next(SEEDS)} | body
        if path != "/videos":
            asked = {"prompt": "a blue circle"} | body
        sent = (headers or {}) | ({"Idempotency-Key": key} if key else {})
        answer = self.json("POST", path, json=asked, headers=sent)
        videos = answer["data"] if "n" in asked else [answer]
        assert len(videos) == asked.get("n", 1), f"{len(videos)} videos of {asked['n']}"
        for number, video in enumerate(videos):
            self.made.add(video["id"])
            for name in ("prompt", "steps", "model", "size", "metadata", "user", "priority", "num_frames"):
                if name in asked:
                    assert video[name] == asked[name], f"{video['id']}: {name} is {video[name]}, not {asked[name]}"
            if "seed" in asked:
                assert video["seed"] == asked["seed"] + number, f"{video['id']}: has the seed {video['seed']}"
        return answer

    def held(self, point: str, deed: Deed = "hold", **body: Any) -> tuple[Any, Order]:
        """Create a video at which a worker is struck, and wait until it is."""
        seed = next(SEEDS)
        order = Order(self.stage.fleet.orders, point, seed, deed)
        video = self.create(seed=seed, **body)
        order.wait()
        return video, order

    def get(self, video_id: str) -> Any:
        return self.json("GET", f"/videos/{video_id}")

    def end(self, video_id: str, status: str = "completed") -> Any:
        """Follow a video to its end; it, which ended like this."""
        events = self.follow(video_id)
        video = self.get(video_id)
        assert video["status"] == status, f"{video_id}: is {video['status']} ({video['error']}), not {status}"
        assert events[-1][1] == status, f"{video_id}: is {status}, and its last event is {events[-1][1]}"
        return video

    def follow(self, video_id: str, last_id: str = "", most: int = 10**6) -> list[tuple[str, str, dict[str, Any]]]:
        """Read events with an id to the end of a job, or so many: their ids, types and data."""
        found: list[tuple[str, str, dict[str, Any]]] = []
        with self.stream(video_id, last_id) as events:
            for each in events:
                if each[0]:
                    found.append(each)
                if len(found) >= most:
                    return found
        assert found, f"{video_id}: a stream without any event"
        assert found[-1][1] in ENDS, f"{video_id}: its stream ended with {found[-1][1]}"
        return found

    @contextmanager
    def stream(self, video_id: str, last_id: str = "") -> Iterator[Iterator[tuple[str, str, dict[str, Any]]]]:
        """Follow a video's events."""
        headers = self.headers({"Last-Event-ID": last_id} if last_id else None)
        with self.http.stream("GET", self.url(f"/videos/{video_id}/events"), headers=headers) as answer:
            assert answer.status_code == 200, f"{video_id}: {answer.status_code} to whoever follows it"
            yield self._events(answer)

    def _events(self, answer: httpx.Response) -> Iterator[tuple[str, str, dict[str, Any]]]:
        event: dict[str, str] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                event[name] = value
            elif "data" in event:
                data = json.loads(event["data"])
                self.stage.clients.history.sightings.see(data, "an event", self.stage.clients.history.epoch)
                yield event.get("id", ""), event["event"], data
                event = {}
            else:  # a comment
                event = {}

    def delete(self, video_id: str) -> None:
        """Delete a video; from the answer on it is unknown everywhere."""
        assert self.json("DELETE", f"/videos/{video_id}") == {
            "id": video_id,
            "object": "video.deleted",
            "deleted": True,
        }
        self.knows_nothing_of(video_id)

    def knows_nothing_of(self, video_id: str) -> None:
        """Every route says so of a video that is deleted, or another's."""
        for method, route in (
            *(("GET", ""), ("GET", ""), ("GET", "/events"), ("GET", "/content"), ("GET", "/link"), ("GET", "/preview")),
            *(("POST", "/cancel"), ("POST", "/remix"), ("DELETE", "")),
        ):
            body = {"json": {"prompt": "a red circle"}} if route == "/remix" else {}
            self.ask(method, f"/videos/{video_id}{route}", 404, **body)
        assert video_id not in self.ids(), f"{video_id}: is listed"

    def ids(self, query: str = "limit=100") -> list[str]:
        """Those on one page of its list."""
        return [video["id"] for video in self.json("GET", f"/videos?{query}")["data"]]

    def pages(self, limit: int, query: str = "") -> list[str]:
        """Walk through its list."""
        found: list[str] = []
        after = ""
        while True:
            page = self.json("GET", f"/videos?limit={limit}{query}{after}")
            assert len(page["data"]) <= limit, f"{len(page['data'])} on a page of {limit}"
            found += [video["id"] for video in page["data"]]
            if not page["has_more"]:
                return found
            after = f"&after={page['last_id']}"

    def leave(self) -> None:
        """Delete all that it made, once it has ended; what it came to stays counted."""
        counted = dict.fromkeys(ENDS, 0)
        there = set(self.pages(100))
        videos = [self.get(video_id) for video_id in there & self.made]
        for video in videos:
            if video["status"] == "in_progress":
                self.json("POST", f"/videos/{video['id']}/cancel")
                self.follow(video["id"])
            counted["cancelled" if video["status"] not in ENDS else video["status"]] += 1
        with ThreadPoolExecutor(8) as pool:  # each waits for a sync
            list(pool.map(lambda video: self.json("DELETE", f"/videos/{video['id']}"), videos))
        assert self.ids() == [], "deleted videos are listed"
        assert there <= self.made, f"{there - self.made}: are listed, and nobody made them"
        until(lambda: not self.stage.store.unfinished(self.key.id), f"{self.stage.name}: its jobs have ended")
        usage = self.json("GET", "/usage")
        ended = sum(row[status] for row in usage["data"] for status in ENDS)
        assert ended == usage["jobs"] == len(self.made), f"{ended} jobs in its usage, of {len(self.made)}"
        for status, at_least in counted.items():
            told = sum(row[status] for row in usage["data"])
            assert told >= at_least, f"{told} {status} in its usage, of at least {at_least}"
        held = sum(row["gpu_seconds"] for row in usage["data"])
        assert not counted["completed"] or held > 0, f"{held} GPU-seconds of {counted['completed']} completed jobs"
