"""The audit of planted bugs: all that a client, a receiver, Redis and storage can show, up to the first broken promise.

    PYTHONPATH=tests python -m chaos.examine

Scenes that were named to be first play one after another, those that need no service before there is one. Then one
service is started. Scenes play side by side in lanes, then some alone; meanwhile every answer and the whole store are
looked at. Nothing here has a time limit: what hangs is a service in which everybody waits and nothing moves,
however slow the machine is.
"""

import argparse
import json
import logging
import os
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from tiny_catalog import model_spec

from chaos import (
    by_answers,
    by_attempts,
    by_cuts,
    by_documents,
    by_ends,
    by_files,
    by_hand,
    by_keeping,
    by_parts,
    by_people,
    by_progress,
    by_reference,
    by_requests,
    group_faults,
    tour_files,
    tour_jobs,
    tour_requests,
)
from chaos.apart import Apart
from chaos.audit import Audit
from chaos.checker import check
from chaos.clients import Clients
from chaos.fleet import TENANTS, Fleet, Size, running_fleet
from chaos.likely import BY_ITSELF
from chaos.points import PRELOADED
from chaos.receiver import Receiver
from chaos.remains import let_go, remains
from chaos.scenes import (
    CancelledAt,
    CancelledInASlowPhase,
    DeletedAt,
    DeletedWhileItsWorkerStops,
    GatewayDiesAnswering,
    GatewayDiesWithTheBell,
    KilledAt,
    ManyAtOnce,
    PoisonJob,
    Scene,
    StoppedAt,
    StorageLies,
)
from chaos.service_scenes import Backlog, Expiry, LostTail, PowerCut, PowerCutAfterAccepting
from chaos.stage import Stage
from chaos.watch import Watch

IDLE = (
    *("batches", "caps", "events", "images", "keys", "limits", "lists", "outage", "places", "previews"),
    *("refusals", "waits", "webhooks"),
)
"""Models that no worker serves: their jobs wait."""
TASKS = {"tasks": ["text_to_video", "image_to_video"]}
SIZE = Size(
    models=[
        model_spec("builtin:demo", **TASKS),
        *(model_spec("builtin:demo", id=f"idle-{name}", **TASKS) for name in IDLE),
    ],
    environment={PRELOADED: "1"},
)
JOBS, CLIENTS = 12, 4
AHEAD_SECONDS = 60.0
"""Scenes that are named to be first have this time to themselves."""
PATIENT = 10.0**6
"""Seconds: whether it hangs is seen by what moves, and not by the time."""
files = {type(scene).__name__: scene for scene in (*tour_files.SCENES, *tour_jobs.SCENES, *tour_requests.SCENES)}
LANES: list[list[Scene]] = [
    [files["Webhooks"], ManyAtOnce(times=2), KilledAt("checkpointed")],
    [StoppedAt("step-6"), StoppedAt("uploaded"), DeletedWhileItsWorkerStops()],
    [files["Resumed"], KilledAt("uploading"), KilledAt("completing"), PoisonJob(), KilledAt("step-6", "kill group")],
    [*(CancelledAt(point) for point in ("claimed", "step-6", "uploading", "completing")), CancelledInASlowPhase()],
    [files["Files"], DeletedAt("uploaded"), DeletedAt("completing"), DeletedAt("step-6")],
    [files["Events"], files["Deleted"], files["Failed"], files["LinksEnd"]],
    [files["Batches"], files["Lists"], files["Places"], files["Previews"]],
    [files["Noted"], files["Keys"]],
    [files["Images"], files["Waits"], StorageLies("keep nothing"), StorageLies("keep a part")],
    [*by_hand.SCENES, *by_requests.SCENES, *by_answers.SCENES, *by_keeping.SCENES],
    [*by_ends.SCENES, *by_cuts.SCENES, *by_documents.SCENES],
    [Apart("by_outages", "by_callers", "by_networks", "by_turns")],
    [Apart("by_failures", "by_interruptions", "by_starts")],
    [*by_reference.SCENES, Apart("by_model")],
    [*by_people.SCENES],
    [*by_parts.SCENES],
    [*by_files.SCENES, *by_progress.SCENES, *by_attempts.SCENES],
    [files["Limits"], files["Caps"], files["Refusals"], Expiry()],
]
"""Lanes play side by side, the scenes of one in turns. There are three workers: those that stop one have one lane."""
ALONE: list[Scene] = [
    *tour_files.ALONE,
    *tour_jobs.ALONE,
    *tour_requests.ALONE,
    *(PowerCut(act) for act in ("cancel", "delete", "complete")),
    PowerCutAfterAccepting(),
    LostTail(),
    Backlog(),
    GatewayDiesAnswering(),
    GatewayDiesWithTheBell(),
    *group_faults.SCENES,
]


def each() -> Iterator[Scene]:
    """All scenes, at last each of modules that play apart, which are imported for it."""
    known = [scene for scenes in (*LANES, ALONE) for scene in scenes]
    yield from (scene for scene in known if not isinstance(scene, Apart))
    yield from (one for scene in known if isinstance(scene, Apart) for one in scene.each())


def tried(scene: Scene, stage: Stage | None) -> str:
    """What is broken in a scene, or nothing."""
    try:
        scene.play(stage)  # type: ignore[arg-type]  some need none
    except AssertionError as error:
        return f"{scene.name}: {str(error) or ''.join(traceback.format_exc().splitlines(keepends=True)[-3:-1])}"
    except Exception:
        return f"{scene.name}: {traceback.format_exc()}"
    return ""


