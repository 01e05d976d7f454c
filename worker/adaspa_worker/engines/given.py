"""Inputs of one forward of a transformer, as meta tensors: a job's memory follows from their shapes and types."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from torch import Tensor

from adaspa_worker.families import Limits

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """A request, and the configurations of the model that it is for.

    Args:
        spec: the catalog entry.
        params: what was asked.
        limits: of the model.
        transformer, index: the configurations of its transformer and its pipeline.
        dtype: the type that it computes in.
        batch: guidance branches that go through the transformer together.
    """

    spec: ModelSpec
    params: JobParams
    limits: Limits
    transformer: Config
    index: Config
    dtype: torch.dtype
    batch: int = 1

    @property
    def frames(self) -> int:
        """Frames of the latents."""
        limits = self.limits
        return (self.params.num_frames - limits.first) // limits.every * limits.each + limits.last

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the latents."""
        patch = self.transformer.get("patch_size", 1)
        patch = patch if isinstance(patch, int) else patch[-1]
        rows, columns = (side // self.limits.side * patch for side in (self.params.height, self.params.width))
        return self.frames, rows, columns

    def text(self, tokens: int) -> int:
        """Tokens of the texts, which are padded to it, unless the catalog says otherwise."""
        return int(self.spec.call.get("max_sequence_length", tokens))

    def new(self, *shape: int) -> Tensor:
        """A tensor of the batch."""
        return torch.empty(self.batch, *shape, dtype=self.dtype, device="meta")

    def mask(self, tokens: int, dtype: torch.dtype = torch.long) -> Tensor:
        """A mask of texts."""
        return torch.empty(self.batch, tokens, dtype=dtype, device="meta")
