"""Scenes of the whole service, one after another while nothing else goes on: power, clocks, lost tails, a backlog."""

import signal
import time
from dataclasses import dataclass
from typing import Literal

from adaspa_jobs.append_only import SYNC_SECONDS
from waiting import until

from chaos.client import Ask, Client
from chaos.fleet import MODEL, QUEUE_CAP
from chaos.scenes import Scene
from chaos.stage import Stage

DAY = 86400


class Backlog(Scene):
    """Jobs wait while every worker stands still, and then dies; their bells are lost."""

    name = "all workers killed with a backlog, its messages lost"
    promise = "places in the queue are as told, owners take turns, and every job that waits is run"

    def play(self, stage: Stage) -> None:
        one, other = stage.client("a"), stage.client("b")
        with stage.fleet.workers_stopped():
            asks = [(one, stage.ask("a")) for _ in range(3)] + [(other, stage.ask("b"))]
            for client, ask in asks:
                client.create(ask)
            assert other.look(asks[0][1].video_id) == 404, "another tenant sees it"
            places = [client.get(ask.video_id)["place"] for client, ask in asks]
            assert sorted(places) == [1, 2, 3, 4], f"places in the queue: {places}"
            # Its own latest job, which has run, may still count: then another's second is before it, and no third.
            assert places[3] <= 3, f"who has one job waits behind another's three: {places}"
            for key in stage.store.client.scan_iter(f"generate.{MODEL}*"):
                stage.store.client.delete(key)
            for worker in stage.fleet.workers:
                worker.signal(signal.SIGKILL)
        for client, ask in asks:
            assert client.see_to_its_end(ask) == "completed", ask.final


class FullQueue(Scene):
    """One tenant fills the queue."""

    name = "queue filled by one tenant"
    promise = "the cap holds, and keeps no other tenant out"

    def play(self, stage: Stage) -> None:
        one, other = stage.client("a"), stage.client("b")
        with stage.fleet.workers_stopped():
            asks: list[tuple[Client, Ask]] = []
            for _ in range(QUEUE_CAP + 5):
                ask = stage.ask("a", 1)
                entry = one.try_create(ask)
                assert entry.status in (200, 429), entry
                if entry.status == 429:
                    stage.clients.asks.remove(ask)
                    break
                (ask.video_id,) = entry.seen["ids"]
                asks.append((one, ask))
            assert len(asks) == QUEUE_CAP, f"{len(asks)} jobs in a queue for {QUEUE_CAP}"
            asks.append((other, stage.ask("b", 1)))
            other.create(asks[-1][1])
            one.walk(stage.name)
        for client, ask in asks:
            client.see_to_its_end(ask)


class Expiry(Scene):
    """The time of an ended job is over."""

    name = "a job's time is over"
    promise = "what has expired is removed, and nothing else"

    def play(self, stage: Stage) -> None:
        client = stage.client()
        ask, _ = stage.create(client)
        client.see_to_its_end(ask)
        until(lambda: ask.video_id in stage.receiver.got, "its webhook comes")
        ask.deleted = True
        about = {"client": self.name, "tenant": client.tenant, "gateway": "a janitor", "target": ask.video_id}
        with stage.clients.history.request(act="delete", **about):  # lists may lack it from now on
            stage.store.client.zadd("adaspa:expiry", {ask.video_id: 0})
            until(lambda: stage.job(ask) is None, f"{ask.video_id}: expired, and still there")
        client.delete(ask.video_id)
        assert client.look(ask.video_id) == 404


class ClockSet(Scene):
    """The clock of Redis' machine is set while jobs wait, run and are kept."""

    name = "clock of Redis set by a day, and back"
    promise = "a clock that is set costs no job anything, and ids stay in order"

    def play(self, stage: Stage) -> None:
        client = stage.client()
        kept, _ = stage.create(client)
        client.see_to_its_end(kept)
        running, orders = stage.create(client, decoding="hold")
        orders["decoding"].wait()
        waiting = [stage.create(client, **{"step-2": "hold"}) for _ in stage.fleet.workers]
        for seconds in (DAY * 9, -120, 0):
            stage.fleet.shim.set_clock("valkey", seconds)
            time.sleep(2.5)  # janitors look
            assert client.look(kept.video_id) == 200, f"{kept.video_id}: expired as the clock was set"
            assert client.get(running.video_id)["attempt"] == 1, "a job that runs was taken from its worker"
            waiting.append(stage.create(client, **{"step-2": "hold"}))
        orders["decoding"].go_on()
        for ask, held in [(running, orders), *waiting]:
            for order in held.values():
                order.go_on()
            assert client.see_to_its_end(ask) == "completed", ask.final
        assert client.get(running.video_id)["attempt"] == 1
        for ask in [stage.create(client, 1)[0] for _ in range(25)]:  # more than a page, by ids ahead of the clock
            client.see_to_its_end(ask)
        client.walk(stage.name)
        stage.fleet.kill_valkey()  # one whose clock was set back syncs no more until that has caught up
        stage.fleet.start_valkey()
        stage.fleet.wait_until_ready()


