"""The audit of planted bugs: all that a client, a receiver, Redis and storage can show, up to the first broken promise.

    PYTHONPATH=tests python -m chaos.examine

One service is started. Scenes play side by side in lanes, then some alone; meanwhile every answer and the whole store
are looked at. Nothing here has a time limit: what hangs is a service in which everybody waits and nothing moves,
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
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tiny_catalog import model_spec

from chaos import (
    by_answers,
    by_cuts,
    by_documents,
    by_ends,
    by_hand,
    by_keeping,
    by_parts,
    by_people,
    by_reference,
    by_requests,
    by_worker,
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
BY_ITSELF = "by hand"
"""How names of scenes begin that have parts of their own: while one plays, the service may stand still."""
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
    [*by_hand.SCENES, *by_requests.SCENES, *by_answers.SCENES, *by_keeping.SCENES, *by_ends.SCENES, *by_cuts.SCENES],
    [Apart("by_outages", "by_callers", "by_networks")],
    [Apart("by_failures", "by_interruptions", "by_starts")],
    [*by_reference.SCENES, *by_people.SCENES, Apart("by_model")],
    [*by_parts.SCENES, *by_documents.SCENES, *by_worker.SCENES],
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


class Examination:
    """One run, which ends with the first violation.

    Args:
        fleet: the service.
        seed: of what clients draw.
        only: of scenes, those with this in their name.
    """

    def __init__(self, fleet: Fleet, seed: int, only: str = "") -> None:
        self._only = only
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
        known = [*self.found, *self.watch.broken, *self.history.sightings.broken, *self.clients.complaints]
        if any(name.startswith(BY_ITSELF) for name in self._playing.copy()):
            self.watch.begin_anew()
        if not known and self.watch.standstill():
            waits_for = self._at_rest.waits_for if self._at_rest else sorted(self._playing)
            known.append(f"nothing moves any more, and this waits: {waits_for}")
        return known

    def _play_all(self) -> None:
        try:
            self.clients.start()
            lanes = [threading.Thread(target=self._play, args=(lane,), daemon=True) for lane in LANES]
            for lane in lanes:
                lane.start()
            for lane in lanes:
                lane.join()
            self.clients.wait(10**6)
            self._check()
            self._play(ALONE)
            self._check()
            self._audit()
        except Exception:
            self.found.append(traceback.format_exc())
        self._over.set()

    def _play(self, scenes: Sequence[Scene]) -> None:
        for scene in [scene for scene in scenes if self._only in scene.name]:
            began = time.monotonic()
            self._playing.add(scene.name)
            try:
                scene.play(Stage(self.fleet, self.clients, self.receiver, scene.name, {}))
            except AssertionError as error:
                what = str(error) or "\n".join(traceback.format_exc().splitlines()[-3:-1])
                self.found.append(f"{scene.name}: {what}")
            except Exception:
                self.found.append(f"{scene.name}: {traceback.format_exc()}")
            self._playing.discard(scene.name)
            self.seconds[scene.name] = round(time.monotonic() - began, 1)
            if self._broken():
                self._over.set()
                return

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


def main() -> None:
    """Examine; status 1 if anything is not as it has to be."""
    parser = argparse.ArgumentParser(prog="chaos.examine", description="A service, up to its first broken promise.")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--scenes", default="", help="play only those with this in their name")
    parser.add_argument("--out", type=Path, help="where the report is written, as JSON")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    with running_fleet("everysec", SIZE) as fleet:
        ready = time.monotonic()
        examination = Examination(fleet, asked.seed, asked.scenes)
        found = examination.run()
        report = {
            "violations": found,
            "seed": asked.seed,
            "seconds": {
                "start": round(ready - began, 1),
                "all": round(time.monotonic() - began, 1),
                **examination.seconds,
            },
            "cpu": [round(sum(os.times()[at : at + 2])) for at in (0, 2)],
            "looks": examination.watch.looks,
        }
        if asked.out:
            asked.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    sys.stdout.flush()
    os._exit(bool(found))  # scenes may still wait for what never comes


if __name__ == "__main__":
    main()
