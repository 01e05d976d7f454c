"""ConsisID: CogVideoX with a face attended to between its blocks."""

from __future__ import annotations

from adaspa.models.cogvideox import CogVideoX


class ConsisID(CogVideoX):
    """`ConsisIDTransformer3DModel`."""
