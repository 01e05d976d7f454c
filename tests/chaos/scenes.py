"""Scenes of one job: a fault at a named point of its course, and what has to come of the job all the same.

Each acts on jobs of its own, so several play at the same time. What they leave, the audit looks at with all the rest.
"""

import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

from waiting import until

from chaos.client import Ask
from chaos.fleet import MAX_ATTEMPTS
from chaos.points import OF_A_WORKER, SLOW_SECONDS, Deed, Order
from chaos.stage import Stage


class Scene(ABC):
    """A fault at a moment that is chosen. ``play`` raises what is not as it has to be."""

    promise: ClassVar[str]
    """What has to hold."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What is done, as the report has it."""

    @abstractmethod
    def play(self, stage: Stage) -> None:
        """Do it, and see what comes of it."""


@dataclass
class KilledAt(Scene):
    """A worker dies at a point of a job."""

    point: str
    who: Deed = "kill child"
    promise = "a job whose worker dies completes, with the video that it would have had"

    @property
    def name(self) -> str:
        return f"worker killed ({self.who.split()[-1]}): {self.point}"

    def play(self, stage: Stage) -> None:
        client = stage.client()
        ask, orders = stage.create(client, **{self.point: self.who})
        orders[self.point].wait()
        assert client.see_to_its_end(ask) == "completed", ask.final
        client.download(ask.video_id)
        events = client.read_events(ask.video_id)
        resumed = max(event["resumed_from_step"] or 0 for event in events)
        late = OF_A_WORKER.index(self.point) >= OF_A_WORKER.index("checkpointed")
        assert self.point == "completed" or not late or resumed, f"{ask.video_id}: began at step 0 again"


@dataclass
class StoppedAt(Scene):
    """A worker stands still at a point for longer than its lease, and goes on while another has the job."""

    point: str
    promise = "of two attempts at a job at one time, the earlier one is refused everything"

    @property
    def name(self) -> str:
        return f"worker stopped for longer than its lease: {self.point}"

    def play(self, stage: Stage) -> None:
        client = stage.client("b")
        ask, orders = stage.create(client, 24, **{self.point: "stop"})
        first = orders[self.point]
        first.wait()
        second = stage.order("step-20" if self.point.startswith("step") else "decoding", ask, "hold")
        second.wait()
        assert client.get(ask.video_id)["attempt"] == 2
        stage.go_on_beside(first, second, client, ask)
        assert client.see_to_its_end(ask) == "completed", ask.final
        client.download(ask.video_id)
        client.read_events(ask.video_id)


@dataclass
class CancelledAt(Scene):
    """A job is cancelled while its worker is at a point."""

    point: str
    promise = "an acknowledged cancel wins, and leaves no file"

    @property
    def name(self) -> str:
        return f"cancelled: {self.point}"

    def play(self, stage: Stage) -> None:
        client = stage.client()
        ask, orders = stage.create(client, **{self.point: "hold"})
        (order,) = orders.values()
        order.wait()
        ask.cancelled = True
        client.cancel(ask.video_id)
        order.go_on()
        assert client.see_to_its_end(ask) == "cancelled", f"{ask.video_id}: is {ask.final} after its cancel"
        client.read_events(ask.video_id)


class CancelledInASlowPhase(Scene):
    """A job is cancelled in a phase that has no steps and takes long."""

    name = "cancelled: a slow decoding"
    promise = "a cancel stops its worker within seconds, in each phase"

    def play(self, stage: Stage) -> None:
        client = stage.client("b")
        ask, orders = stage.create(client, decoding="slow", decoded="hold")
        orders["decoding"].wait()
        ask.cancelled = True
        client.cancel(ask.video_id)
        began = time.monotonic()
        orders["decoded"].wait()
        took = time.monotonic() - began
        orders["decoded"].go_on()
        assert took < SLOW_SECONDS / 2, f"{ask.video_id}: was decoded for {took:.0f} s after its cancel"
        assert client.see_to_its_end(ask) == "cancelled", f"{ask.video_id}: is {ask.final} after its cancel"


@dataclass
class DeletedAt(Scene):
    """A job is deleted while its worker is at a point."""

    point: str
    promise = "a deleted id is unknown at once, and nothing of it is left"

    @property
    def name(self) -> str:
        return f"deleted: {self.point}"

    def play(self, stage: Stage) -> None:
        client = stage.client("b")
        ask, orders = stage.create(client, **{self.point: "hold"})
        (order,) = orders.values()
        order.wait()
        ask.deleted = True
        client.delete(ask.video_id)
        assert client.look(ask.video_id) == 404, f"{ask.video_id}: is there after its deletion"
        client.walk(f"{stage.name} {ask.key}")
        order.go_on()
        until(lambda: stage.job(ask) is None, f"{ask.video_id}: its record is removed")


