"""Disks that are full or slow. The library put before a process makes them so, for that process alone: see power.py."""

import time
from dataclasses import dataclass
from typing import Literal

from chaos.fleet import LEASE_SECONDS
from chaos.scenes import Scene
from chaos.stage import Stage
from chaos.strikes import Fault, Strike, Striker

Disk = Literal["valkey", "storage", "worker"]
FULL_SECONDS = 6.0
OF = {"valkey": "disk of the append-only file", "storage": "storage's disk", "worker": "a worker's scratch disk"}


@dataclass
class DiskFull(Fault):
    """Every write to a file fails for want of room, for a while."""

    disk: Disk
    weight: int = 1

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{OF[self.disk]} full"

    def strike(self, site: Striker, strike: Strike) -> None:
        part = site.random.choice(site.fleet.workers) if self.disk == "worker" else None
        strike.target = part.name if part else self.disk
        strike.jobs = site.running(part)
        site.fleet.shim.fill_disk(strike.target)
        site.sleep(0.5, 2 * LEASE_SECONDS)
        site.fleet.shim.fill_disk(strike.target, False)


class SlowSyncs(Fault):
    """Each sync of the append-only file takes long: Redis puts off its writes, and stands still in between."""

    name, weight = "append-only file synced slowly", 1

    def strike(self, site: Striker, strike: Strike) -> None:
        strike.jobs = site.running()
        site.fleet.shim.slow_syncs("valkey", site.random.uniform(0.3, 3))
        site.sleep(2, 8)
        site.fleet.shim.slow_syncs("valkey", 0)


@dataclass
class FilledAt(Scene):
    """A disk is full while a job is made, and has room again some seconds later."""

    disk: Disk
    promise = "a full disk costs no job anything but time, and what was answered stays true"

    @property
    def name(self) -> str:
        return f"{OF[self.disk]} full for {FULL_SECONDS:.0f} s"

    def play(self, stage: Stage) -> None:
        client, shim = stage.client(), stage.fleet.shim
        names = [part.name for part in stage.fleet.workers] if self.disk == "worker" else [self.disk]
        held, orders = stage.create(client, decoding="hold")
        orders["decoding"].wait()
        for name in names:
            shim.fill_disk(name)
        orders["decoding"].go_on()
        late = stage.ask()
        until = time.monotonic() + FULL_SECONDS
        while time.monotonic() < until:
            client.try_create(late)
            client.try_get(held.video_id)
            time.sleep(0.5)
        for name in names:
            shim.fill_disk(name, False)
        client.create(late)
        for ask in (held, late):
            assert client.see_to_its_end(ask) == "completed", ask.final
            client.download(ask.video_id)
            client.read_events(ask.video_id)


class PowerCutOnASlowDisk(Scene):
    """Power goes right after cancels that were answered while a sync took seconds: how many are undone is measured."""

    name = "power cut right after cancels, syncs of 3 s"
    promise = "what Redis knows after a power cut is whole, and a job whose cancel is lost goes on as if none had come"

    def play(self, stage: Stage) -> None:
        client, fleet = stage.client(), stage.fleet
        with fleet.workers_stopped():
            asks = [stage.create(client)[0] for _ in range(4)]
            time.sleep(FULL_SECONDS / 2)
            fleet.shim.slow_syncs("valkey", 3)
            for ask in asks:
                stage.store.request_cancel(ask.video_id)  # by no client: that it comes back is measured
            fleet.cut_power(stage.clients.history)
            fleet.shim.slow_syncs("valkey", 0)
            fleet.wait_until_ready()
            jobs = [stage.job(ask) for ask in asks]
            undone = [ask for ask, job in zip(asks, jobs, strict=True) if job and job.status != "cancelled"]
            stage.measure("undone of 4 cancels by a power cut, syncs of 3 s", len(undone))
        for ask in asks:
            ask.undone = ask in undone
            ask.cancelled = not ask.undone
            client.see_to_its_end(ask)


SCENES: list[Scene] = [*(FilledAt(disk) for disk in ("valkey", "storage", "worker")), PowerCutOnASlowDisk()]
OF_DISKS: list[Fault] = [*(DiskFull(disk) for disk in ("valkey", "storage", "worker")), SlowSyncs()]
