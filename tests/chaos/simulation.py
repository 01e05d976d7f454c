"""Deterministic simulation: gateways, workers, broker and storage in one process, in an order that is drawn.

    PYTHONPATH=tests python -m chaos.simulate --minutes 5             # prints the line that plays a failure again
    PYTHONPATH=tests python -m chaos.simulate --replay 00c1b0...

The store's own scripts run on a real Valkey, and the gateways' own functions above them. Each process is a greenlet
that gives way before every call to Redis, broker or storage. Which one goes on, what fails, and how the clock moves, is
read from a string of bytes, one for each decision; when they are used up, everything goes on in order and without
faults, except that Redis still forgets ends as cancelled (`World.keep`); without any bytes it does not. So the same
bytes are the same history, and a shorter string is a simpler one.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import redis
from adaspa_api.words import TERMINAL, JobStatus, Priority
from adaspa_jobs.queue import queue_name
from adaspa_jobs.scripts import PREFIX
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import attempt_prefix
from adaspa_jobs.store import JobStore
from adaspa_service.gateway.janitor import Janitor
from adaspa_service.gateway.state import AppState, Recent
from adaspa_worker.readiness import State
from faults import FaultyRedis, FaultyStorage, Killed
from greenlet import getcurrent, greenlet

from chaos.checker import check
from chaos.history import Entry
from chaos.watch import look, violations

TIME = "redis.call('TIME')"
"""How the scripts read their clock, in one place."""
TIME_KEY = PREFIX + "simulated_time"
LEASE_SECONDS, MAX_ATTEMPTS = 3.0, 4
LONGEST_SECONDS = 400.0
"""Of simulated time, in which everything has to have come to rest."""
DAY = 86400.0
LOOKED_AFTER = 12
"""Decisions between two looks at the whole store."""
TRANSIENT = [
    PREFIX + name for name in ("waiting:demo", "running:demo", "leases", "purge", "leavings", "leases_by_worker")
]
"""Keys of what is still to be done."""


POISON = 13
"""The seed of a job that kills the worker that runs it."""
READY = SimpleNamespace(state=State.ready)
"""Of workers, whose model is always loaded."""


COPIED = """
redis.call('SELECT', {to}) redis.call('FLUSHDB') redis.call('SELECT', {of})
for _, key in ipairs(redis.call('KEYS', '*')) do redis.call('COPY', key, key, 'DB', {to}) end
redis.call('SELECT', 0)
"""
"""All that one database has, in another."""


class Broken(Exception):
    """Something that has to hold does not."""


@contextmanager
def simulated_clock() -> Iterator[None]:
    """Have stores that this thread makes in this block read their clock from a key."""
    from adaspa_jobs import scripts  # noqa: PLC0415

    plain, told, own = scripts._joined, f"cjson.decode(redis.call('GET', '{TIME_KEY}'))", threading.get_ident()

    def joined(shared: str, source: str) -> str:
        return plain(shared.replace(TIME, told) if threading.get_ident() == own else shared, source)

    with patch.object(scripts, "_joined", joined):
        yield


@dataclass(eq=False)
class Actor:
    """A process. It is begun anew, as an orchestrator does, when it has died."""

    name: str
    body: Callable[["Actor"], None]
    wakes_at: float = 0.0
    generation: int = 0
    dead: bool = False
    fault: str = ""
    """What happens at its next call: ``before`` or ``after`` it took effect, the connection breaks."""
    done: bool = False
    told: bool = False
    """Whether the answer of its call is one that Redis does not forget: a claim, or what it syncs."""
    thread: Any = None


class Rig:
    """What every run uses, made once: stores with a simulated clock, and a gateway's parts.

    Args:
        client: of a Valkey that is the simulation's own.
        settings: of the gateways.
    """

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self.client, self.world = client, cast(World, None)  # each run sets it
        limits = {"lease_seconds": LEASE_SECONDS, "max_attempts": MAX_ATTEMPTS, "queue_cap": 50}
        socket = client.connection_pool.connection_kwargs["path"]
        with simulated_clock():
            self.store = JobStore(FaultyRedis(socket, self), **limits)  # type: ignore[arg-type]
            self.beside = JobStore(client, **limits)  # type: ignore[arg-type]
        self.parts = AppState.of(settings)

    def call(self, effect: Callable[[], Any], cut: Callable[[], Exception]) -> Any:
        """One call, in the present world; none of a process where the run itself looks."""
        return self.world.call(effect, cut) if hasattr(getcurrent(), "actor") else effect()


@dataclass
class World:
    """One simulated run.

    Args:
        rig: what it uses.
        choices: the decisions.
    """

    rig: Rig
    choices: bytes
    now: float = 1_800_000_000.0
    """Seconds of a clock that nobody sets."""
    ahead: float = 0.0
    """How far Redis' clock is set ahead."""
    used: int = 0
    actors: list[Actor] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    acted: list[str] = field(default_factory=list)
    """What happened, in words."""
    forgets: bool = False
    """Whether Redis may lose what it has written since it was kept."""

    def __post_init__(self) -> None:
        self.rig.world, self.client, self.store = self, self.rig.client, self.rig.store
        self.client.flushdb()
        self.storage = FaultyStorage("memory:///", self.rig)  # type: ignore[arg-type]
        broker: Any = Broker(self)
        # How long a look at a model's load is kept is real time, which no decision may hang on.
        loads = Recent(self.rig.beside.load)
        self.parts = replace(self.rig.parts, store=self.store, loads=loads, storage=self.storage, celery=broker)
        self._hub, self._told = getcurrent(), 0.0

    # What actors do

    def call(self, effect: Callable[[], Any], cut: Callable[[], Exception]) -> Any:
        """One call of the process that runs; others may come before it."""
        actor = getcurrent().actor  # type: ignore[attr-defined]
        self.wait(0.001)
        fault, actor.fault = actor.fault, ""
        if fault == "before":
            raise cut()
        self.tell_time()
        self.forgets = self.forgets and not (actor.told or actor.name.startswith("client"))
        answer = effect()
        if fault == "after":
            raise cut()
        return answer

    def keep(self) -> None:
        """Note all that Redis has: what it writes from now on it may forget, until somebody relies on it."""
        self.forgets = bool(self.choices) and self.choose(2) == 0
        if self.forgets:
            self.client.eval(COPIED.format(of=0, to=1), 0)
            for actor in self.actors:
                if actor.name.startswith("janitor"):
                    actor.wakes_at = min(actor.wakes_at, self.now)

    def forget(self) -> None:
        """Redis comes back with what it had when that was noted; nobody's connection outlasts it."""
        self.acted.append("Redis forgets that a job has ended as cancelled")
        self.client.eval(COPIED.format(of=1, to=0), 0)
        self.forgets, self._told = False, 0.0
        for actor in self.actors:
            actor.fault = actor.fault or "before"

    def wait(self, seconds: float) -> None:
        """Let the process that runs rest."""
        actor = getcurrent().actor  # type: ignore[attr-defined]
        if not actor.dead:
            actor.wakes_at = self.now + seconds
            self._hub.switch()
        if actor.dead:
            raise Killed

    def choose(self, count: int) -> int:
        """A decision among so many; 0 when there are no more."""
        if self.used >= len(self.choices):
            return 0
        self.used += 1
        return self.choices[self.used - 1] % count

    def tell_time(self) -> None:
        """Set the clock that scripts read."""
        if self._told != self.now + self.ahead:
            self._told = self.now + self.ahead
            seconds = int(self._told)
            self.client.set(TIME_KEY, f"[{seconds}, {int((self._told - seconds) * 1e6)}]")

    # What happens to them

    def run(self, actors: list[Actor]) -> None:
        """Let everything happen, until all clients are done and nothing is left to do. Raises Broken."""
        self.actors, end = actors, self.now + LONGEST_SECONDS
        self.tell_time()
        clock = SimpleNamespace(sleep=self.wait, monotonic=lambda: self.now)
        decided = count(1)
        with (
            patch("adaspa_service.gateway.janitor.log.exception", side_effect=Broken("an error of ours")),
            patch("adaspa_worker.lease.time", clock),
            patch.multiple(
                "adaspa_worker.app", app=self.parts.celery, _readiness=READY, priorities=lambda: list(Priority)
            ),
        ):
            while not (all(actor.done for actor in actors if actor.name.startswith("client")) and self._at_rest()):
                if self.now > end:
                    raise Broken(f"no rest within {LONGEST_SECONDS:.0f} s: {self._left()}")
                self._decide()
                if next(decided) % LOOKED_AFTER == 0 and (broken := [*violations(look(self.client), MAX_ATTEMPTS)]):
                    raise Broken(broken[0])
            for actor in actors:
                self._kill(actor)
        self._look()

    def _decide(self) -> None:
        """One decision: who goes on, or what else happens."""
        ready = sorted((actor for actor in self.actors if not actor.done), key=lambda actor: actor.wakes_at)
        drawn = self.choose(256)
        if drawn < 176:
            soon = [actor for actor in ready if actor.wakes_at <= ready[0].wakes_at + 0.5] if drawn else ready[:1]
            return self._go_on(soon[drawn % len(soon)])
        victim = ready[self.choose(len(ready))]
        if drawn < 192:
            self.acted.append(f"{victim.name} is killed")
            self._kill(victim)
        elif drawn < 208:
            self.acted.append(f"{victim.name} stands still")
            # For longer than its lease, or until another has done its job and what it left was removed.
            victim.wakes_at = max(self.now, victim.wakes_at) + (2, 5)[drawn % 2] * LEASE_SECONDS + 2
        elif drawn < 232:
            victim.fault = "before" if drawn < 218 else "after"
            self.acted.append(f"{victim.name} loses its connection {victim.fault} its next call")
        elif drawn < 246:
            for priority in Priority:
                self.client.delete(queue_name("demo", priority))
            self.acted.append("all messages are lost")
        elif drawn < 250:
            self.client.rpush(queue_name("demo", Priority.interactive), "bell", "bell")
            self.acted.append("messages come twice")
        else:
            self.ahead += (DAY, -DAY / 24, 600)[drawn % 3]
            self.acted.append(f"the clock is set to {self.ahead:+.0f} s")
        return None

    def _go_on(self, actor: Actor) -> None:
        self.now = max(self.now, actor.wakes_at)
        if actor.thread is None:
            actor.thread = greenlet(lambda: self._live(actor))
            actor.thread.actor = actor
        actor.thread.switch()

    def _live(self, actor: Actor) -> None:
        try:
            actor.body(actor)
        except Killed:
            if not actor.dead:  # what it was about killed it
                self._begin_anew(actor)
            return
        actor.done = True

    def _kill(self, actor: Actor) -> None:
        """End a process: none of its handlers reaches the outside. A client is a person, and goes on after a while."""
        if actor.thread is not None and not actor.thread.dead and not actor.name.startswith("client"):
            actor.dead = True
            actor.thread.switch()
            self._begin_anew(actor)
        actor.wakes_at = self.now + 1.0

    def _begin_anew(self, actor: Actor) -> None:
        actor.thread, actor.dead, actor.fault = None, False, ""
        actor.generation += 1
        actor.wakes_at = self.now + 1.0

    # What has to hold

    def _left(self) -> list[str]:
        keys = [key for key in TRANSIENT if self.client.exists(key)]
        return keys + [actor.name for actor in self.actors if actor.name.startswith("client") and not actor.done]

    def _at_rest(self) -> bool:
        return not self.client.exists(*TRANSIENT)

    def _look(self) -> None:
        """The audit. Raises Broken."""
        if violations := check(self.entries):
            raise Broken(str(violations[0]))
        jobs = self.rig.beside.readable([key.decode().split(":")[2] for key in self.client.scan_iter(PREFIX + "job:*")])
        for job in jobs:
            events = [fields[b"type"].decode() for _, fields in self.client.xrange(f"{PREFIX}events:{job.id}")]
            ends = [event for event in events if event in set(TERMINAL)]
            poison = job.params.seed == POISON
            if job.status is JobStatus.failed and not self.acted and not poison:
                raise Broken(f"{job.id}: failed, and nobody was struck")
            if poison and job.status is JobStatus.completed:
                raise Broken(f"{job.id}: killed whoever ran it, and is {job.status}")
            if ends != [job.status] or events[-1] != job.status:
                raise Broken(f"{job.id}: is {job.status}, and its events are {events}")
            if job.artifacts and not job.artifacts["video"].key.startswith(attempt_prefix(job.id, job.token)):
                raise Broken(f"{job.id}: its file is of another attempt")
        named = {artifact.key for job in jobs for artifact in job.artifacts.values()}
        there = set(self.storage.keys(""))
        if named != there:
            raise Broken(f"files without a job: {sorted(there - named)}; missing: {sorted(named - there)}")
        unknown = {job.id for job in jobs} - {job_id for entry in self.entries for job_id in entry.seen.get("ids", ())}
        if unknown:
            raise Broken(f"nobody was told of {sorted(unknown)}")


