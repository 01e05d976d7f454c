"""What the janitor asks of the store: work that was lost, messages to send, jobs that are over."""

from redis import Redis

from adaspa_jobs.attempts import given_up
from adaspa_jobs.job import ErrorCode, Job, JobError, Priority
from adaspa_jobs.queue import queue_key, queue_name
from adaspa_jobs.scripts import PREFIX, Scripts, reaching

SEND_SECONDS = 10.0
"""A job that was accepted but not sent to the queue after this long is sent by the janitor."""
RESEND_SECONDS = 60.0
"""A sent message that is neither in the queue nor claimed after this long is sent again."""
GAP_SECONDS = 3.0
"""Janitors that look for lost leases this often have not been cut off from Redis."""


class Upkeep:
    """The janitor's part of a JobStore; several janitors may call it at once."""

    max_attempts: int
    queue_seconds: float
    client: Redis
    _scripts: Scripts

    def readable(self, ids: list[str]) -> list[Job]:
        """Records; the store's own."""
        raise NotImplementedError

    def requeue_expired(self) -> list[str]:
        """Take jobs from workers that are not heard of; those that go back to the queue. Up to 100 a call.

        To be called every second or so: after a longer gap workers are given the time of a lease to be heard again.
        """
        found = self._scripts.run("requeue", given_up(self.max_attempts).model_dump_json(), round(GAP_SECONDS * 1000))
        return [job_id.decode() for job_id in found]

    def time_out(self) -> list[str]:
        """Fail jobs that have waited for a worker too long; those. Up to 100 of a queue a call."""
        error = JobError(
            code=ErrorCode.queue_timeout, message=f"No worker took the job within {self.queue_seconds:.0f} s."
        )
        found = self._scripts.run("time_out", round(self.queue_seconds * 1000), error.model_dump_json())
        return [job_id.decode() for job_id in found]

    def take_unsent(self, limit: int = 100) -> list[Job]:
        """Queued jobs whose message is to be sent now; no other janitor gets them for a while.

        One that this version cannot read is left to the gateways of a later one.
        """
        ids = self._scripts.run("take_due", "outbox", limit, round(SEND_SECONDS * 1000))
        return self.readable([job_id.decode() for job_id in ids])

    def mark_sent(self, job_id: str) -> None:
        """The job's message is in the queue."""
        self._scripts.run("mark_sent", job_id)

    def resend_lost(self, model: str) -> int:
        """Have messages that vanished from the queue sent again; their number."""
        after = round(RESEND_SECONDS * 1000)
        queues = [(queue_key(model, priority), queue_name(model, priority)) for priority in Priority]
        return sum(int(self._scripts.run("resend_lost", key, name, after)) for key, name in queues)

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
        return [job_id.decode() for job_id in self._scripts.run("take_due", name, limit, round(SEND_SECONDS * 1000))]

    def purge(self, job_id: str) -> bool:
        """Remove the record of a discarded job, after its files. False if it still runs."""
        return bool(self._scripts.run("purge", job_id))
