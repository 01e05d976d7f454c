"""Followers of the worker that is a group: they die or stand still, and the group goes down with them."""

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

from chaos.grouped import SILENT_SECONDS
from chaos.process_faults import DONE_BY
from chaos.scenes import Scene
from chaos.stage import Stage
from chaos.strikes import Fault, Strike, Striker

LOADED_WITHIN = 20.0
"""Seconds that a random strike waits for the group to have its follower; without jobs it has none."""


def send(number: int, processes: list[int]) -> None:
    """Signal processes, of which some may just have ended."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


@dataclass
class FollowerStruck(Fault):
    """A follower gets a signal; one that stands still may go on again before the leader calls it dead."""

    number: signal.Signals
    weight: int = 2

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"follower {DONE_BY[self.number]}"

    def strike(self, site: Striker, strike: Strike) -> None:
        part = site.fleet.workers[-1]
        deadline = time.monotonic() + LOADED_WITHIN
        while not (followers := part.followers()) and time.monotonic() < deadline:
            time.sleep(0.05)
        strike.target = part.name if followers else f"{part.name}, which has none"
        strike.jobs = site.running(part) if followers else []
        send(self.number, followers)
        if self.number == signal.SIGSTOP:
            site.sleep(0.2, 1.5 * SILENT_SECONDS)
            send(signal.SIGCONT, followers)


@dataclass
class FollowerStruckAt(Scene):
    """A follower gets a signal in the middle of a job, while no other worker is there to take it."""

    number: signal.Signals
    promise = "a follower that dies or hangs fails the attempt within seconds, and the next group completes the job"

    @property
    def name(self) -> str:
        return f"follower {DONE_BY[self.number]}: step-6"

    def play(self, stage: Stage) -> None:
        client, part = stage.client(), stage.fleet.workers[-1]
        with stage.fleet.workers_stopped(but=part):
            ask, orders = stage.create(client, **{"step-6": "hold"})
            orders["step-6"].wait()
            followers = part.followers()
            assert len(followers) == 1, f"{part.name} has the followers {followers}"
            send(self.number, followers)
            orders["step-6"].go_on()
            assert client.see_to_its_end(ask) == "completed", ask.final
            assert not set(followers) & set(part.followers()), "the one that was struck is left"
        client.download(ask.video_id)
        events = client.read_events(ask.video_id)
        assert max(event["attempt"] or 0 for event in events) == 2, "one attempt failed, and the next one did not"


STRUCK = (signal.SIGKILL, signal.SIGSTOP)
OF_GROUPS: list[Fault] = [FollowerStruck(number) for number in STRUCK]
SCENES: list[Scene] = [FollowerStruckAt(number) for number in STRUCK]
