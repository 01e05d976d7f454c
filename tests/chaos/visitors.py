"""Those who use the service that is soaked: jobs of all kinds, of several tenants, looked at in several ways."""

import threading
import time
from base64 import b64encode
from collections import Counter
from itertools import count
from random import Random
from typing import Any

import httpx
from drawn import picture

from chaos.receiver import Receiver
from chaos.service import TENANTS, Service

ENDS = ("completed", "failed", "cancelled")
STUB_VISITORS = 4
PATIENCE = 900.0


class Visitors:
    """Threads that ask for one video after another.

    Args:
        service: whom to ask.
        seed: decides what is asked.
    """

    def __init__(self, service: Service, seed: int) -> None:
        self.service, self.complaints = service, list[str]()
        self._ended, self._lock = Counter[str](), threading.Lock()
        self._numbers, self._stopping = count(), threading.Event()
        self._receiver = Receiver(Random(f"{seed}-receiver"), TENANTS)
        models = ["stub"] * STUB_VISITORS + ["demo", "demo-image"]
        self._threads = [
            threading.Thread(target=self._visit, args=(model, Random(f"{seed}-{n}")), daemon=True)
            for n, model in enumerate(models)
        ]

    def start(self) -> None:
        """Let them come."""
        for tenant in TENANTS:
            with self._http(tenant) as http:
                secret = http.get(f"{self._gateway(0)}/webhooks/secret").raise_for_status().json()["secret"]
                self._receiver.secrets[tenant] = secret
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait until each has seen its last video to its end."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        self.complaints += self._receiver.forged

    def counts(self) -> dict[str, int]:
        """Jobs by model and end."""
        return dict(sorted(self._ended.items()))

    def _gateway(self, number: int) -> str:
        return f"http://127.0.0.1:{self.service.ports[number % len(self.service.ports)]}/v1"

    def _http(self, tenant: str) -> httpx.Client:
        return httpx.Client(timeout=30, headers={"Authorization": f"Bearer {self.service.keys[tenant]}"})

    def _visit(self, model: str, random: Random) -> None:
        while not self._stopping.is_set():
            tenant = random.choice(TENANTS)
            try:
                with self._http(tenant) as http:
                    self._see_through(http, tenant, model, random)
            except Exception as error:
                self.complaints.append(f"{model}: {error!r}")
                print(self.complaints[-1], flush=True)
            self._stopping.wait(random.uniform(0.2, 1.0))

    def _body(self, tenant: str, model: str, random: Random) -> dict[str, Any]:
        steps = random.choice((2, 3)) if model != "stub" else random.choice((4, 8, 16))
        body: dict[str, Any] = {"model": model, "prompt": "a red circle moves right", "steps": steps}
        body |= {"seed": random.randrange(2**31), "priority": random.choice(("interactive", "bulk"))}
        if model == "stub":
            body |= {"size": random.choice(("64x64", "96x64", "128x128")), "num_frames": random.choice((5, 9))}
        if model != "demo-image" and random.random() < 0.3:
            body["loras"] = [{"name": "look", "scale": random.choice((0.5, 1.0))}]
        if model == "demo-image" or (model == "stub" and random.random() < 0.3):
            body["input_reference"] = f"data:image/png;base64,{b64encode(picture()).decode()}"
        if random.random() < 0.5:
            body["webhook_url"] = self._receiver.url(tenant)
        return body

    def _see_through(self, http: httpx.Client, tenant: str, model: str, random: Random) -> None:
        number = next(self._numbers)
        body, key = self._body(tenant, model, random), {"Idempotency-Key": f"soak-{number}"}
        answer = self._insist(http, "POST", "/videos", json=body, headers=key)
        if answer.status_code == 400:  # too long for the interactive queue
            self._count(model, "refused")
            return
        video_id = answer.json()["id"]
        fate = random.random()
        if fate < 0.05:
            self._insist(http, "DELETE", f"/videos/{video_id}")
            status = "deleted"
        elif fate < 0.1:
            status = self._insist(http, "POST", f"/videos/{video_id}/cancel").json()["status"]
            status = status if status in ENDS else self._end(http, video_id)
        else:
            status = self._end(http, video_id, follow=fate < 0.5)
            if status == "completed":
                content = self._insist(http, "GET", f"/videos/{video_id}/content").content
                assert len(content) > 100, f"{video_id}: {len(content)} bytes"
            self._insist(http, "GET", "/videos")
        self._count(model, status)
        assert status != "failed", self._insist(http, "GET", f"/videos/{video_id}").text[:600]

    def _count(self, model: str, what: str) -> None:
        with self._lock:
            self._ended[f"{model} {what}"] += 1

    def _end(self, http: httpx.Client, video_id: str, follow: bool = False) -> str:
        """Follow or poll a video until it has ended; its status."""
        deadline = time.monotonic() + PATIENCE
        if follow:
            try:
                with http.stream("GET", f"{self._gateway(next(self._numbers))}/videos/{video_id}/events") as answer:
                    for _ in answer.iter_lines():
                        pass
            except httpx.TransportError:  # a gateway was restarted
                pass
        while (status := self._insist(http, "GET", f"/videos/{video_id}").json()["status"]) not in ENDS:
            assert time.monotonic() < deadline, f"{video_id}: is {status} after {PATIENCE:.0f} s"
            time.sleep(0.3)
        return str(status)

    def _insist(self, http: httpx.Client, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask one gateway or the other until one answers."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = http.request(method, self._gateway(next(self._numbers)) + path, **more)
                if method == "DELETE" and answer.status_code == 404:
                    return answer  # an earlier request, whose answer was lost, has done so
                if answer.status_code == 400 and answer.json()["error"]["param"] == "priority":
                    return answer
                if answer.status_code not in (429, 503):
                    return answer.raise_for_status()
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"{method} {path}: no answer"
            time.sleep(0.5)
