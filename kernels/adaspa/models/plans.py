"""Plans by which ranks share the video tokens of a transformer for which diffusers has none, in diffusers' terms."""

from typing import Any

from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput


def split_behind(dims: int, dim: int) -> ContextParallelInput:
    """Each rank keeps its part along ``dim`` of a tensor of ``dims`` dimensions that a module gives out."""
    return ContextParallelInput(split_dim=dim, expected_dims=dims, split_output=True)


def split_before(dims: int, dim: int) -> ContextParallelInput:
    """Each rank keeps its part of an argument of a module."""
    return ContextParallelInput(split_dim=dim, expected_dims=dims, split_output=False)


def rotary(dims: int, dim: int = 0) -> dict[int, ContextParallelInput]:
    """Split the two tables of a rotary embedding of ``dims`` dimensions, with tokens along ``dim``."""
    return {table: split_behind(dims, dim) for table in range(2)}


PER_TOKEN: dict[str, Any] = {"": {"timestep": split_before(2, 1)}}
"""A timestep for each token, where frames are given; those for each sample stay."""
GATHERED: dict[str, Any] = {"proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3)}
"""Behind the last projection every rank has the whole video again, ``[B, S, C]``."""
