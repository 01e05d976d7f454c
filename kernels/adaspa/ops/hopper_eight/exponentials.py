# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Exponentials of integer scores as numbers whose bits count up with their logarithm, eight to an octave.

The GPU has few units for exponentials, and e4m3 has three bits of mantissa. A number is ``2**e * (1 + m / 8)``, and its
bits are the integer ``8 * e + m`` plus a constant. Its logarithm is nearly that: a straight line between powers of two
is at most 6 % above (Schraudolph, Neural Computation 11, 1999), which a constant makes zero on average. So a rounded
``8 * log2(p)`` is p. Rounding is that of fp16, whose least numbers are integers times 2**-24, and so are their bits.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

STEP = gl.constexpr(8.0 * 2.0**-24)
"""Value of an octave in fp16."""
LEVEL = gl.constexpr(-0.459)
"""Eighths of an octave that make the errors of straight lines zero on average."""
SUMS = {"e4m3": ("7", "f16x2"), "bf16": ("4", "bf16x2")}
"""Shift that makes numbers in 16 bits of the integers, and the type of two."""


def exponentials(scores: str, kind: str) -> str:
    """Instructions for four scores s of a row: integers of ``s * g + h`` as exponentials.

    Args:
        scores: ``s32`` or ``f32``.
        kind: ``e4m3`` gives the four in e4m3, and two sums of two times 2**-8 in fp16; ``bf16`` two sums of two in
            bfloat16 alone.
    """
    first, (bits, pair) = 1 + (kind == "e4m3"), SUMS[kind]
    steps = [".reg .f32 x<4>; .reg .b32 y, z;"]
    for i in range(4):
        score = f"${first + i}"
        if scores == "s32":
            steps.append(f"cvt.rn.f32.s32 x{i}, {score};")
            score = f"x{i}"
        steps.append(f"fma.rn.f32 x{i}, {score}, ${first + 4}, ${first + 5};")
    steps.append("cvt.rn.relu.f16x2.f32 y, x1, x0; cvt.rn.relu.f16x2.f32 z, x3, x2;")
    if kind == "e4m3":
        steps.append("prmt.b32 $0, y, z, 0x6420;")
    steps.append(f"shl.b32 y, y, {bits}; shl.b32 z, z, {bits}; add.rn.{pair} ${first - 1}, y, z;")
    return "{ " + " ".join(steps) + " }"


def operands(scores: str, kind: str) -> str:
    """Registers that the instructions read and write."""
    return ",".join(["=r"] * (1 + (kind == "e4m3")) + ["r" if scores == "s32" else "f"] * 4 + ["f", "f"])


@gluon.jit
def quads(s):
    """Return scores ``[64, N]`` as four tensors ``[64, N // 64, 16]``, by block of 64 keys.

    An element of all four lies in a thread: two neighbours of a row, and those eight columns on.
    """
    BLOCKS: gl.constexpr = s.shape[1] // 64
    first, second = gl.split(gl.permute(gl.reshape(s, [64, 4 * BLOCKS, 2, 4, 2]), [0, 1, 3, 2, 4]))
    s0, s2 = gl.split(first)
    s1, s3 = gl.split(second)
    s0, s1 = gl.reshape(s0, [64, BLOCKS, 16]), gl.reshape(s1, [64, BLOCKS, 16])
    return s0, s1, gl.reshape(s2, [64, BLOCKS, 16]), gl.reshape(s3, [64, BLOCKS, 16])
