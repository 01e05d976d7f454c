"""A small synchronous client of the gateway, over httpx."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import httpx
from pydantic import BaseModel

from adaspa_service.contract.job import AttentionReport, JobError, JobStatus

Variant = Literal["video", "thumbnail", "spritesheet"]
TERMINAL = (JobStatus.completed, JobStatus.failed, JobStatus.cancelled)


class Video(BaseModel):
    """A job as the gateway shows it; fields that this client does not know are left out."""

    id: str
    model: str
    status: JobStatus
    prompt: str
    progress: int
    phase: str
    step: int
    steps: int
    step_kind: str | None = None
    eta_seconds: float | None = None
    queue_position: int | None = None
    size: str
    num_frames: int
    fps: int
    seed: int
    attempt: int
    error: JobError | None = None
    attention: AttentionReport | None = None
    timings: dict[str, float] = {}

    @property
    def done(self) -> bool:
        """Whether the job has ended, one way or another."""
        return self.status in TERMINAL


class ApiError(Exception):
    """The gateway refused a request: HTTP status, and the error's code, field and message."""

    def __init__(self, status: int, message: str, code: str | None, param: str | None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


class Client:
    """Create, follow and download videos.

    Args:
        base_url: the gateway's address, such as ``http://127.0.0.1:8000``.
        timeout: seconds for one request.
        api_key: sent with every request.

    Raises (all methods): ApiError when the gateway refuses; httpx.TransportError when it cannot be reached.
    """

    def __init__(self, base_url: str, timeout: float = 30.0, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=base_url, timeout=timeout, headers=headers)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def create(self, prompt: str, **params: Any) -> Video:
        """Submit a prompt; ``params`` are the other fields of ``POST /videos`` (model, size, steps, seed, ...)."""
        return Video.model_validate(self._json("POST", "/videos", json={"prompt": prompt, **params}))

    def retrieve(self, video_id: str) -> Video:
        """The job as it stands."""
        return Video.model_validate(self._json("GET", f"/videos/{video_id}"))

    def delete(self, video_id: str) -> None:
        """Cancel a job that has not ended, or remove one that has, with its files."""
        self._json("DELETE", f"/videos/{video_id}")

    def models(self) -> list[dict[str, Any]]:
        """The served models with their sizes, frames, steps and limits."""
        data: list[dict[str, Any]] = self._json("GET", "/models")["data"]
        return data

    def list(self, limit: int = 20, after: str | None = None, order: Literal["asc", "desc"] = "desc") -> list[Video]:
        """One page of jobs; ``after`` is the last id of the page before."""
        query = {"limit": limit, "order": order} | ({"after": after} if after else {})
        return [Video.model_validate(item) for item in self._json("GET", "/videos", params=query)["data"]]

    def wait(
        self,
        video_id: str,
        on_progress: Callable[[Video], None] | None = None,
        poll: float = 0.25,
        timeout: float = 3600.0,
        patience: float = 30.0,
    ) -> Video:
        """Poll a job until it has ended.

        Args:
            on_progress: called with every answer.
            poll: seconds between two questions.
            timeout: seconds after which TimeoutError is raised; the job goes on.
            patience: seconds for which an unreachable gateway, or one that answers 5xx, is asked again.
        """
        start = heard = time.monotonic()
        while True:
            try:
                video = self.retrieve(video_id)
            except (httpx.TransportError, ApiError) as error:
                refused = isinstance(error, ApiError) and error.status < 500
                if refused or time.monotonic() - heard > patience:
                    raise
            else:
                heard = time.monotonic()
                if on_progress:
                    on_progress(video)
                if video.done:
                    return video
            if time.monotonic() - start > timeout:
                raise TimeoutError(f"{video_id} has not ended after {timeout:.0f} s")
            time.sleep(poll)

    def download(self, video_id: str, path: Path, variant: Variant = "video") -> Path:
        """Write a finished job's file; ``path`` appears only when it is whole."""
        part = path.with_name(f".{path.name}.part")
        try:
            with self._http.stream("GET", f"/videos/{video_id}/content", params={"variant": variant}) as response:
                if not response.is_success:
                    response.read()
                    raise api_error(response)
                with part.open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path

    def _json(self, method: str, path: str, **request: Any) -> Any:
        response = self._http.request(method, path, **request)
        if not response.is_success:
            raise api_error(response)
        return response.json()


def api_error(response: httpx.Response) -> ApiError:
    """The error that a refusal describes; a body in another shape is quoted."""
    try:
        error = response.json()["error"]
        return ApiError(response.status_code, error["message"], error.get("code"), error.get("param"))
    except (ValueError, KeyError, TypeError):
        return ApiError(response.status_code, f"HTTP {response.status_code}: {response.text[:200]}", None, None)