class ClocksDiffer(Scene):
    """The clocks of gateways and workers are wrong, each in its own way."""

    name = "clocks of gateways and workers off by minutes"
    promise = "no clock but Redis' counts"

    def play(self, stage: Stage) -> None:
        client, parts = stage.client("b"), stage.fleet.gateways + stage.fleet.workers
        for number, part in enumerate(parts):
            stage.fleet.shim.set_clock(part.name, (-200, 200, 400, -400, 250)[number])
        asks = [stage.create(client)[0] for _ in range(3)]
        for ask in asks:
            assert client.see_to_its_end(ask) == "completed", ask.final
            client.download(ask.video_id)
        client.walk(stage.name)
        for part in parts:
            stage.fleet.shim.set_clock(part.name, 0)


@dataclass
class PowerCut(Scene):
    """Power goes right after an answer: of Redis' file, what was not synced is lost."""

    act: Literal["cancel", "delete", "complete"]
    promise = "an acknowledged cancel or deletion and a completed job survive a power cut"

    @property
    def name(self) -> str:
        return f"power cut: {self.act}"

    def play(self, stage: Stage) -> None:
        client, fleet = stage.client(), stage.fleet
        if self.act == "complete":
            ask, orders = stage.create(client, completed="hold")
            orders["completed"].wait()
            fleet.cut_power(stage.clients.history)
            orders["completed"].go_on()
        else:
            with fleet.workers_stopped():
                ask = self.acted(stage, client)
                fleet.cut_power(stage.clients.history)
        fleet.wait_until_ready()
        if ask.deleted:
            assert client.look(ask.video_id) == 404, f"{ask.video_id}: was deleted, and is back"
        else:
            ask.final = client.get(ask.video_id)["status"]
            assert ask.final == {"cancel": "cancelled", "complete": "completed"}[self.act], f"is {ask.final} again"

    def acted(self, stage: Stage, client: Client) -> Ask:
        """Cancel or delete a job, and another if the answer did not wait for the disk, which was too slow for that."""
        while True:
            ask, _ = stage.create(client)
            until(stage.store.file.synced, "Redis' file is on the disk")
            ask.cancelled, ask.deleted = self.act == "cancel", self.act == "delete"
            asked_at = time.monotonic()
            (client.cancel if ask.cancelled else client.delete)(ask.video_id)
            if time.monotonic() - asked_at < SYNC_SECONDS:
                return ask


class PowerCutAfterAccepting(Scene):
    """Power goes right after jobs were accepted. With ``everysec`` they may be lost: that is measured."""

    name = "power cut: accept"
    promise = "whoever asks again with the same Idempotency-Key gets the job made"

    def play(self, stage: Stage) -> None:
        client, fleet = stage.client("b"), stage.fleet
        with fleet.workers_stopped():
            asks = [stage.ask("b") for _ in range(10)]
            for ask in asks:
                client.create(ask)
            fleet.cut_power(stage.clients.history)
        fleet.wait_until_ready()
        lost = sum(client.look(ask.video_id) == 404 for ask in asks)
        stage.measured["lost of 10 jobs that were accepted right before a power cut"] = lost
        assert fleet.fsync != "always" or not lost
        for ask in asks:
            client.create(ask)
            assert client.see_to_its_end(ask) == "completed", ask.final


class LostTail(Scene):
    """The end of Redis' file is lost, with the claim of a job whose worker stands still: its number is given again."""

    name = "append-only file cut back behind a claim"
    promise = "of two attempts at a job at one time, the earlier one is refused everything"

    def play(self, stage: Stage) -> None:
        client = stage.client()
        with stage.fleet.workers_stopped():
            ask, orders = stage.create(client, 24, **{"step-6": "stop"})
            size = stage.fleet.append_only_file.stat().st_size
        orders["step-6"].wait()
        second = stage.order("step-20", ask, "hold")
        stage.fleet.cut_power(stage.clients.history, back_to=size)
        stage.fleet.wait_until_ready()
        second.wait()
        assert client.get(ask.video_id)["attempt"] == 1, "the first claim is forgotten"
        stage.go_on_beside(orders["step-6"], second, client, ask)
        assert client.see_to_its_end(ask) == "completed", ask.final
        client.download(ask.video_id)
        client.read_events(ask.video_id)


OF_THE_SERVICE: list[Scene] = [
    Backlog(),
    FullQueue(),
    Expiry(),
    ClockSet(),
    ClocksDiffer(),
    PowerCut("cancel"),
    PowerCut("delete"),
    PowerCut("complete"),
    PowerCutAfterAccepting(),
    LostTail(),
]
