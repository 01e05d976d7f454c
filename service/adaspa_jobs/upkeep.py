"""Upkeep for the janitor: work that was lost, jobs that are over."""

from typing import Any

from adaspa_api.report import JobError
from adaspa_api.words import ErrorCode
from redis import Redis

from adaspa_jobs.attempts import given_up
from adaspa_jobs.scripts import PREFIX, Scripts, reaching

TAKEN_SECONDS = 10.0
"""Seconds after which another janitor takes what one has taken and not done."""
GAP_SECONDS = 3.0
"""Janitors that look for lost leases this often have not been cut off from Redis."""


class Upkeep:
    """Part of a JobStore for janitors; several may call it at once."""

    max_attempts: int
    queue_seconds: float
    unserved_seconds: float
    client: Redis
    _scripts: Scripts

    def requeue_expired(self) -> list[str]:
        """Take jobs from workers that are not heard of; those that go back to the queue. Up to 100 a call.

        To be called every second or so: after a longer gap workers are given the time of a lease to be heard again.
        """
        found = self._scripts.run("requeue", given_up=given_up(self.max_attempts).model_dump_json())
        return [job_id.decode() for job_id in found]

    def take_set_aside(self, limit: int = 100) -> list[str]:
        """Take the jobs that scripts set aside because their records are gone or cannot be read; each is told once."""
        with reaching():
            found: Any = self.client.rpop(PREFIX + "set_aside", limit)
        return [job_id.decode() for job_id in found or []]

    def time_out(self) -> list[str]:
        """Fail jobs that have waited too long for their turn, or for a worker that could run them; those.

        Up to 100 of a queue a call.
        """
        timed_out = f"No worker took the job within {self.queue_seconds:.0f} s."
        unserved = f"No worker served the model's queue for {self.unserved_seconds:.0f} s."
        lacked = f"No worker's catalog entry had the job's inputs, sound or adapters for {self.unserved_seconds:.0f} s."
        found = self._scripts.run(
            "time_out",
            wait_ms=round(self.queue_seconds * 1000),
            unserved_ms=round(self.unserved_seconds * 1000),
            timed_out=JobError(code=ErrorCode.queue_timeout, message=timed_out).model_dump_json(),
            unserved=JobError(code=ErrorCode.model_not_served, message=unserved).model_dump_json(),
            unoffered=JobError(code=ErrorCode.model_not_served, message=lacked).model_dump_json(),
        )
        return [job_id.decode() for job_id in found]

    def expire(self) -> int:
        """Discard ended jobs whose time is over; their number. Up to 100 a call."""
        return int(self._scripts.run("expire"))

    def take_purgeable(self, limit: int = 100) -> list[str]:
        """Discarded jobs that have ended; no other janitor gets them for a while."""
        return self._take_due("purge", limit)

    def take_untidy(self, limit: int = 100) -> list[str]:
        """Ended jobs whose attempts may have left files beside the result; no other janitor gets them for a while."""
        return self._take_due("leavings", limit)

    def note_tidy(self, job_id: str) -> None:
        """Only the result's files of this job are left."""
        with reaching():
            self.client.zrem(PREFIX + "leavings", job_id)

    def _take_due(self, name: str, limit: int) -> list[str]:
        found = self._scripts.run("take_due", set=name, limit=limit, again_in_ms=round(TAKEN_SECONDS * 1000))
        return [job_id.decode() for job_id in found]

    def leave_inputs(self, job_id: str) -> str | None:
        """Have a discarded job that has ended share its images no longer; their folder, if no known job does."""
        folder = self._scripts.run("leave_inputs", id=job_id)
        return folder.decode() if folder else None

    def take_lost_inputs(self, limit: int = 100) -> list[str]:
        """Folders of images whose request was not admitted in time, and no longer can be; until they are forgotten."""
        return [folder.decode() for folder in self._scripts.run("give_up_inputs", limit=limit)]

    def forget_inputs(self, folder: str) -> None:
        """Forget images that no known job was made of and that are removed."""
        with reaching(), self.client.pipeline() as pipe:
            pipe.delete(PREFIX + "inputs:" + folder)
            pipe.zrem(PREFIX + "awaited_inputs", folder)
            pipe.zrem(PREFIX + "lost_inputs", folder)
            pipe.execute()

    def purge(self, job_id: str) -> bool:
        """Remove the record of a discarded job, after its files. False if it still runs."""
        return bool(self._scripts.run("purge", id=job_id))
