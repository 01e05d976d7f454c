"""Disks that are full or slow. The library put before a process makes them so, for that process alone: see power.py."""

from dataclasses import dataclass
from typing import Literal

from chaos.fleet import LEASE_SECONDS
from chaos.strikes import Fault, Strike, Striker

Disk = Literal["valkey", "storage", "worker"]
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


OF_DISKS: list[Fault] = [*(DiskFull(disk) for disk in ("valkey", "storage", "worker")), SlowSyncs()]
