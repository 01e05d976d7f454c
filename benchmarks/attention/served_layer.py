"""A server's attention layer with AdaSpa, at the shapes of MiniMax-H3 and Wan: its kinds of calls, timed one by one."""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import adaspa
import torch

from benchmarks.attention.servers import Times, timed
from benchmarks.results import add, ran_on

DIM = 128
KINDS = {
    0: "default",
    9: "with_lse",
    10: "first_search",
    **dict.fromkeys((11, 12, 13), "sparse"),
    30: "later_search",
    **dict.fromkeys((31, 32, 33), "sparse"),
}
"""What AdaSpa does in some of the `STEPS`: ``default`` is dense by the backend that the server takes by default."""


class Case(NamedTuple):
    """Self-attention of one layer: ``grid`` frames, rows and columns of video; before them MiniMax-H3's other rows."""

    name: str
    heads: int
    grid: tuple[int, int, int]
    text: int = 0
    sound: int = 0

    @property
    def others(self) -> int:
        """Rows before the video: the text, and two channels of sound."""
        return self.text + 2 * self.sound

    @property
    def rows(self) -> int:
        """All rows."""
        return self.others + self.grid[0] * self.grid[1] * self.grid[2]


CASES = (
    Case("minimax-h3-5s", 56, (37, 24, 42), text=192, sound=125),
    Case("minimax-h3-10s", 56, (72, 24, 42), text=192, sound=250),
    Case("wan-14b-720p", 40, (21, 45, 80)),
)


class ServedLayer(Protocol):
    """An attention layer of a server, called in the steps of one request."""

    def __call__(self, step: int) -> torch.Tensor:
        """Attend in a denoising step; all rows come back, with the server's padding."""

    def rows(self) -> list[torch.Tensor]:
        """Queries, keys and values in use, ``[1, S, H, D]``."""

    def state(self) -> adaspa.AdaSpaState:
        """AdaSpa's, of the request so far."""


def inputs(case: Case, device: str) -> list[torch.Tensor]:
    """Random queries, keys and values of a case, ``[1, S, H, D]`` in bfloat16."""
    generator = torch.Generator(device).manual_seed(0)
    size = (1, case.rows, case.heads, DIM)
    return [torch.randn(size, generator=generator, device=device, dtype=torch.bfloat16) for _ in range(3)]


def ours(layer: ServedLayer, case: Case, times: Times) -> float:
    """Time each kind of call of a request, and the library's sparse call without the server; the density it kept."""
    device, others = layer.rows()[0].device.type, case.others
    for step, kind in KINDS.items():
        timed(partial(layer, step), device, times[kind])
    state = layer.state()
    q, k, v = (_video_first(x, others).transpose(1, 2) for x in layer.rows())
    text = (q.shape[2] - others, q.shape[2]) if others else None
    for _ in range(3):
        state.begin_step(33, state.branch)
        timed(lambda: adaspa.attention(q, k, v, state, text=text), device, times["library"])
    (index,) = (state.cache.index(key) for key in state.cache.held())
    assert index is not None
    return index.density()


def _video_first(x: torch.Tensor, others: int) -> torch.Tensor:
    return torch.cat((x[:, others:], x[:, :others]), dim=1) if others else x


def run(
    about: str,
    server: str,
    dense: str,
    started: AbstractContextManager[None],
    measure: Callable[[Case, float, int], dict[str, Any]],
) -> None:
    """Run the command line of a server's benchmark: a row for each case.

    Args:
        about: what the program does.
        server: its name and version.
        dense: its dense backend.
        started: within it, the server's process is as it serves.
        measure: gets a case, the share of the blocks that are dropped, and the rounds.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    parser.add_argument("--sparsity", type=float, default=0.8, help="share of the blocks that are dropped")
    parser.add_argument("--rounds", type=int, default=3, help="requests of each that are timed, in turns")
    arguments = parser.parse_args()
    result: dict[str, Any] = {**ran_on(), "server": server, "dense": dense, "rows": []}
    with torch.inference_mode(), started:
        for case in CASES:
            add(result, measure(case, arguments.sparsity, arguments.rounds), arguments.output)
