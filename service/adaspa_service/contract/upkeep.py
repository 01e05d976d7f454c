"""What the janitor asks of the store: work that was lost, messages to send, jobs that are over."""

from adaspa_service.contract.job import ErrorCode, Job, JobError
from adaspa_service.contract.queue import queue_name
from adaspa_service.contract.scripts import Scripts

SEND_SECONDS = 10.0
"""A job that was accepted but not sent to the queue after this long is sent by the janitor."""
RESEND_SECONDS = 60.0
"""A sent message that is neither in the queue nor claimed after this long is sent again."""


class Upkeep:
    """The janitor's part of a JobStore; several janitors may call it at once."""

    max_attempts: int
    _scripts: Scripts

    def readable(self, ids: list[str]) -> list[Job]:
        """Records; the store's own."""
        raise NotImplementedError

    def adopt(self) -> int:
        """Bring what gateways of an earlier version left, or still write, into this version's form; jobs adopted."""
        return int(self._scripts.run("adopt"))

    def requeue_expired(self) -> list[str]:
        """Take jobs from workers that are not heard of; those that go back to the queue. Up to 100 a call."""
        lost = JobError(
            code=ErrorCode.worker_lost, message=f"The job lost its worker {self.max_attempts} times and was given up."
        )
        return [job_id.decode() for job_id in self._scripts.run("requeue", lost.model_dump_json())]

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
        return int(self._scripts.run("resend_lost", model, queue_name(model), round(RESEND_SECONDS * 1000)))

    def expire(self) -> int:
        """Discard ended jobs whose time is over; their number. Up to 100 a call."""
        return int(self._scripts.run("expire"))

    def take_purgeable(self, limit: int = 100) -> list[str]:
        """Discarded jobs that have ended; no other janitor gets them for a while."""
        ids = self._scripts.run("take_due", "purge", limit, round(SEND_SECONDS * 1000))
        return [job_id.decode() for job_id in ids]

    def purge(self, job_id: str) -> bool:
        """Remove the record of a discarded job, after its files. False if it still runs."""
        return bool(self._scripts.run("purge", job_id))
