"""Every video object that anybody is shown, by whichever route, in a list, an event or a webhook: each is consistent in
itself, and all of one job agree."""

import re
import threading
from collections.abc import Iterator
from typing import Any

from adaspa_jobs.store import VIDEO_ID

ENDS = ("completed", "failed", "cancelled")
RUNNING = ("loading", "encoding_prompt", "denoising", "decoding", "uploading")
SETTLED = (
    *("created_at", "model", "prompt", "negative_prompt", "seed", "steps", "size", "num_frames", "fps", "seconds"),
    *("guidance_scale", "quality", "output_format", "metadata", "user", "priority", "task", "inputs"),
    *("remixed_from_video_id",),
)
"""What never changes of a job."""
ONLY = {
    "queue_position": ("queued",),
    "workers": ("queued",),
    "starts_in_seconds": ("queued",),
    "preview_url": ("in_progress",),
    "eta_seconds": ("in_progress",),
    "estimated_seconds": ("queued", "in_progress"),
    "attention": ("completed",),
    "content_type": ("completed",),
    "has_audio": ("completed",),
    "error": ("failed",),
    "completed_at": ENDS,
    "expires_at": ENDS,
}
"""Fields that are there with these statuses only; else null."""
ALWAYS = ("attention", "content_type", "has_audio", "error", "completed_at", "expires_at")
"""Those of them that are there with each of their statuses."""
KEPT_SECONDS = 7 * 86400
TIMES = re.compile(r"\d+x\d+")


class Sightings:
    """What was shown of each job; what was wrong with it goes into ``broken``."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        self._lock = threading.Lock()
        self._settled: dict[str, dict[str, Any]] = {}
        self._started: dict[str, Any] = {}
        self._ended: dict[tuple[str, int], dict[str, Any]] = {}

    def see(self, answer: Any, where: str, epoch: int = 0) -> None:
        """Look at an answer: at a video, or at those of a list.

        Args:
            answer: any JSON.
            where: the request, for the report.
            epoch: how many times Redis lost something before: an end may then be undone.
        """
        kind = answer.get("object") if isinstance(answer, dict) else None
        if kind == "list" and "first_id" in answer:
            ids = [video["id"] for video in answer["data"]]
            if ids and answer["first_id"] != ids[0]:
                self._note(f"{where}: first_id {answer['first_id']} of {ids}")
            for video in answer["data"]:
                self.see(video, where, epoch)
        elif kind == "video" and answer.keys() >= {
            *SETTLED,
            *ONLY,
        }:  # an event's data are fewer, and an earlier version's
            with self._lock:
                wrong = [*alone(answer), *self._beside_others(answer, epoch)]
            for each in wrong:
                self._note(f"{answer['id']} in {where}: {each}")

    def _note(self, wrong: str) -> None:
        with self._lock:
            self.broken.append(wrong)

    def _beside_others(self, video: dict[str, Any], epoch: int) -> Iterator[str]:
        """What disagrees with what was shown of the job before."""
        settled = {name: video.get(name) for name in SETTLED}
        yield from _differences(self._settled.setdefault(video["id"], settled), settled)
        if video["started_at"] is not None:
            first = self._started.setdefault(video["id"], video["started_at"])
            if first != video["started_at"] and not epoch:
                yield f"started_at is {video['started_at']}, and was {first}"
        if video["status"] in ENDS:
            whole = video | {"attention": (video["attention"] or {}) | {"layers": []}}
            yield from _differences(self._ended.setdefault((video["id"], epoch), whole), whole)


def alone(video: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one object by itself."""
    status, attempt, step = video["status"], video["attempt"], video["step"]
    for name, statuses in ONLY.items():
        there = video[name] is not None
        if (there and status not in statuses) or (not there and status in statuses and name in ALWAYS):
            yield f"is {status}, with {name} {video[name]!r}"
    begun, kept = attempt >= 1, (video["expires_at"] or 0) - (video["completed_at"] or 0)
    for wrong, what in (
        (not VIDEO_ID.fullmatch(video["id"]), "has an id of another form"),
        (status not in (*ENDS, "queued", "in_progress"), f"has the status {status}"),
        ((video["progress"] == 100) != (status == "completed"), f"is {status} at progress {video['progress']}"),
        (not 0 <= video["progress"] <= 100, f"is at progress {video['progress']}"),
        (video["phase"] not in (RUNNING if status == "in_progress" else (status,)), f"is in phase {video['phase']}"),
        (begun != (video["started_at"] is not None), f"started at {video['started_at']}, at attempt {attempt}"),
        (not begun and status in ("in_progress", "completed"), f"is {status} at attempt {attempt}"),
        (not 0 <= step <= video["steps"], f"is at step {step} of {video['steps']}"),
        (status == "completed" and step != video["steps"], f"is completed at step {step} of {video['steps']}"),
        ((video["resumed_from_step"] or 0) > step, f"is at step {step}, from {video['resumed_from_step']}"),
        (status in ENDS and kept != KEPT_SECONDS, f"is kept for {kept} s"),
        (video["queue_position"] is not None and video["queue_position"] < 1, f"is at place {video['queue_position']}"),
        (not TIMES.fullmatch(video["size"]), f"has the size {video['size']}"),
        (abs(float(video["seconds"]) * video["fps"] - video["num_frames"]) > 0.02, f"lasts {video['seconds']} s"),
    ):
        if wrong:
            yield what


def _differences(was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for name, value in was.items():
        if value != now.get(name):
            yield f"{name} is {str(now.get(name))[:120]}, and was {str(value)[:120]}"
