"""Texts that a worker encoded last: jobs of one prompt, as the ``n`` of one request are, encode it once."""

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST_BYTES = 256 * 1024**2

Answer = tuple[Tensor | None, ...]
Lengths = list[tuple[int, int]]
"""Tokens of each text, and how many are left."""


@dataclass(frozen=True)
class _Kept:
    tensors: Answer
    """Encodings in host memory."""
    devices: tuple[torch.device | None, ...]
    lengths: Lengths

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors if tensor is not None)


class Encodings:
    """Answers of pipelines' ``encode_prompt`` by what it was given, in host memory; the oldest go.

    Args:
        most: bytes of all that is kept. One answer that is larger is not.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def answer(self, key: str, encode: Callable[[], Answer], lengths: Lengths) -> Answer:
        """Return what ``encode`` gives, or gave for the same key.

        Args:
            key: of ``identity``.
            encode: runs the encoders, and appends to ``lengths``.
            lengths: gets what it then appended also when it is not run.
        """
        if (found := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            lengths += found.lengths
            placed = zip(found.tensors, found.devices, strict=True)
            return tuple(None if tensor is None else tensor.to(device, copy=True) for tensor, device in placed)
        before = len(lengths)
        given = encode()
        host = tuple(None if tensor is None else tensor.to("cpu", copy=True) for tensor in given)
        devices = tuple(None if tensor is None else tensor.device for tensor in given)
        self._kept[key] = _Kept(host, devices, lengths[before:])
        while sum(kept.bytes for kept in self._kept.values()) > self._most:
            self._kept.popitem(last=False)
        return given


def identity(pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return a key that two calls of ``encode_prompt`` share only if they are given the same, images included."""
    return hashlib.sha256(pickle.dumps((type(pipe).__qualname__, args, sorted(kwargs.items())))).hexdigest()