@dataclass
class Broker:
    """Sends bells as Celery does."""

    world: World

    def send_task(self, _: str, *, queue: str, ignore_result: bool) -> None:
        self.world.call(lambda: self.world.client.rpush(queue, "bell"), lambda: redis.ConnectionError("cut"))


def simulate(rig: Rig, choices: bytes) -> World:
    """One run from its beginning to its rest. Raises Broken."""
    from chaos.actors import everybody  # noqa: PLC0415  who act in a world

    world = World(rig, choices)
    world.run(everybody(world))
    return world


@dataclass
class Taking:
    """The store of a janitor: what it has taken to remove, Redis may have forgotten a moment later."""

    world: World

    def take_purgeable(self) -> list[str]:
        taken = self.world.store.take_purgeable()
        if taken and self.world.forgets:
            self.world.forget()
            getcurrent().actor.fault = ""  # type: ignore[attr-defined]  it goes on with what it has
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world.store, name)


def janitor_of(world: World) -> Janitor:
    """A gateway's janitor with the chores that jobs need; what it looks for in the keys' list is not of interest."""
    made = Janitor(replace(world.parts, store=Taking(world)))  # type: ignore[arg-type]
    storage = made._chores["janitor-storage"]
    made._chores = {"janitor": (made._requeue_lost, made._time_out, made._expire), "janitor-storage": storage}
    return made
