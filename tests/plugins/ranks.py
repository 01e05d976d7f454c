"""Programs that run in several processes at once, as the workers of a server do."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

STEPS, BRANCHES, HEADS, DIM, LAYERS = 8, 2, 4, 32, 2
GRID, ODD_GRID = (4, 6, 8), (3, 5, 7)
"""Frames, rows and columns of the video's tokens; of the second, two processes cannot have equally many."""
THEIRS, ALL, SPARSE = "theirs", "all", "sparse"
EVENLY = {"sparsity": 0.8, "block_size": 16, "head_adaptive": False}
"""Head-adaptive sparsity ranks the heads of one process, so that it chooses otherwise where there are two."""
SETTINGS: Mapping[str, dict[str, Any] | None] = {
    THEIRS: None,
    ALL: {"sparsity": 0.0001, "block_size": 16},
    SPARSE: EVENLY,
}
"""Settings of AdaSpa for each case; none for the server's own attention."""


def run(program: str, world: int, folder: Path) -> list[dict[str, Any]]:
    """Run a program of this folder in ``world`` processes, and return what each of them saved."""
    folder.mkdir()
    command = [sys.executable, str(Path(__file__).with_name(f"{program}.py"))]
    place = {"WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen([*command, str(folder)], env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(world)
    ]
    assert [process.wait() for process in processes] == [0] * world
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def weigh(model: torch.nn.Module) -> None:
    """Give a model the same random weights in every process, with queries that do not look everywhere alike."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in sorted(model.named_parameters()):
        if weight.ndim > 1:
            weight.data.normal_(0, weight[0].numel() ** -0.5, generator=generator)
        else:
            weight.data.fill_(0.0 if name.endswith("bias") else 3.0 if "norm_q" in name else 1.0)


def latents_of(grid: tuple[int, int, int]) -> torch.Tensor:
    frames, rows, columns = grid
    return torch.randn(1, 16, frames, 2 * rows, 2 * columns, generator=torch.Generator().manual_seed(1))


def texts() -> torch.Tensor:
    """One for each guidance branch, ``[branches, 1, tokens, channels]``."""
    return torch.randn(BRANCHES, 1, 7, 16, generator=torch.Generator().manual_seed(2))


TEXT = 10
"""Rows that are no video, in a sequence that has some: before the video in vLLM-Omni, behind it in SGLang."""


def qkv(layer: int) -> list[torch.Tensor]:
    """Queries, keys and values of such a sequence, ``[1, rows, heads, channels]``."""
    generator = torch.Generator().manual_seed(10 + layer)
    rows = TEXT + GRID[0] * GRID[1] * GRID[2]
    q, k, v = (torch.randn(1, rows, HEADS, DIM, generator=generator) for _ in range(3))
    return [3 * q, k, v]


def lists(request: Any) -> dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]:
    """The blocks that each layer keeps, ``[B, H, rows, width]``, and how many of them are meant."""
    cache = request.state.cache
    found = {(key.layer, key.branch): cache.index(key) for key in cache.held()}
    return {place: (index.ids.clone(), index.counts.clone()) for place, index in found.items() if index is not None}
