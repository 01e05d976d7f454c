"""ConsisID: CogVideoX with a face attended to between its blocks."""

from adaspa.models.cogvideox import CogVideoX


class ConsisID(CogVideoX):
    """`ConsisIDTransformer3DModel`."""
