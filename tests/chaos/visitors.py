"""Those who use the service that is soaked: jobs of all kinds, of several tenants, looked at in several ways."""

import threading
from base64 import b64encode
from collections import Counter
from itertools import count
from random import Random
from typing import Any

from drawn import picture

from chaos.caller import ENDS, PATIENCE, Caller
from chaos.receiver import Receiver
from chaos.service import TENANTS, Service

STUB_VISITORS = 4


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
            with Caller(self.service, tenant) as caller:
                self._receiver.secrets[tenant] = caller.ask("GET", "/webhooks/secret").json()["secret"]
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

    def _visit(self, model: str, random: Random) -> None:
        while not self._stopping.is_set():
            tenant = random.choice(TENANTS)
            try:
                with Caller(self.service, tenant) as caller:
                    self._see_through(caller, tenant, model, random)
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

    def _see_through(self, caller: Caller, tenant: str, model: str, random: Random) -> None:
        number = next(self._numbers)
        body, key = self._body(tenant, model, random), {"Idempotency-Key": f"soak-{number}"}
        answer = caller.ask("POST", "/videos", json=body, headers=key)
        if answer.status_code == 400:  # too long for the interactive queue
            self._count(model, "refused")
            return
        video_id = answer.json()["id"]
        fate = random.random()
        if fate < 0.05:
            caller.ask("DELETE", f"/videos/{video_id}")
            status = "deleted"
        elif fate < 0.1:
            status = caller.ask("POST", f"/videos/{video_id}/cancel").json()["status"]
            status = status if status in ENDS else caller.end(video_id)
        else:
            status = caller.end(video_id, follow=fate < 0.5)
            if status == "completed":
                content = caller.ask("GET", f"/videos/{video_id}/content").content
                assert len(content) > 100, f"{video_id}: {len(content)} bytes"
            caller.ask("GET", "/videos")
        self._count(model, status)
        assert status != "failed", caller.ask("GET", f"/videos/{video_id}").text[:600]

    def _count(self, model: str, what: str) -> None:
        with self._lock:
            self._ended[f"{model} {what}"] += 1
