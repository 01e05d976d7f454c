"""What many workers ask of the parts that all of them share, and which of these gives out first."""

from dataclasses import dataclass
from pathlib import Path

from adaspa_jobs.settings import Settings
from adaspa_service.gateway.janitor import EVERY_SECONDS
from adaspa_worker.lease import HEAR_SECONDS, RENEWED_SHARE
from pydantic import BaseModel, ConfigDict

from benchmarks.capacity.phases import Limits, ModelTimes

SCRAPE_SECONDS = 15.0
GATEWAYS = 2
"""At least."""
FOLLOWERS = 1
"""Clients that follow a job, from its admission to its end."""


class Cost(BaseModel):
    """What one occurrence of something costs the server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu_seconds: float
    commands: float
    bytes_in: float
    bytes_out: float
    log_bytes: float
    memory_bytes: float


class Connections(BaseModel):
    """Of one worker."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    idle: int
    busy: int
    memory_bytes: int
    """Of one connection."""


class JobMemory(BaseModel):
    """Bytes of a job."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    waiting: int
    running: int
    ended: int


class RedisCost(BaseModel):
    """The file: ``redis.json``, as ``redis_cost`` writes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    server: str
    costs: dict[str, Cost]
    memory_bytes: JobMemory
    connections: Connections

    @classmethod
    def load(cls, path: Path) -> "RedisCost":
        """Read the file. Raises OSError, pydantic.ValidationError."""
        return cls.model_validate_json(path.read_bytes())


@dataclass(frozen=True)
class Demand:
    """What a number of busy workers asks for."""

    workers: int
    jobs_a_second: float
    redis_commands: float
    """A second, those inside scripts counted too."""
    redis_cpu_share: float
    """Of its one thread."""
    redis_connections: float
    redis_memory_gigabytes: float
    log_megabytes: float
    """Written to the append-only file in a second."""
    storage_gigabits: float
    """A second: videos and checkpoints."""


def rates(workers: int, model: ModelTimes, settings: Settings) -> dict[str, float]:
    """How often a second what ``redis_cost`` measured happens, with one waiting job for each running one."""
    jobs = workers / model.job_seconds()
    gateways = max(GATEWAYS, 2 * workers * FOLLOWERS / settings.max_connections)
    return {
        "submit": jobs,
        "take": jobs,
        "step": jobs * model.steps,
        "renew": workers / (settings.lease_seconds * RENEWED_SHARE),
        "hear": workers / HEAR_SECONDS,  # some of these renew, too
        "complete": jobs,
        "tidy": jobs,
        "follow": jobs * FOLLOWERS,
        "look": workers * FOLLOWERS,  # the place of a job that waits, every second
        "follower_second": 2 * workers * FOLLOWERS,
        "idle_worker_second": workers,  # its announcements are among what it does
        "sweep": gateways / EVERY_SECONDS,
        "scrape": gateways / SCRAPE_SECONDS,
    }


def demand(workers: int, model: ModelTimes, cost: RedisCost, settings: Settings) -> Demand:
    """All workers are busy, and for each running job one more waits."""
    often = rates(workers, model, settings)

    def total(what: str) -> float:
        return sum(rate * float(getattr(cost.costs[name], what)) for name, rate in often.items())

    jobs = often["submit"]
    memory = jobs * settings.result_ttl_seconds * cost.memory_bytes.ended
    memory += workers * (cost.memory_bytes.running + cost.memory_bytes.waiting)
    connections = workers * (cost.connections.busy + 2 * FOLLOWERS)
    checkpoints = workers * model.checkpoint_megabytes.value / settings.checkpoint_seconds
    return Demand(
        workers=workers,
        jobs_a_second=jobs,
        redis_commands=total("commands"),
        redis_cpu_share=total("cpu_seconds"),
        redis_connections=connections,
        redis_memory_gigabytes=(memory + connections * cost.connections.memory_bytes) / 1e9,
        log_megabytes=total("log_bytes") / 1e6,
        storage_gigabits=8e-3 * (checkpoints + jobs * model.video_megabytes.value),
    )


def most_workers(model: ModelTimes, cost: RedisCost, settings: Settings, limits: Limits) -> dict[str, int]:
    """How many busy workers each shared part bears, the first to give out first. All demands grow with the workers."""
    many = 100_000
    asked = demand(many, model, cost, settings)
    found = {name: int(many * getattr(limits, name).value / getattr(asked, name)) for name in Limits.model_fields}
    return dict(sorted(found.items(), key=lambda item: item[1]))
