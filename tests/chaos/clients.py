"""Clients: each asks for one video after another, with an Idempotency-Key, and again whenever it gets no answer."""

import threading
import time
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

import httpx

from chaos.fleet import Fleet

SEEDS = 20
STEPS = (4, 8, 16)


@dataclass
class Ask:
    """What one client asked for, and what it was told."""

    key: str
    seed: int
    steps: int
    video_id: str = ""
    cancelled: bool = False
    deleted: bool = False
    final: str = ""
    """The last status that it was told; none of a deleted job."""


class Clients:
    """Threads that get through a number of jobs.

    Args:
        fleet: whom to ask.
        jobs: how many videos are asked for.
        at_once: number of clients.
        hook: where webhooks are to go.
        seed: decides what they ask for.
    """

    def __init__(self, fleet: Fleet, jobs: int, at_once: int, hook: str, seed: int) -> None:
        self.fleet, self.jobs, self.hook, self.seed = fleet, jobs, hook, seed
        self.asks: list[Ask] = []
        self.complaints: list[str] = []
        self.retries = 0
        self._numbers = count()
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(at_once)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait(self, seconds: float) -> None:
        """Until every job was seen to its end."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if stuck := [ask.video_id for ask in self.asks if not ask.final and not ask.deleted]:
            self.complaints.append(f"not ended within {seconds:.0f} s: {stuck[:10]}")

    def _work(self, client: int) -> None:
        random = Random(f"{self.seed}-{client}")
        with httpx.Client(timeout=5) as http:
            while (number := next(self._numbers)) < self.jobs:
                ask = Ask(f"{self.seed}-{number}", random.randrange(SEEDS), random.choice(STEPS))
                self.asks.append(ask)
                try:
                    self._see_through(http, random, ask)
                except Exception as error:
                    self.complaints.append(f"{ask.video_id or ask.key}: {error!r}")

    def _see_through(self, http: httpx.Client, random: Random, ask: Ask) -> None:
        body = {"prompt": "a red circle", "seed": ask.seed, "steps": ask.steps, "webhook_url": self.hook}
        headers = {"Idempotency-Key": ask.key}
        path = "/videos"
        ask.video_id = self._insist(http, random, "POST", path, json=body, headers=headers)["id"]
        if random.random() < 0.1:
            again = self._insist(http, random, "POST", path, json=body, headers=headers)["id"]
            assert again == ask.video_id, f"doubled by {again}"
        fate = random.random()
        if fate < 0.07:
            time.sleep(random.uniform(0, 1))
            ask.deleted, ask.cancelled = fate < 0.03, fate >= 0.03
            method, end = ("DELETE", "") if ask.deleted else ("POST", "/cancel")
            self._insist(http, random, method, f"{path}/{ask.video_id}{end}", allow_missing=ask.deleted)
        while not ask.deleted:
            found = self._insist(http, random, "GET", f"{path}/{ask.video_id}")
            if found["status"] in ("completed", "failed", "cancelled"):
                ask.final = found["status"]
                return
            time.sleep(0.2)

    def _insist(
        self, http: httpx.Client, random: Random, method: str, path: str, *, allow_missing: bool = False, **options: Any
    ) -> dict[str, Any]:
        """Ask either gateway until one answers."""
        deadline = time.monotonic() + 120
        while True:
            gateway = random.choice(self.fleet.gateways)
            try:
                answer = http.request(method, f"http://127.0.0.1:{gateway.port}{path}", **options)
            except httpx.TransportError:
                answer = None
            if answer is not None and (answer.is_success or (allow_missing and answer.status_code == 404)):
                found: dict[str, Any] = answer.json()
                return found
            if answer is not None and answer.status_code not in (429, 503):
                raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text}")
            assert time.monotonic() < deadline, f"{method} {path}: no answer within 120 s"
            self.retries += 1
            time.sleep(random.uniform(0.05, 0.3))
