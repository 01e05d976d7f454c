"""Tiles of a VAE's decoding, dealt to the processes of a group: the frames are those of one process.

Each process goes through diffusers' own loop over the tiles, with another function in the place of the decoder's. The
others decode every n-th tile and send what comes of it; the leader takes that for its own, and blends all of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """A call of the decoder: of which tile, and the how many-th of it, since some VAEs take a tile frame by frame."""

    tile: int
    call: int


class Dealt:
    """Stands in the place of a decoder's function, in one decoding.

    Args:
        rank, size: of this process, and of how many.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self._place = Place(-1, 0)

    def __call__(self, decode: Callable[..., Any], z: Tensor, *args: Any, **kwargs: Any) -> Any:
        self._place = self._next(kwargs)
        if "conv_cache" not in kwargs:
            return self.part(lambda: (decode(z, *args, **kwargs), None), z)[0]
        # These VAEs hand the cache of a tile's call to the next one, and know a new tile by None.
        out, cache = self.part(lambda: decode(z, *args, **kwargs), z)
        return out, {} if cache is None else cache

    def part(self, decode: Callable[[], tuple[Tensor, Any]], z: Tensor) -> tuple[Tensor, Any]:
        """Return what the call of ``z`` gives, with the cache behind it if this process decodes it."""
        raise NotImplementedError

    @property
    def owner(self) -> int:
        """Rank of the process that decodes the tile at hand."""
        return self._place.tile % self.size

    def _next(self, kwargs: dict[str, Any]) -> Place:
        in_frames = "feat_cache" in kwargs and not kwargs.get("first_chunk", False)
        goes_on = in_frames or kwargs.get("conv_cache") is not None
        return Place(self._place.tile, self._place.call + 1) if goes_on else Place(self._place.tile + 1, 0)


class Leading(Dealt):
    """Dealt tiles as the leader sees them.

    Args:
        receive: waits for what another process made of a call.
    """

    def __init__(self, size: int, receive: Callable[[Place], Tensor]) -> None:
        super().__init__(0, size)
        self._receive = receive

    def part(self, decode: Callable[[], tuple[Tensor, Any]], z: Tensor) -> tuple[Tensor, Any]:
        return decode() if self.owner == self.rank else (self._receive(self._place).to(z.device), None)


class Following(Dealt):
    """A follower's side: what it leaves out has the shape that it would have, and is thrown away with the whole.

    Args:
        send: sends what it made of a call to the leader.
    """

    def __init__(self, rank: int, size: int, send: Callable[[Place, Tensor], None]) -> None:
        super().__init__(rank, size)
        self._send = send
        self._shapes: dict[tuple[int, int], tuple[int, int, int]] = {}
        """Channels, frames and the factor of height and width of a call's result, by its number and frames."""
        self._decodes = True

    def part(self, decode: Callable[[], tuple[Tensor, Any]], z: Tensor) -> tuple[Tensor, Any]:
        kind = self._place.call, z.shape[2]
        if self._place.call == 0:
            self._decodes = self.owner == self.rank or kind not in self._shapes  # to know it from then on
        if not self._decodes and kind in self._shapes:
            channels, frames, factor = self._shapes[kind]
            return z.new_zeros(z.shape[0], channels, frames, z.shape[3] * factor, z.shape[4] * factor), None
        out, cache = decode()
        self._shapes[kind] = out.shape[1], out.shape[2], out.shape[3] // z.shape[3]
        if self.owner == self.rank:
            self._send(self._place, out)
        return out, cache


@contextmanager
def dealt(decoder: torch.nn.Module, deal: Dealt) -> Iterator[None]:
    """Within the block, the decoder's calls go through ``deal``."""
    decode = decoder.forward
    decoder.forward = lambda *args, **kwargs: deal(decode, *args, **kwargs)
    try:
        yield
    finally:
        del decoder.forward
