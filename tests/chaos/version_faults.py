"""Versions: an earlier one's gateway or worker beside the present ones, as in a rolling update, and back again."""

import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waiting import until

from chaos.fleet import ROOT, Fleet, Part
from chaos.scenes import Scene
from chaos.stage import Stage

EARLIER = "c5cdc55~1"
"""The commit whose parts stand beside the present ones; ``CHAOS_EARLIER`` names another. Between them are fields,
scripts and keys that it does not know. Pictures have to be those that a seed gives here."""
PACKAGES = ("service", "service/client", "worker", "kernels", "demo_model/weights")


def earlier(fleet: Fleet) -> str:
    """The ``PYTHONPATH`` of that commit's packages, before the tests' own modules."""
    folder, commit = fleet.folder / "earlier", os.environ.get("CHAOS_EARLIER", EARLIER)
    if not folder.exists():
        archive = subprocess.run(
            ["git", "archive", commit, *PACKAGES], cwd=ROOT.parent, check=True, capture_output=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
    own = (str(folder / package) for package in PACKAGES)
    return os.pathsep.join([*own, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextmanager
def of_another_version(fleet: Fleet, part: Part, path: str) -> Iterator[None]:
    """A part is of the packages on this path for the length of a block, and then of its own again."""
    own = part.env["PYTHONPATH"]
    for each in (path, own):
        part.env["PYTHONPATH"] = each
        starts = part.starts
        part.signal(signal.SIGTERM, "parent")
        until(lambda starts=starts: part.starts > starts, f"{part.name} is started again")
        if part.port:
            until(part.answers, f"{part.name} answers")
        if each is path:
            _is_of(part, Path(path.split(os.pathsep, maxsplit=1)[0]))
            try:
                yield
            except BaseException:
                part.env["PYTHONPATH"] = own
                raise


def _is_of(part: Part, folder: Path) -> None:
    """Fails unless a process on the part's path would have the job contract from this folder."""
    find = "import adaspa_jobs; print(adaspa_jobs.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", find], env=part.env, check=True, capture_output=True, text=True
    ).stdout
    assert Path(found).is_relative_to(folder), f"{part.name} is not of another version: {found}"


class EarlierWorker(Scene):
    """Workers of two versions: each dies at a job that the other then resumes from its checkpoint."""

    name = "a worker of an earlier version beside the present ones, and back"
    promise = "gateways and workers of two versions share every job, during an update and after it was taken back"

    def play(self, stage: Stage) -> None:
        client, fleet = stage.client(), stage.fleet
        old, new = fleet.workers[0], fleet.workers[1]
        with of_another_version(fleet, old, earlier(fleet)):
            for first, then in ((old, new), (new, old)):
                with fleet.workers_stopped(but=first):
                    ask, orders = stage.create(client, 24, **{"step-14": "hold"})
                    ask.earlier = then is old
                    orders["step-14"].wait()
                    starts = first.starts
                    first.signal(signal.SIGKILL)
                    # Started again later, it would not stand still below, and might take the job.
                    until(lambda starts=starts, first=first: first.starts > starts, f"{first.name} is started again")
                with fleet.workers_stopped(but=then):
                    assert client.see_to_its_end(ask) == "completed", ask.final
                client.download(ask.video_id)
                assert any(event["resumed_from_step"] for event in client.read_events(ask.video_id)), "began anew"
            with fleet.workers_stopped(but=old):
                last, orders = stage.create(client, 24, **{"step-14": "hold"})
                last.earlier = True
                orders["step-14"].wait()
                doomed, _ = stage.create(client)
                doomed.cancelled = True
                client.cancel(doomed.video_id)
                orders["step-14"].go_on()
                client.see_to_its_end(doomed)
        assert client.see_to_its_end(last) == "completed", last.final
        client.download(last.video_id)
        client.read_events(last.video_id)


class EarlierGateway(Scene):
    """Gateways of two versions: jobs are made, read, listed, cancelled and deleted at whichever."""

    name = "a gateway of an earlier version beside the present one, and back"
    promise = EarlierWorker.promise

    def play(self, stage: Stage) -> None:
        clients, fleet = [stage.client("a"), stage.client("b")], stage.fleet
        for each in clients:
            each.labels = {}  # which an earlier one may not know
        kept, _ = stage.create(clients[0], 4)
        with of_another_version(fleet, fleet.gateways[0], earlier(fleet)):
            for number in range(8):
                client = clients[number % 2]
                ask, _ = stage.create(client, 16)
                client.create(ask)
                ask.cancelled, ask.deleted = number == 2, number == 5
                if ask.cancelled:
                    client.cancel(ask.video_id)
                if ask.deleted:
                    client.delete(ask.video_id)
                    assert client.look(ask.video_id) == 404
                    continue
                if client.see_to_its_end(ask) == "completed":
                    client.download(ask.video_id)
                client.read_events(ask.video_id)
                client.walk(f"{stage.name} {number}")
            clients[0].see_to_its_end(kept)
        clients[0].download(kept.video_id)
        for client in clients:
            client.walk(f"{client.name}, back")


SCENES: list[Scene] = [EarlierWorker(), EarlierGateway()]
