"""The network between one part and one server: cut, one-way too, or slow. A janitor goes its gateway's way."""

from dataclasses import dataclass
from typing import Literal

from chaos.fleet import LEASE_SECONDS, Fleet, Part
from chaos.links import Way
from chaos.scenes import Scene
from chaos.stage import Stage
from chaos.strikes import Fault, Strike, Striker

ANSWER_SECONDS = 10.0
"""After so long without an answer the service counts a server as away: cuts last longer, and shorter."""
Kind = Literal["worker", "gateway"]
Server = Literal["redis", "storage"]
WAYS: tuple[Way, ...] = ("both", "there", "back")
PAIRS: list[tuple[Kind, Server]] = [
    *(("worker", "redis"), ("gateway", "redis")),
    *(("worker", "storage"), ("gateway", "storage")),
]
LATE = {"both": "nothing gets through", "there": "requests are held", "back": "answers are held"}


def parts(fleet: Fleet, kind: Kind) -> list[Part]:
    """The gateways or the workers."""
    return fleet.workers if kind == "worker" else fleet.gateways


@dataclass
class Partition(Fault):
    """One part does not reach one server, or hears nothing of it."""

    kind: Kind
    server: Server
    weight: int = 1

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.kind} cut off from {self.server}"

    def strike(self, site: Striker, strike: Strike) -> None:
        part = site.random.choice(parts(site.fleet, self.kind))
        strike.target, strike.jobs = part.name, site.running(part)
        with part.links[self.server].cut(site.random.choice(WAYS)):
            site.sleep(0.5, ANSWER_SECONDS + 2)


class SlowNetwork(Fault):
    """Everything that one part sends and gets is late."""

    name, weight = "network slow", 2

    def strike(self, site: Striker, strike: Strike) -> None:
        part = site.random.choice(site.fleet.workers + site.fleet.gateways)
        strike.target, strike.jobs = part.name, site.running(part)
        delay = site.random.uniform(0.05, 0.5)
        for link in part.links.values():
            link.delay = delay
        site.sleep(1, 6)
        for link in part.links.values():
            link.delay = 0


@dataclass
class CutOffAt(Scene):
    """The worker of a job is cut off from Redis at a point for longer than its lease; another has the job when the
    network is whole again, and what the first had sent arrives then."""

    point: str
    way: Way
    promise = "of two attempts at a job at one time, the earlier one is refused everything"

    @property
    def name(self) -> str:
        return f"worker cut off from Redis, {LATE[self.way]}: {self.point}"

    def play(self, stage: Stage) -> None:
        client = stage.client()
        ask, orders = stage.create(client, 24, **{self.point: "hold"})
        first = orders[self.point]
        first.wait()
        job = stage.job(ask)
        assert job is not None
        (part,) = [part for part in stage.fleet.workers if part.identity == job.worker]
        second = None
        with part.links["redis"].cut(self.way):
            if self.way == "back":  # its renewals arrive until it misses an answer, so it may well end the job
                first.go_on()
                assert client.see_to_its_end(ask) == "completed", ask.final
            else:  # it is held until another has the job: else it would come to that one's point before it
                second = stage.order("step-20" if self.point.startswith("step") else "decoding", ask, "hold")
                second.wait()
                attempt = client.get(ask.video_id)["attempt"]
                assert attempt == 2, f"{ask.video_id}: attempt {attempt} goes on"
                first.go_on()
                stage.pause(2.0)  # what it sends is on its way
        if second:
            for _ in range(10):
                client.get(ask.video_id)
                stage.pause(0.2)
            second.go_on()
        assert client.see_to_its_end(ask) == "completed", ask.final
        client.download(ask.video_id)
        client.read_events(ask.video_id)


