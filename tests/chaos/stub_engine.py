"""A stand-in for a model: real steps, with checkpoints, that take milliseconds; a seed gives the same frames."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
from adaspa_jobs.job import JobParams

STEP_SECONDS = 0.02
FRAMES = 9


class StubEngine:
    """The ``Engine`` protocol of the worker, with latents ``[frames, 8, 8, 3]`` that each step moves and disturbs."""

    def __init__(self) -> None:
        self._last: tuple[int, np.ndarray, np.random.Generator] | None = None
        self._size = (0, 0)

    def checked(self, check: Callable[[], None]) -> AbstractContextManager[None]:
        return nullcontext()

    def encode_prompt(self, params: JobParams, images: object = None) -> SimpleNamespace:
        return SimpleNamespace(tokens={})

    def denoise(
        self,
        params: JobParams,
        encoded: SimpleNamespace,
        on_step: Callable[[int, Any], None],
        resume: dict[str, Any] | None = None,
    ) -> np.ndarray:
        random = np.random.Generator(np.random.PCG64(params.seed))
        self._size = params.height, params.width
        latents, first = random.standard_normal((params.num_frames, 8, 8, 3)), 0
        if resume:
            first, latents = resume["step"], np.asarray(resume["latents"])
            random.bit_generator.state = resume["random"]
        for step in range(first, params.steps):
            time.sleep(STEP_SECONDS)
            latents = np.tanh(latents + 0.1 * random.standard_normal(latents.shape))
            self._last = (step + 1, latents, random)
            on_step(step + 1, "dense")
        return latents

    def snapshot(self) -> dict[str, Any] | None:
        import torch  # noqa: PLC0415  only for checkpoints, which are torch's format

        if self._last is None:
            return None
        step, latents, random = self._last
        return {"step": step, "latents": torch.from_numpy(latents.copy()), "random": random.bit_generator.state}

    def preview(self) -> None:
        """There is nothing to see."""

    def frames(self, latents: np.ndarray, check: Callable[[], None]) -> Iterator[np.ndarray]:
        for frame in latents:
            check()
            pixels = np.ones((self._size[0] // 8, self._size[1] // 8, 1), np.uint8)
            yield np.kron((frame * 127.5 + 127.5).astype(np.uint8), pixels)

    def sound(self, params: JobParams) -> None:
        """There is nothing to hear."""

    def attention(self, params: JobParams) -> dict[str, Any]:
        return {}

    def report(self) -> dict[str, Any]:
        steps = {"dense_steps": 1, "search_steps": 0, "sparse_steps": 0}
        return {"density": 1.0, **steps, "dense_seconds": 0.1, "search_seconds": 0.0, "sparse_seconds": 0.0}

    def reset(self) -> None:
        self._last = None
