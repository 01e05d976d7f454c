"""One run: jobs under faults, then the audit."""

import logging
import time
from collections.abc import Collection
from pathlib import Path
from random import Random
from shutil import copytree
from typing import Any

from chaos.audit import Audit
from chaos.clients import Clients
from chaos.faults import FAULTS
from chaos.fleet import TENANTS, running_fleet
from chaos.playing import play
from chaos.receiver import Receiver
from chaos.report import make_report
from chaos.scenes import Scene
from chaos.strikes import Striker

CLIENTS = 12


def run(
    jobs: int,
    seed: int,
    *,
    pause: float,
    faults: int,
    fsync: str,
    patience: float,
    rest: float = 60.0,
    scenes: Collection[Scene] = (),
    logs: Path | None = None,
) -> dict[str, Any]:
    """Run the service under faults until every job has ended; the report.

    Args:
        jobs: how many videos clients ask for.
        seed: decides all that is drawn; processes run as they like, so the same seed is not the same history.
        pause: longest time between two faults, in seconds.
        faults: at least so many come at random times: clients go on asking until they have. Fewer are a violation.
        fsync: Valkey's ``appendfsync``.
        patience: seconds in which every job has to have ended.
        rest: seconds in which everything has to come to rest at the end.
        scenes: that are played afterwards.
        logs: where the parts' logs are copied to.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)
    began = time.monotonic()
    receiver = Receiver(Random(f"{seed}-receiver"), TENANTS)
    with running_fleet(fsync) as fleet:
        receiver.secrets = {tenant: fleet.ask(tenant, "/webhooks/secret")["secret"] for tenant in TENANTS}
        striker = Striker(fleet, Random(f"{seed}-strikes"), pause, FAULTS)
        clients = Clients(fleet, jobs, CLIENTS, receiver, seed, enough=lambda: len(striker.done) >= faults)
        clients.start()
        striker.start()
        clients.wait(patience)
        striker.stop()
        fleet.wait_until_ready()
        played = play(scenes, fleet, clients, receiver)
        clients.complaints += lacking(len(striker.done), faults, len(played.scenes), len(scenes))
        audit = Audit(fleet, clients, receiver, rest)
        audit.run()
        report = make_report(audit, clients, striker.done, played, time.monotonic() - began)
        if logs:
            copytree(fleet.folder, logs, ignore=lambda _, names: [n for n in names if not n.endswith(".log")])
            clients.history.write(logs / "history.jsonl")
    receiver.close()
    return report


def lacking(struck: int, faults: int, played: int, scenes: int) -> list[str]:
    """What was asked for and did not happen: such a run proves less than it says."""
    short = [f"{struck} faults came at random times, and not {faults} as asked"] if struck < faults else []
    return short + ([f"{played} scenes were played, and not {scenes} as asked"] if played < scenes else [])