@dataclass
class CutOff(Scene):
    """All gateways or all workers are cut off from a server while clients ask; then the network is whole again."""

    kind: Kind
    server: Server
    way: Way
    seconds: float = ANSWER_SECONDS + 4
    promise = "a cut costs no job anything but time, and the service comes back by itself"

    @property
    def name(self) -> str:
        return f"every {self.kind} cut off from {self.server}: {LATE[self.way]}"

    def play(self, stage: Stage) -> None:
        client, other = stage.client("a"), stage.client("b")
        asks = [(each, stage.create(each, 8)[0]) for each in (client, other)]
        with stage.fleet.cut(parts(stage.fleet, self.kind), self.server, self.way):
            cut_until = stage.now() + self.seconds
            asks += [(other, stage.ask("b", 8)) for _ in range(2)]
            for each, ask in asks[2:]:
                each.try_create(ask)  # whatever comes of it
            while stage.now() < cut_until:
                for each, ask in asks[:2]:
                    each.try_get(ask.video_id)
                stage.pause(0.5)
        for each, ask in asks[2:]:
            each.create(ask)
        for each, ask in asks:
            assert each.see_to_its_end(ask) == "completed", ask.final
            each.download(ask.video_id)
            each.read_events(ask.video_id)
        client.walk(stage.name)


@dataclass
class CancelledBehindACut(Scene):
    """A job is cancelled or deleted while its worker cannot hear of it; what the worker then sends arrives late."""

    act: Literal["cancelled", "deleted"]

    @property
    def promise(self) -> str:  # type: ignore[override]
        return {
            "cancelled": "an acknowledged cancel wins, and leaves no file",
            "deleted": "a deleted id is unknown at once, and nothing of it is left",
        }[self.act]

    @property
    def name(self) -> str:
        return f"{self.act} while its worker is cut off from Redis"

    def play(self, stage: Stage) -> None:
        client = stage.client("b")
        ask, orders = stage.create(client, completing="hold")
        orders["completing"].wait()
        job = stage.job(ask)
        assert job is not None
        (part,) = [part for part in stage.fleet.workers if part.identity == job.worker]
        with part.links["redis"].cut("there"):
            orders["completing"].go_on()
            stage.pause(1)  # its completion is on its way
            ask.cancelled, ask.deleted = self.act == "cancelled", self.act == "deleted"
            (client.cancel if ask.cancelled else client.delete)(ask.video_id)
            stage.pause(LEASE_SECONDS)
        if ask.deleted:
            assert client.look(ask.video_id) == 404, f"{ask.video_id}: is there after its deletion"
        else:
            assert client.see_to_its_end(ask) == "cancelled", f"{ask.video_id}: is {ask.final} after its cancel"
            client.read_events(ask.video_id)


class ListingsDenied(Scene):
    """Storage lets nobody list: what is to be removed cannot be found."""

    name = "listings denied by storage"
    promise = "a deleted id is unknown at once, and nothing of it is left"

    def play(self, stage: Stage) -> None:
        client, all_parts = stage.client(), stage.fleet.gateways + stage.fleet.workers
        asks = [stage.create(client)[0] for _ in range(2)]
        assert client.see_to_its_end(asks[0]) == "completed"
        for part in all_parts:
            part.links["storage"].deny_listings = True
        try:
            asks.append(stage.create(client)[0])
            asks[0].deleted = True
            client.delete(asks[0].video_id)
            assert client.look(asks[0].video_id) == 404
            for ask in asks[1:]:
                assert client.see_to_its_end(ask) == "completed", ask.final
                client.download(ask.video_id)
            stage.pause(2 * LEASE_SECONDS)
            assert client.look(asks[0].video_id) == 404
        finally:
            for part in all_parts:
                part.links["storage"].deny_listings = False


OF_THE_NETWORK: list[Fault] = [*(Partition(*pair) for pair in PAIRS), SlowNetwork()]
SCENES: list[Scene] = [
    *(CutOffAt(point, way) for point, way in (("step-6", "both"), ("uploaded", "there"), ("step-6", "back"))),
    *(CutOff(*pair, way) for pair in PAIRS for way in WAYS),
    CancelledBehindACut("cancelled"),
    CancelledBehindACut("deleted"),
    ListingsDenied(),
]
