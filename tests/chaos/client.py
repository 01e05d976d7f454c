"""One client of the service: it asks any gateway, again when it gets no answer, and notes what it asked and saw."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from chaos.fleet import Fleet
from chaos.history import Act, Entry, History

PATIENCE = 600.0
"""Seconds in which some gateway has to answer."""
PAGE, PAGES = 20, 5
"""Of a walk over the list: jobs on a page, and pages at most."""
ENDS = ("completed", "failed", "cancelled")
RUN = {"run": "chaos"}
"""Metadata of all that clients ask for, so that a list filtered by them is the same list."""


@dataclass
class Ask:
    """A video that was asked for, and what its client was told."""

    key: str
    tenant: str
    seed: int
    steps: int
    video_id: str = ""
    cancelled: bool = False
    deleted: bool = False
    fails: str = ""
    """The code with which it has to fail."""
    earlier: bool = False
    """Whether an earlier version's worker may write its file: then its pictures are held against its seed."""
    undone: bool = False
    """Whether a power cut took its end back, so that it ended twice for whoever was told of it."""
    final: str = ""
    """The last status that it was told; none of a deleted job."""


@dataclass
class Client:
    """One client, with a connection of its own.

    Args:
        name: in the history.
        tenant: whose API key it has.
        fleet: whom it asks.
        history: where it notes that.
        random: picks gateways.
        hook: where webhooks of its videos go; none: nowhere.
        labels: metadata of its videos.
    """

    name: str
    tenant: str
    fleet: Fleet
    history: History
    random: Random
    hook: str | None = None
    labels: dict[str, str] = field(default_factory=RUN.copy)
    retries: int = 0
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(timeout=5, headers={"Authorization": f"Bearer {self.fleet.keys[self.tenant]}"})

    def body(self, ask: Ask, **more: Any) -> dict[str, Any]:
        """The request for a video."""
        body = {"prompt": "a red circle", "seed": ask.seed, "steps": ask.steps, **more}
        body |= {"metadata": self.labels} if self.labels else {}
        return body | ({"webhook_url": self.hook} if self.hook else {})

    def create(self, ask: Ask, **more: Any) -> str:
        """Ask for a video until it is accepted; its id. Arguments as of ``try_create``."""
        entry = self.insist(lambda: self.try_create(ask, **more), "create")
        (ask.video_id,) = entry.seen["ids"]
        return ask.video_id

    def try_create(self, ask: Ask, of: str = "", **more: Any) -> Entry:
        """Ask once; what came of it.

        Args:
            ask: for what.
            of: the video that it is to be a remix of, which has its seed and steps; none: of no other.
            more: fields of the request.
        """
        body = self.body(ask, **more)
        if of:
            del body["seed"], body["steps"]
        path = f"/videos/{of}/remix" if of else "/videos"
        asked = hashlib.sha256(f"{path} {json.dumps(body, sort_keys=True)}".encode()).hexdigest()[:8]
        headers = {"Idempotency-Key": ask.key}
        return self.send("create", ask.key, "POST", path, _created, asked=asked, json=body, headers=headers)

    def get(self, video_id: str) -> dict[str, Any]:
        """The video as it stands: what of it the history keeps."""
        return self.insist(lambda: self.try_get(video_id), "get").seen

    def try_get(self, video_id: str) -> Entry:
        """Look at it once; what came of it."""
        return self.send("get", video_id, "GET", f"/videos/{video_id}", _seen)

    def look(self, video_id: str) -> int:
        """The status of the answer to a look at a video that may not be there."""
        entry = self.insist(lambda: self.try_get(video_id), "get", 404)
        assert entry.status is not None
        return entry.status

    def cancel(self, video_id: str) -> None:
        """Cancel it."""
        self.insist(lambda: self.send("cancel", video_id, "POST", f"/videos/{video_id}/cancel", _seen), "cancel")

    def delete(self, video_id: str) -> None:
        """Delete it. It is unknown if an earlier request, whose answer was lost, has done so."""
        entry = self.insist(
            lambda: self.send("delete", video_id, "DELETE", f"/videos/{video_id}", lambda _: {}), "delete", 404
        )
        entry.outcome = "ok"

    def see_to_its_end(self, ask: Ask, seconds: float = PATIENCE) -> str:
        """Poll until it has ended; its status."""
        deadline = time.monotonic() + seconds
        while (status := self.get(ask.video_id)["status"]) not in ENDS:
            assert time.monotonic() < deadline, f"{ask.video_id}: is {status} after {seconds:.0f} s"
            time.sleep(0.2)
        ask.final = str(status)
        return ask.final

    def read_events(self, video_id: str) -> list[dict[str, Any]]:
        """All events of an ended video."""

        def read(entry: Entry, gateway: str) -> None:
            with self.http.stream("GET", f"{gateway}/videos/{video_id}/events") as answer:
                data = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
            _note(entry, answer, {})
            events = [_event(json.loads(text)) for text in data]
            if data:
                self.history.sightings.see(json.loads(data[-1]), "its last event", entry.epoch)
            if answer.status_code == 200 and (not events or events[-1]["status"] not in ENDS):
                entry.outcome = "unknown"  # the gateway stopped meanwhile
            entry.seen = {"events": events}

        entry = self.insist(lambda: self.note("events", video_id, "", read), "events")
        found: list[dict[str, Any]] = entry.seen["events"]
        return found

    def download(self, video_id: str) -> None:
        """Load its file."""

        def load(entry: Entry, gateway: str) -> None:
            answer = self.http.get(f"{gateway}/videos/{video_id}/content")
            _note(entry, answer, {"sha256": hashlib.sha256(answer.content).hexdigest()})

        self.insist(lambda: self.note("content", video_id, "", load), "content")

    def walk(self, name: str, only: str = "") -> None:
        """Page through the list, from the newest on, each page at any gateway.

        Args:
            name: of the walk.
            only: a filter (``metadata[run]=chaos``) that lets every job of this client's tenant through.
        """
        first = query = f"limit={PAGE}&{only}"
        for _ in range(PAGES):
            sent = query
            entry = self.insist(lambda sent=sent: self.send("list", name, "GET", f"/videos?{sent}", _listed), "list")
            if not entry.seen["more"]:
                return
            query = f"{first}&after={entry.seen['last']}"

    def send(
        self,
        act: Act,
        target: str,
        method: str,
        path: str,
        seen: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        asked: str = "",
        **options: Any,
    ) -> Entry:
        """One request, and what the history keeps of its answer."""

        def ask(entry: Entry, gateway: str) -> None:
            answer = self.http.request(method, f"{gateway}{path}", **options)
            _note(entry, answer, seen(answer.json()) if answer.is_success else {})
            if answer.is_success:
                self.history.sightings.see(answer.json(), f"{method} {path}", entry.epoch)

        return self.note(act, target, asked, ask)

    def note(self, act: Act, target: str, asked: str, ask: Callable[[Entry, str], None]) -> Entry:
        """Note a request to any gateway; without an answer its outcome stays unknown."""
        gateway = self.random.choice(self.fleet.gateways)
        own = {"client": self.name, "tenant": self.tenant, "gateway": gateway.name}
        with self.history.request(**own, act=act, target=target, asked=asked) as entry:
            try:
                ask(entry, f"http://127.0.0.1:{gateway.port}")
            except httpx.TransportError:
                entry.outcome = "unknown"
        return entry

    def insist(self, ask: Callable[[], Entry], what: str, *also: int) -> Entry:
        """Ask until there is an answer, as clients are told to: again after 429 and after any 503."""
        deadline = time.monotonic() + PATIENCE
        while True:
            entry = ask()
            if entry.outcome == "ok" or entry.status in also:
                return entry
            if entry.status not in (None, 200, 429, 503):
                raise AssertionError(f"{what} {entry.target}: {entry.status}")
            assert time.monotonic() < deadline, f"{what} {entry.target}: no answer within {PATIENCE:.0f} s"
            self.retries += 1
            time.sleep(self.random.uniform(0.05, 0.3))


def _note(entry: Entry, answer: httpx.Response, seen: dict[str, Any]) -> None:
    entry.status = answer.status_code
    if answer.is_success:
        entry.outcome, entry.seen = "ok", seen
    elif answer.is_client_error:
        entry.outcome = "refused"


def _created(answer: dict[str, Any]) -> dict[str, Any]:
    return {"ids": [answer["id"]], "place": answer["queue_position"]}


def _seen(answer: dict[str, Any]) -> dict[str, Any]:
    return _event(answer) | {"place": answer["queue_position"], "code": (answer["error"] or {}).get("code")}


def _event(data: dict[str, Any]) -> dict[str, Any]:
    return {name: data.get(name) for name in ("status", "attempt", "progress", "resumed_from_step")}


def _listed(answer: dict[str, Any]) -> dict[str, Any]:
    return {"ids": [video["id"] for video in answer["data"]], "last": answer["last_id"], "more": answer["has_more"]}
