"""What a scene acts with: the running service, clients of both tenants, and orders for the points of a job."""

import time
from dataclasses import dataclass
from itertools import count
from random import Random

from adaspa_jobs.job import Job
from adaspa_jobs.store import JobStore
from waiting import until

from chaos.client import Ask, Client
from chaos.clients import Clients
from chaos.fleet import Fleet
from chaos.points import Deed, Order
from chaos.receiver import Receiver

SEEDS_OF_SCENES = count(1000)


@dataclass
class Stage:
    """One scene's view of the run.

    Args:
        fleet: the service.
        clients: whose asks and history the scene's are added to.
        receiver: of webhooks.
        name: of the scene.
        measured: figures that the report is to have.
    """

    fleet: Fleet
    clients: Clients
    receiver: Receiver
    name: str
    measured: dict[str, int]

    def __post_init__(self) -> None:
        self.store = JobStore(self.fleet.client())
        self.random = Random(f"{self.clients.seed}-{self.name}")

    def client(self, tenant: str = "a") -> Client:
        """A client that is the scene's own."""
        history, hook = self.clients.history, self.receiver.url(tenant)
        return Client(f"{self.name} ({tenant})", tenant, self.fleet, history, self.random, hook)

    def ask(self, tenant: str = "a", steps: int = 16) -> Ask:
        """A video to be asked for; no other has its seed."""
        seed = next(SEEDS_OF_SCENES)
        asked = Ask(f"{self.clients.seed}-scene-{seed}", tenant, seed, steps)
        self.clients.asks.append(asked)
        return asked

    def create(self, client: Client, steps: int = 16, **orders: Deed) -> tuple[Ask, dict[str, Order]]:
        """Ask for a video for whose course there are orders (``uploading="stop"``), and see it accepted."""
        ask = self.ask(client.tenant, steps)
        made = {point: self.order(point, ask, deed) for point, deed in orders.items()}
        client.create(ask)
        return ask, made

    def go_on_beside(self, first: Order, second: Order, client: Client, ask: Ask) -> None:
        """Let an attempt that has been replaced go on, and do what it can, before the one that replaced it does."""
        first.go_on()
        for _ in range(10):
            client.get(ask.video_id)
            time.sleep(0.2)
        second.go_on()

    def measure(self, what: str, value: float) -> None:
        """Note a figure for the report; of several with one name the largest."""
        self.measured[what] = max(round(value), self.measured.get(what, 0))

    def pause(self, seconds: float) -> None:
        """Let a fault last."""
        time.sleep(seconds)

    def now(self) -> float:
        """Seconds of a clock that no fault moves."""
        return time.monotonic()

    def order(self, point: str, ask: Ask, deed: Deed) -> Order:
        """Post an order for a video."""
        return Order(self.fleet.orders, point, ask.seed, deed)

    def job(self, ask: Ask) -> Job | None:
        """The record, as the store has it."""
        return self.store.get(ask.video_id)

    def attempt(self, ask: Ask, number: int) -> None:
        """Wait until an attempt of this number runs."""
        until(lambda: (job := self.job(ask)) and job.attempt >= number, f"{ask.video_id}: attempt {number}")