class Examination:
    """One run, which ends with the first violation.

    Args:
        fleet: the service.
        seed: of what clients draw.
        ahead: scenes that are played already, or still play.
        only: of scenes, those with this in their name.
        first: scenes that play before all others, one after another.
    """

    def __init__(self, fleet: Fleet, seed: int, ahead: "Ahead", only: str = "", first: Sequence[Scene] = ()) -> None:
        self._ahead, self._only, self._first, self._played = ahead, only, first, set(ahead.names)
        self.fleet, self.found, self.seconds = fleet, list[str](), dict[str, float]()
        self._over, self._playing = threading.Event(), set[str]()
        self._at_rest: Audit | None = None
        self.receiver = Receiver(Random(f"{seed}-receiver"), TENANTS)
        self.receiver.silence = 0
        self.receiver.secrets = {tenant: fleet.ask(tenant, "/webhooks/secret")["secret"] for tenant in TENANTS}
        self.clients = Clients(fleet, JOBS, CLIENTS, self.receiver, seed, enough=lambda: True)
        self.history = self.clients.history
        self.receiver.see = self.history.sightings.see
        self.watch = Watch(fleet.client(), lambda: self.history.epoch)

    def run(self) -> list[str]:
        """The first violations, or none."""
        threading.Thread(target=self._play_all, daemon=True).start()
        with self.watch:
            while not self._over.wait(0.1) and not self._broken():
                pass
        return self._broken()

    def _broken(self) -> list[str]:
        known = [
            *self._ahead.found,
            *self.found,
            *self.watch.broken,
            *self.history.sightings.broken,
            *self.clients.complaints,
        ]
        if self._ahead.thread.is_alive() or any(name.startswith(BY_ITSELF) for name in self._playing.copy()):
            self.watch.begin_anew()
        if not known and self.watch.standstill():
            waits_for = self._at_rest.waits_for if self._at_rest else sorted(self._playing)
            known.append(f"nothing moves any more, and this waits: {waits_for}")
        return known

    def _play_all(self) -> None:
        try:
            self.clients.start()
            self._play(self._first)
            lanes = [threading.Thread(target=self._play, args=(lane,), daemon=True) for lane in LANES]
            for lane in lanes:
                lane.start()
            for lane in lanes:
                lane.join()
            self._ahead.thread.join()
            self.clients.wait(10**6)
            self._check()
            self._play(ALONE)
            self._check()
            self._audit()
        except Exception:
            self.found.append(traceback.format_exc())
        self._over.set()

    def _play(self, scenes: Sequence[Scene]) -> None:
        for scene in [scene for scene in scenes if self._only in scene.name and scene.name not in self._played]:
            if self._broken():
                self._over.set()
                return
            began = time.monotonic()
            self._playing.add(scene.name)
            self._played.add(scene.name)
            if broken := tried(scene, Stage(self.fleet, self.clients, self.receiver, scene.name, {})):
                self.found.append(broken)
            self._playing.discard(scene.name)
            self.seconds[scene.name] = round(time.monotonic() - began, 1)

    def _check(self) -> None:
        self.found += map(str, check(self.history.entries))

    def _audit(self) -> None:
        """What has to hold at rest; then all jobs go, and nothing may be left of them."""
        began = time.monotonic()
        audit = self._at_rest = Audit(self.fleet, self.clients, self.receiver, PATIENT)
        audit.run()
        self.found += audit.violations
        let_go(self.fleet, audit.jobs, self.clients)
        audit.come_to_rest("nothing is left of jobs that are gone", lambda: remains(self.fleet))
        self.seconds["at rest"] = round(time.monotonic() - began, 1)


class Ahead:
    """Scenes that need no service, one after another in a thread of their own; the first that is broken is the last.

    Args:
        scenes: to be played.
    """

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self.found, self.seconds = list[str](), dict[str, float]()
        self.names = [scene.name for scene in scenes]
        self.thread = threading.Thread(target=self._play, args=(scenes,), daemon=True)
        self.thread.start()

    def _play(self, scenes: Sequence[Scene]) -> None:
        for scene in scenes:
            began = time.monotonic()
            broken = tried(scene, None)
            self.seconds[scene.name] = round(time.monotonic() - began, 1)
            if broken:
                self.found.append(broken)
                return


def examined(seed: int, only: str, first: Sequence[Scene]) -> dict[str, Any]:
    """Examine; what is not as it has to be, and where the time went."""
    by_itself = [scene for scene in first if scene.name.startswith(BY_ITSELF)]
    ahead, began = Ahead(by_itself), time.monotonic()
    ahead.thread.join(AHEAD_SECONDS)
    if ahead.found:
        return {"violations": ahead.found, "seed": seed, "seconds": ahead.seconds}
    with running_fleet("everysec", SIZE) as fleet:
        ready = time.monotonic()
        others = [scene for scene in first if scene not in by_itself]
        examination = Examination(fleet, seed, ahead, only, others)
        found = examination.run()
        return {
            "violations": found,
            "seed": seed,
            "seconds": {"start": round(ready - began, 1), **ahead.seconds, **examination.seconds},
            "cpu": [round(sum(os.times()[at : at + 2])) for at in (0, 2)],
            "looks": examination.watch.looks,
        }


def main() -> None:
    """Examine; status 1 if anything is not as it has to be."""
    parser = argparse.ArgumentParser(prog="chaos.examine", description="A service, up to its first broken promise.")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--scenes", default="", help="play only those with this in their name")
    parser.add_argument("--out", type=Path, help="where the report is written, as JSON")
    parser.add_argument("--first", action="append", default=[], help="the name of a scene that plays before others")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    first = [next(scene for scene in each() if scene.name == name) for name in asked.first]
    report = examined(asked.seed, asked.scenes, first)
    report["seconds"]["all"] = round(time.monotonic() - began, 1)
    if asked.out:
        asked.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    sys.stdout.flush()
    os._exit(bool(report["violations"]))  # scenes may still wait for what never comes


if __name__ == "__main__":
    main()
