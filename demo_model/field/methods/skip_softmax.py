"""Skip-softmax (BLASST; TensorRT-LLM, vLLM-Omni): a tile far below the running maximum is left out."""

import math

from demo_model.field.call import BLOCK, Call, Method, Outcome, share_of
from demo_model.field.methods.exact import SCORING


class SkipSoftmax(Method):
    """All products of queries and keys are made; exponentials and values only of tiles that are not skipped.

    A tile is skipped if in all of its rows the largest score lies ``-log(threshold)`` below the running maximum.

    Args:
        threshold: lambda, above 0; the higher, the fewer tiles.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def attend(self, call: Call) -> Outcome:
        top = call.logits.unflatten(-1, (-1, BLOCK)).amax(-1)
        below = top - top.cummax(-1).values
        keep = (below >= math.log(self.threshold)).unflatten(2, (-1, BLOCK)).any(3)
        keep[..., 0] = True
        return Outcome(call.sparse(keep), keep, share_of(keep), SCORING, 1 - SCORING)