class DeletedWhileItsWorkerStops(Scene):
    """A worker stands still with its files written; its job is deleted and removed meanwhile."""

    name = "deleted while its worker is stopped"
    promise = "a deleted id is unknown at once, and nothing of it is left"

    def play(self, stage: Stage) -> None:
        client = stage.client()
        ask, orders = stage.create(client, uploading="stop")
        order: Order = orders["uploading"]
        order.wait()
        ask.deleted = True
        client.delete(ask.video_id)
        until(lambda: stage.job(ask) is None, f"{ask.video_id}: its record is removed")
        order.go_on()


@dataclass
class StorageLies(Scene):
    """Storage says that it took a file of which it keeps nothing, or a part."""

    deed: Deed
    promise = "a job is completed only with files that storage has"

    @property
    def name(self) -> str:
        return f"storage took a file: {self.deed}"

    def play(self, stage: Stage) -> None:
        client = stage.client()
        ask, orders = stage.create(client, stored=self.deed)
        orders["stored"].wait()
        assert client.see_to_its_end(ask) == "completed", ask.final
        client.download(ask.video_id)


class PoisonJob(Scene):
    """A job kills every worker that takes it."""

    name = "a job that kills its workers"
    promise = "a job is given up after its attempts, and others go on"

    def play(self, stage: Stage) -> None:
        client = stage.client()
        ask, orders = stage.create(client, claimed="kill child")
        ask.fails = "worker_lost"
        for _ in range(MAX_ATTEMPTS - 1):
            orders["claimed"].wait()
            orders["claimed"] = stage.order("claimed", ask, "kill child")
        orders["claimed"].wait()
        assert client.see_to_its_end(ask) == "failed", f"{ask.video_id}: is {ask.final}"
        read = client.get(ask.video_id)
        assert (read["code"], read["attempt"]) == ("worker_lost", MAX_ATTEMPTS), f"{ask.video_id}: {read}"


class GatewayDiesAnswering(Scene):
    """A gateway dies when it has accepted a job and not yet answered."""

    name = "gateway killed: admitted"
    promise = "a request that is repeated with its Idempotency-Key makes one job"

    def play(self, stage: Stage) -> None:
        client = stage.client("b")
        ask, orders = stage.create(client, admitted="kill group")
        orders["admitted"].wait()
        assert client.retries, "its gateway died"
        other = Ask(ask.key, ask.tenant, ask.seed, ask.steps + 1)
        client.insist(lambda: client.try_create(other), "create", 422)
        assert client.see_to_its_end(ask) == "completed", ask.final


class GatewayDiesWithTheBell(Scene):
    """A gateway dies when it has answered and not yet rung the job's bell."""

    name = "gateway killed: answered"
    promise = "an accepted job is run though its bell was never rung"

    def play(self, stage: Stage) -> None:
        client = stage.client("b")
        ask, orders = stage.create(client, answered="kill group")
        orders["answered"].wait()
        assert client.see_to_its_end(ask) == "completed", ask.final


@dataclass
class ManyAtOnce(Scene):
    """One request comes many times at the same time, to both gateways."""

    times: int = 5
    name = "one request eight times at once"
    promise = "a request that is repeated with its Idempotency-Key makes one job"

    def play(self, stage: Stage) -> None:
        for _ in range(self.times):
            ask, clients = stage.ask(steps=1), [stage.client() for _ in range(8)]
            with ThreadPoolExecutor(len(clients)) as pool:
                found = set(pool.map(lambda client, ask=ask: client.create(ask), clients))
            assert len(found) == 1, f"{ask.key}: gave {sorted(found)}"
            clients[0].see_to_its_end(ask)


OF_A_JOB: list[Scene] = [
    *(CancelledAt(point) for point in ("claimed", "step-6", "uploading", "completing")),
    *(DeletedAt(point) for point in ("step-6", "uploaded", "completing")),
    ManyAtOnce(),
    CancelledInASlowPhase(),
    StorageLies("keep nothing"),
    StorageLies("keep a part"),
    GatewayDiesAnswering(),
    GatewayDiesWithTheBell(),
    StoppedAt("step-6"),
    StoppedAt("uploaded"),
    DeletedWhileItsWorkerStops(),
    *(KilledAt(point) for point in OF_A_WORKER),
    KilledAt("step-6", "kill group"),
    PoisonJob(),
]
