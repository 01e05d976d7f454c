"""Check of prompts by the operator's own service, which is asked before a job is accepted.

It gets ``{"prompt", "negative_prompt", "model", "user", "metadata", "owner"}`` by POST, and answers with 200 and
``{"allowed": true}``, or ``{"allowed": false, "reason": "..."}``, whose reason the client reads.
"""

import asyncio
import logging

import httpx
from adaspa_jobs.job import JobParams, Labels
from adaspa_jobs.settings import Settings
from prometheus_client import CollectorRegistry, Counter
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adaspa_service.errors import ApiError, bad_field

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 64 * 1024


class Verdict(BaseModel):
    """Answer of the check."""

    model_config = ConfigDict(strict=True)

    allowed: bool
    reason: str = Field(default="is not allowed by this service", max_length=500)


class NoVerdict(Exception):
    """Failure of the check to answer, or to answer as it has to."""


class PromptCheck:
    """Asks the operator's check, if there is one.

    Args:
        settings: where it is, how long it may take, and what holds if it does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http: httpx.AsyncClient | None = None
        self.outcomes: Counter | None = None

    def count_in(self, registry: CollectorRegistry) -> None:
        """Count outcomes: allowed, refused, and without an answer."""
        self.outcomes = Counter(
            "adaspa_prompt_checks", "Number of prompts checked, by outcome.", ["outcome"], registry=registry
        )

    async def ask(self, params: JobParams, labels: Labels, owner: str) -> None:
        """Return if the prompt may be made a video of.

        Raises:
            ApiError: 400 it may not; 503 the check does not answer and such prompts are refused.
        """
        if self._settings.prompt_check_url is None:
            return
        asked = params.model_dump(include={"prompt", "negative_prompt", "model"}) | labels.model_dump()
        try:
            verdict = await self._verdict(asked | {"owner": owner})
        except NoVerdict as error:
            self._count("no_answer")
            log.error("the prompt check gave no answer: %s", error)
            if self._settings.prompt_check_failure == "accept":
                return
            message = "The prompt check is unavailable; try again."
            raise ApiError(503, "prompt_check_unavailable", message) from error
        self._count("allowed" if verdict.allowed else "refused")
        if not verdict.allowed:
            raise bad_field("prompt", f"prompt: {verdict.reason}", "prompt_refused")

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    async def _verdict(self, asked: dict[str, object]) -> Verdict:
        """Raises NoVerdict."""
        token = self._settings.prompt_check_token
        if self._http is None:
            headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
            self._http = httpx.AsyncClient(headers=headers)
        url = str(self._settings.prompt_check_url)
        try:
            async with asyncio.timeout(self._settings.prompt_check_seconds):
                async with self._http.stream("POST", url, json=asked, timeout=None) as response:
                    if response.status_code != httpx.codes.OK:
                        raise NoVerdict(f"HTTP {response.status_code}")
                    text = b""
                    async for piece in response.aiter_bytes():
                        text += piece
                        if len(text) > MAX_ANSWER_BYTES:
                            raise NoVerdict(f"the answer is over {MAX_ANSWER_BYTES} bytes")
            return Verdict.model_validate_json(text)
        except TimeoutError as error:
            raise NoVerdict(f"no answer within {self._settings.prompt_check_seconds:g} s") from error
        except httpx.HTTPError as error:
            raise NoVerdict(f"{type(error).__name__}: {error}") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise NoVerdict(f"{'.'.join(map(str, first['loc'])) or 'its body'}: {first['msg']}") from error

    def _count(self, outcome: str) -> None:
        if self.outcomes is not None:
            self.outcomes.labels(outcome).inc()
