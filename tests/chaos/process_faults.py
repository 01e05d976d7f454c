"""Processes that die, stand still, or are told to end."""

import signal
import time
from dataclasses import dataclass

from waiting import PATIENCE

from chaos.fleet import LEASE_SECONDS, Part
from chaos.strikes import Fault, Strike, Striker

DONE_BY = {signal.SIGKILL: "killed", signal.SIGSTOP: "stopped", signal.SIGTERM: "terminated"}


def hold(site: Striker, part: Part, longest: float) -> None:
    """Let a part stand still for a while."""
    part.signal(signal.SIGSTOP)
    site.sleep(0.2, longest)
    part.signal(signal.SIGCONT)


@dataclass
class WorkerStruck(Fault):
    """A worker gets a signal: all of it, its first process, or the one that runs jobs, which is what the kernel kills
    for want of memory."""

    number: signal.Signals
    weight: int

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"worker {DONE_BY[self.number]}"

    def strike(self, site: Striker, strike: Strike) -> None:
        part = site.random.choice(site.fleet.workers)
        strike.target, strike.jobs = part.name, site.running(part)
        if self.number == signal.SIGSTOP:
            hold(site, part, 2 * LEASE_SECONDS)
        else:
            who = site.random.choice(["group", "parent", "child"]) if self.number == signal.SIGKILL else "parent"
            part.signal(self.number, who)


@dataclass
class GatewayStruck(Fault):
    """A gateway gets a signal."""

    number: signal.Signals
    weight: int = 2

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"gateway {DONE_BY[self.number]}"

    def strike(self, site: Striker, strike: Strike) -> None:
        part = site.random.choice(site.fleet.gateways)
        strike.target = part.name
        if self.number == signal.SIGSTOP:
            hold(site, part, 3)
        else:
            part.signal(self.number, "parent")
        deadline = time.monotonic() + PATIENCE
        while not part.answers():
            assert time.monotonic() < deadline, f"{part.name} does not come back"
            time.sleep(0.05)
        strike.answered_at = time.time()


class ValkeyKilled(Fault):
    """Redis' process dies, and comes back on its file."""

    name, weight = "valkey killed", 2

    def strike(self, site: Striker, strike: Strike) -> None:
        strike.jobs = site.running()
        site.fleet.kill_valkey()
        site.sleep(0, 2)
        site.fleet.start_valkey()


class ValkeyStopped(Fault):
    """Redis takes connections and answers nothing."""

    name, weight = "valkey stopped", 1

    def strike(self, site: Striker, strike: Strike) -> None:
        strike.jobs = site.running()
        site.fleet.valkey.send_signal(signal.SIGSTOP)
        site.sleep(0.5, LEASE_SECONDS)
        site.fleet.valkey.send_signal(signal.SIGCONT)


class StorageAway(Fault):
    """Storage refuses connections."""

    name, weight = "storage away", 2

    def strike(self, site: Striker, strike: Strike) -> None:
        strike.jobs = site.running()
        site.fleet.storage.stop()
        site.sleep(0.5, 4)
        site.fleet.start_storage()


class StorageStopped(Fault):
    """Storage takes connections and answers nothing, also for longer than a lease."""

    name, weight = "storage stopped", 2

    def strike(self, site: Striker, strike: Strike) -> None:
        strike.jobs = site.running()
        site.fleet.storage.signal(signal.SIGSTOP)
        site.sleep(0.5, 2 * LEASE_SECONDS)
        site.fleet.storage.signal(signal.SIGCONT)


OF_PROCESSES: list[Fault] = [
    WorkerStruck(signal.SIGKILL, 5),
    WorkerStruck(signal.SIGSTOP, 3),
    WorkerStruck(signal.SIGTERM, 3),
    *(GatewayStruck(number) for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)),
    ValkeyKilled(),
    ValkeyStopped(),
    StorageAway(),
    StorageStopped(),
]
