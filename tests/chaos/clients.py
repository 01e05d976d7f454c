"""Many clients of two tenants: each asks for one video after another, and looks at what the service says of it."""

import threading
import time
from collections.abc import Callable
from itertools import count
from random import Random

from chaos.client import Ask, Client
from chaos.fleet import TENANTS, Fleet
from chaos.history import History
from chaos.receiver import Receiver

SEEDS = 20
STEPS = (4, 8, 16)


class Clients:
    """Threads that get through a number of jobs.

    Args:
        fleet: whom to ask.
        jobs: how many videos are asked for.
        at_once: number of clients.
        receiver: where webhooks are to go.
        seed: decides what they ask for.
        enough: whether they may then stop; as long as not, they ask for more.
    """

    def __init__(
        self, fleet: Fleet, jobs: int, at_once: int, receiver: Receiver, seed: int, *, enough: Callable[[], bool]
    ) -> None:
        self.fleet, self.jobs, self.seed = fleet, jobs, seed
        self._enough, self._stop = enough, threading.Event()
        self.history = History()
        self.asks: list[Ask] = []
        self.complaints: list[str] = []
        self._numbers, self._keys = count(), {tenant: count() for tenant in TENANTS}
        self.clients = [
            Client(f"client-{n}", tenant, fleet, self.history, Random(f"{seed}-{n}"), receiver.url(tenant))
            for n in range(at_once)
            for tenant in [TENANTS[n % len(TENANTS)]]
        ]
        self._threads = [threading.Thread(target=self._work, args=(each,), daemon=True) for each in self.clients]

    @property
    def retries(self) -> int:
        """Requests that were sent again."""
        return sum(client.retries for client in self.clients)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait(self, seconds: float) -> None:
        """Until every job was seen to its end."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._stop.set()
        if stuck := [ask.video_id for ask in self.asks if not ask.final and not ask.deleted]:
            self.complaints.append(f"not ended within {seconds:.0f} s: {stuck[:10]}")

    def _work(self, client: Client) -> None:
        random = client.random
        while next(self._numbers) < self.jobs or not (self._enough() or self._stop.is_set()):
            # Both tenants use the same keys: they are each tenant's own.
            key = f"{self.seed}-{next(self._keys[client.tenant])}"
            ask = Ask(key, client.tenant, random.randrange(SEEDS), random.choice(STEPS))
            self.asks.append(ask)
            try:
                self._see_through(client, ask)
            except Exception as error:
                self.complaints.append(f"{ask.video_id or ask.key}: {error!r}")

    def _see_through(self, client: Client, ask: Ask) -> None:
        random = client.random
        client.create(ask)
        if random.random() < 0.1:
            client.create(ask)
        if random.random() < 0.1:
            self._reuse_the_key(client, ask)
        if random.random() < 0.3:
            self._spy(random.choice([other for other in self.clients if other.tenant != client.tenant]), ask)
        fate = random.random()
        if fate < 0.07:
            time.sleep(random.uniform(0, 1))
            if fate < 0.03:
                ask.deleted = True
                client.delete(ask.video_id)
                client.look(ask.video_id)
                return
            ask.cancelled = True
            client.cancel(ask.video_id)
        if client.see_to_its_end(ask, 3600.0) == "completed":
            client.download(ask.video_id)
            client.download(ask.video_id)
        client.read_events(ask.video_id)
        if ask.final == "completed" and random.random() < 0.1:
            self._remix(client, ask)
        if random.random() < 0.2:
            client.walk(f"{client.name}-after-{ask.key}", random.choice(["", "metadata[run]=chaos"]))

    def _reuse_the_key(self, client: Client, ask: Ask) -> None:
        """With another request, which is refused."""
        other = Ask(ask.key, ask.tenant, ask.seed + SEEDS, ask.steps)
        client.insist(lambda: client.try_create(other), "create", 422)

    def _remix(self, client: Client, ask: Ask) -> None:
        """Make it once more; with this key no other video can be."""
        remix = Ask(f"{ask.key}-remix", ask.tenant, ask.seed, ask.steps)
        self.asks.append(remix)
        client.create(remix, of=ask.video_id)
        client.insist(lambda: client.try_create(remix, of=remix.video_id), "create", 422)
        if client.see_to_its_end(remix, 3600.0) == "completed":
            client.download(remix.video_id)

    def _spy(self, other: Client, ask: Ask) -> None:
        """Another tenant looks for the video."""
        spy = Client(f"spy-{other.name}", other.tenant, self.fleet, self.history, Random(ask.key))
        spy.look(ask.video_id)
