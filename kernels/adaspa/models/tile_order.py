"""Video tokens in compact 3-D tiles while the transformer runs, and back at its end (*ours*).

The tokens are put in order once, behind the patch embedding, and all that goes with them: rotary tables and timesteps
for each token. Attention and all else within do not mind the order of the tokens.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from adaspa.bound import Bound
from adaspa.layout import Permutation

if TYPE_CHECKING:
    from adaspa.handle import AdaSpaHandle

Grid = tuple[int, int, int]
Reorder = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A tensor with its video tokens in another order: the n-th is the one that was at ``order[n]``."""

TILES: dict[int, Grid] = {16: (1, 4, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8)}
"""Frames, rows and columns of a tile, by tokens."""


@lru_cache(maxsize=8)
def tile_permutation(grid: Grid, block: int, device: torch.device) -> Permutation:
    """Order the tokens of a ``(frames, rows, columns)`` grid tile by tile, in raster order within each.

    The tiles follow each other as a snake, so that a block that straddles two, where the grid is no multiple of the
    tile, still holds neighbours.
    """
    size = TILES[block]
    axes = torch.meshgrid(
        *(torch.arange(length) // tile for length, tile in zip(grid, size, strict=True)), indexing="ij"
    )
    frames, rows, columns = axes
    row_tiles, column_tiles = int(rows.max()) + 1, int(columns.max()) + 1
    rows = torch.where(frames % 2 == 1, row_tiles - 1 - rows, rows)
    strips = frames * row_tiles + rows
    columns = torch.where(strips % 2 == 1, column_tiles - 1 - columns, columns)
    order = (strips * column_tiles + columns).flatten().argsort(stable=True)
    return Permutation(order.to(device), order.argsort().to(device))


def along(dim: int) -> Reorder:
    """Reorder the last tokens of ``dim``, behind those of a text that comes first."""

    def reorder(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        before = x.shape[dim] - len(order)
        video = x.narrow(dim, before, len(order)).index_select(dim, order)
        return torch.cat((x.narrow(dim, 0, before), video), dim) if before else video

    return reorder


def over_grid(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Reorder ``[B, C, frames, rows, columns]``, which the model flattens later."""
    return x.flatten(2).index_select(2, order).view(x.shape)


def over_frames(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Reorder ``[B * frames, rows * columns, C]``, which the model flattens later."""
    return x.reshape(-1, len(order), x.shape[-1]).index_select(1, order).view(x.shape)


def over_maps(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Reorder ``[B * frames, C, rows, columns]``, which the model flattens later."""
    tokens = x.flatten(2).transpose(1, 2)
    return over_frames(tokens, order).transpose(1, 2).reshape(x.shape)


def over_cells(batch_dims: int) -> Reorder:
    """Reorder ``[..., frames, rows, columns, ...]`` behind ``batch_dims``, which the model flattens later."""

    def reorder(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        return x.flatten(batch_dims, batch_dims + 2).index_select(batch_dims, order).view(x.shape)

    return reorder


def reordered(value: Any, reorder: Reorder, order: torch.Tensor) -> Any:
    """A tensor, or each of those in tuples or lists of tensors, in another order."""
    if isinstance(value, torch.Tensor):
        return reorder(value, order)
    return tuple(reordered(x, reorder, order) for x in value)


def install_hooks(
    transformer: torch.nn.Module, handle: "AdaSpaHandle", embeddings: dict[str, Reorder], outputs: dict[str, Reorder]
) -> list[Any]:
    """Hooks that reorder what ``embeddings`` give out, as far as the model has them, and what ``outputs`` do back.

    They do nothing in raster order.
    """
    modules = dict(transformer.named_modules())
    hooks = [_Hook(modules[name], handle, reorder) for name, reorder in embeddings.items() if name in modules]
    return [*hooks, *(_Hook(modules[name], handle, reorder, back=True) for name, reorder in outputs.items())]


class _Hook(Bound):
    """Reorders the tokens that a module gives out: into the order of the tiles, or ``back``."""

    def __init__(self, module: torch.nn.Module, handle: "AdaSpaHandle", reorder: Reorder, back: bool = False) -> None:
        self.handle = handle
        self.reorder = reorder
        self.back = back
        self.remove = module.register_forward_hook(self).remove

    def __call__(self, module: torch.nn.Module, args: Any, value: Any) -> Any:
        forward = self.handle.forward
        if forward is None or forward.tiles is None:
            return value
        return reordered(value, self.reorder, forward.tiles.inverse if self.back else forward.tiles.order)
