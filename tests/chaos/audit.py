"""What has to hold when everything has come to rest: nothing lost, nothing doubled, nothing left."""

import hashlib
import io
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import av
from adaspa_api.words import TERMINAL, JobStatus
from adaspa_jobs.job import Job, JobParams
from adaspa_jobs.store import JobStore
from adaspa_worker.encode import encode
from adaspa_worker.tasks.clip import writer_of
from PIL import Image

from chaos.checker import check
from chaos.clients import Clients
from chaos.fleet import MODEL, Fleet
from chaos.receiver import Receiver
from chaos.stub_engine import StubEngine

PREFIX = "service/"
SERVERS_OWN = "/.tmp."
"""nanio lists what it had half written when it was killed; nobody was told that it is there."""


class Audit:
    """The findings about one run.

    Args:
        fleet: at rest, with every part running.
        clients: what they asked for and saw.
        receiver: of the webhooks.
        rest: seconds in which what was interrupted at the very end has to be made good.
    """

    def __init__(self, fleet: Fleet, clients: Clients, receiver: Receiver, rest: float) -> None:
        self.rest = rest
        self.fleet, self.asks, self.history, self.receiver = fleet, clients.asks, clients.history, receiver
        self.store = JobStore(fleet.client())
        self.jobs: dict[str, Job] = {}
        self.ends: dict[str, float] = {}
        """When each job ended, in Unix seconds."""
        self.violations: list[str] = []
        self.waits_for = ""
        """What is not yet so."""
        self.lost = self.doubled = self.resumed = 0

    def run(self) -> None:
        """Look at everything."""
        self.violations += [str(violation) for violation in check(self.history.entries)]
        self.come_to_rest("every queue is empty", self._queues)
        self._load()
        self._each_ask_has_one_job()
        for job in self.jobs.values():
            self._ended_once(job)
        self.come_to_rest("no object is left over", self._orphans)
        for job in self.jobs.values():
            if job.status is JobStatus.completed:
                self._has_its_files(job)
        self.come_to_rest("every webhook has come", self._missing_webhooks)
        self._webhooks_have_one_id()

    def statuses(self) -> dict[str, int]:
        """Jobs by how they ended."""
        found = [str(job.status) for job in self.jobs.values()] + ["deleted" for ask in self.asks if ask.deleted]
        return {status: found.count(status) for status in sorted(set(found))}

    def come_to_rest(self, what: str, left: Callable[[], list[str]]) -> None:
        """Wait until nothing is left; it is a violation if that takes too long."""
        deadline = time.monotonic() + self.rest
        while (found := left()) and time.monotonic() < deadline:
            self.waits_for = f"{what}: {found[:5]} ({len(found)})"
            time.sleep(0.5)
        if found:
            self.violations.append(f"not so within {self.rest:.0f} s: {what}: {found[:5]} ({len(found)})")

    def _queues(self) -> list[str]:
        """Whatever still waits, runs or is held."""
        client, left = self.store.client, []
        for pattern in (
            "waiting:*",
            "arrivals:*",
            "running:*",
            "leases",
            "purge",
            "leavings",
            "unfinished:*",
            "leases_by_worker",
            "webhooks",
            "webhook_lane:*",
            "preview:*",
        ):
            left += [key.decode() for key in client.scan_iter(f"adaspa:{pattern}")]
        left += [key.decode() for key in client.scan_iter(f"generate.{MODEL}*")]
        return left + [f"unacked {tag.decode()}" for tag in client.hkeys("unacked")]

    def _load(self) -> None:
        ids = sorted(key.decode().split(":")[2] for key in self.store.client.scan_iter("adaspa:job:*"))
        self.jobs = {job.id: job for job in self.store.readable(ids)}
        self.violations += [f"{job_id}: its record cannot be read" for job_id in ids if job_id not in self.jobs]

    def _each_ask_has_one_job(self) -> None:
        for ask in self.asks:
            job = self.jobs.get(ask.video_id)
            if ask.deleted:
                if job is not None:
                    self.violations.append(f"{job.id}: deleted, and still there")
            elif job is None or job.status not in TERMINAL:
                self.lost += 1
                self.violations.append(f"{ask.video_id or ask.key}: lost ({job and job.status})")
            elif job.status != ask.final or (job.params.seed, job.params.steps) != (ask.seed, ask.steps):
                self.violations.append(f"{job.id}: is {job.status}, not the {ask.final} that its owner was told")
            elif ask.fails:
                if job.error is None or job.error.code != ask.fails:
                    self.violations.append(f"{job.id}: failed with {job.error}, and not with {ask.fails}")
            elif job.status is JobStatus.failed or (job.status is JobStatus.cancelled and not ask.cancelled):
                self.violations.append(f"{job.id}: {job.status} without a reason: {job.error}")
        known = {ask.video_id for ask in self.asks}
        for job_id in set(self.jobs) - known:
            self.doubled += 1
            self.violations.append(f"{job_id}: nobody was told of it")

    def _ended_once(self, job: Job) -> None:
        ends = []
        for event_id, fields in self.store.client.xrange(f"adaspa:events:{job.id}"):
            if fields[b"type"].decode() in set(TERMINAL):
                ends.append(fields[b"type"].decode())
                self.ends[job.id] = int(event_id.split(b"-")[0]) / 1000
        self.resumed += job.progress.resumed_from_step is not None
        if ends != [job.status]:
            self.doubled += len(ends) > 1
            self.violations.append(f"{job.id}: ended as {ends}, and is {job.status}")

    def _orphans(self) -> list[str]:
        """Objects that no completed job names."""
        named = {PREFIX + artifact.key for job in self.jobs.values() for artifact in job.artifacts.values()}
        there = {key for key in self.fleet.storage.objects() if SERVERS_OWN not in key}
        return sorted(there - named)

    def _has_its_files(self, job: Job) -> None:
        if set(job.artifacts) != {"video", "thumbnail", "spritesheet"}:
            self.violations.append(f"{job.id}: has {sorted(job.artifacts)}")
        for variant, artifact in job.artifacts.items():
            try:
                content = bytes(self.fleet.storage.store().get(PREFIX + artifact.key).bytes())
            except FileNotFoundError:
                self.violations.append(f"{job.id}: its {variant} is missing")
                continue
            if artifact.key.split("/")[2] != job.token:
                self.violations.append(f"{job.id}: its {variant} is of another attempt")
            if hashlib.sha256(content).hexdigest() != artifact.sha256:
                self.violations.append(f"{job.id}: its {variant} is not what was written")
            if variant == "video" and not self._is_that_of_its_seed(job, content):
                how = f"attempt {job.attempt}, resumed from step {job.progress.resumed_from_step}"
                self.violations.append(f"{job.id}: its video is not that of its seed ({how})")
            if variant == "video" and len(pictures(content)) != job.params.num_frames:
                self.violations.append(f"{job.id}: its video does not decode")
            if variant != "video" and (size := Image.open(io.BytesIO(content)).size) != picture_size(
                variant, job.params
            ):
                self.violations.append(f"{job.id}: its {variant} has {size[0]}x{size[1]} pixels")

    def _is_that_of_its_seed(self, job: Job, content: bytes) -> bool:
        made = expected(job.params.model_dump_json())
        earlier = any(ask.earlier for ask in self.asks if ask.video_id == job.id)
        return pictures(content) == pictures(made) if earlier else content == made

    def _missing_webhooks(self) -> list[str]:
        return [job_id for job_id in self.jobs if job_id not in self.receiver.got]

    def _webhooks_have_one_id(self) -> None:
        undone = {ask.video_id for ask in self.asks if ask.undone}
        for job_id, job in self.jobs.items():
            ids, types = self.receiver.ids.get(job_id, set()), self.receiver.types.get(job_id, set())
            if len(ids) != len(types) or (types - {f"video.{job.status}"} and job_id not in undone):
                self.violations.append(f"{job_id}: webhooks {ids} of {types}")
        self.violations += self.receiver.forged


def picture_size(variant: str, params: JobParams) -> tuple[int, int]:
    """Width and height of a picture of a small video."""
    if variant == "thumbnail":
        return params.width, params.height
    frames = min(16, params.num_frames)
    columns = min(4, frames)
    return columns * params.width, -(-frames // columns) * params.height


@lru_cache
def expected(params: str) -> bytes:
    """The video that these parameters have to give, made here, without any interruption."""
    asked = JobParams.model_validate_json(params)
    engine = StubEngine()
    latents = engine.denoise(asked, engine.encode_prompt(asked), lambda *_: None)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        encode(engine.frames(latents, lambda: None), writer_of(path, asked, engine.attention(asked)))
        return path.read_bytes()


def pictures(content: bytes) -> list[bytes]:
    """Its frames, decoded."""
    with av.open(io.BytesIO(content)) as container:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]
