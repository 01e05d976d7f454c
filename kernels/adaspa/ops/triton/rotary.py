# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Rotary embedding: read once, written once, the angles of a token kept for all of its heads where they share them."""

import torch
import triton
import triton.language as tl

from adaspa.ops.triton.launch import Launcher

ROWS = 16  # tokens of a program


@triton.jit(do_not_specialize=["heads", "tokens"])
def rotary_kernel(
    x, cos, sin, out, stride_b, stride_s, stride_h, angle_b, angle_s, angle_h, angle_pair, heads, tokens,
    D: tl.constexpr, PAIRS: tl.constexpr, ROWS: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    pair, channel = tl.arange(0, PAIRS), tl.arange(0, 2 * PAIRS)
    inside = (row < tokens)[:, None]
    known = inside & (pair < D // 2)[None, :]
    angle = batch * angle_b + row[:, None] * angle_s + pair[None, :] * angle_pair
    if SHARED:
        c = tl.load(cos + angle, mask=known, other=0.0).to(tl.float32)
        s = tl.load(sin + angle, mask=known, other=0.0).to(tl.float32)
    there = inside & (channel < D)[None, :]
    source = x + batch * stride_b + row[:, None] * stride_s + channel[None, :]
    target = out + (batch * tokens + row[:, None]) * heads * D + channel[None, :]
    for head in range(heads):
        if not SHARED:
            c = tl.load(cos + head * angle_h + angle, mask=known, other=0.0).to(tl.float32)
            s = tl.load(sin + head * angle_h + angle, mask=known, other=0.0).to(tl.float32)
        pairs = tl.load(source + head * stride_h, mask=there, other=0.0).to(tl.float32)
        even, odd = tl.split(tl.reshape(pairs, (ROWS, PAIRS, 2)))
        turned = tl.reshape(tl.join(even * c - odd * s, even * s + odd * c), (ROWS, 2 * PAIRS))
        tl.store(target + head * D, turned.to(out.dtype.element_ty), mask=there)


launch_rotary = Launcher(rotary_kernel)


def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`adaspa.ops.rotary` on checked arguments."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    sin = sin if sin.stride() == cos.stride() else sin.contiguous()
    cos = cos if sin.stride() == cos.stride() else cos.contiguous()
    batch, tokens, heads, dim = x.shape
    shared = cos.ndim == 2
    angles = (0, cos.stride(0), 0, cos.stride(1)) if shared else cos.stride()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    launch_rotary(
        (triton.cdiv(tokens, ROWS), batch, 1),
        x, cos, sin, out, *x.stride()[:3], *angles, heads, tokens,
        D=dim, PAIRS=triton.next_power_of_2(dim // 2), ROWS=ROWS, SHARED=shared, num_warps=4,
    )  # fmt: skip
    return out
