#!/usr/bin/env bash
# torch 2.13.0: flex_attention without torch.compile attends to every block, whatever blocks its BlockMask has.
#
# BlockMask.from_kv_blocks takes the blocks to attend to. Compiled, these are what is computed. Not compiled, only the
# function mask_mod is asked, and the one that comes without any says yes to all: the result is dense attention, while
# the mask's own to_dense() and sparsity() tell of the blocks. The warning that comes with it names speed and memory.
# So a sparse kernel held against flex_attention as the plain reference, or debugged so, is held against dense
# attention. pytorch/pytorch#188322 has the same from one compiled backend on a GPU (FLASH), and counts it a bug.
#
# Eight rows of blocks attend to themselves and the first block, on a CPU. Shown is the largest difference from softmax
# attention under that mask, written out, and from dense attention. It needs a C++ compiler.
#
# Seen on 2026-11-29:
#   torch 2.13.0
#   mask: 76.6 % sparse
#   compiled: 0.000001 from sparse, 0.618550 from dense
#   not compiled: 0.618550 from sparse, 0.000000 from dense
#   not compiled, mask_mod of the same blocks: 0.000000 from sparse, 0.618550 from dense
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
import warnings

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

SIDE, BLOCKS = 128, 8
warnings.simplefilter("ignore")
print(f"torch {torch.__version__.partition('+')[0]}")
generator = torch.manual_seed(0)
q, k, v = torch.randn(3, 1, 2, SIDE * BLOCKS, 64, generator=generator)

wanted = torch.eye(BLOCKS, dtype=torch.bool)
wanted[:, 0] = True
mask = BlockMask.from_kv_blocks(
    wanted.sum(1, dtype=torch.int32).expand(1, 2, -1),
    wanted.int().argsort(descending=True, stable=True).int().expand(1, 2, -1, -1),
    BLOCK_SIZE=SIDE,
)
assert mask.to_dense()[0, 0].bool().equal(wanted)
tokens = wanted.repeat_interleave(SIDE, 0).repeat_interleave(SIDE, 1)
scores = q @ k.mT / 8
sparse, dense = scores.masked_fill(~tokens, -torch.inf).softmax(-1) @ v, scores.softmax(-1) @ v


def block(batch, head, row, column):
    return wanted[row // SIDE, column // SIDE]


print(f"mask: {mask.sparsity():.1f} % sparse")
compiled = torch.compile(flex_attention)
with_function = BlockMask.from_kv_blocks(mask.kv_num_blocks, mask.kv_indices, BLOCK_SIZE=SIDE, mask_mod=block)
for name, attention, given, is_dense in (
    ("compiled", compiled, mask, False),
    ("not compiled", flex_attention, mask, True),
    ("not compiled, mask_mod of the same blocks", flex_attention, with_function, False),
):
    output = attention(q, k, v, block_mask=given)
    errors = [(output - other).abs().max().item() for other in (sparse, dense)]
    print(f"{name}: {errors[0]:.6f} from sparse, {errors[1]:.6f} from dense")
    assert errors[is_dense] < 1e-5 < 0.1 < errors[not is_dense]
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
