#!/usr/bin/env bash
# SageAttention 1.0.6 takes the mean off the keys of its caller: a cache of keys is wrong from the second chunk on.
#
# smooth_k, on by default, subtracts the mean of the keys in place. For one call alone that does not matter, since
# softmax is blind to it. But video models that generate chunk after chunk hand over a slice of their cache of keys, and
# its mean goes from the cache: later chunks attend to old keys that are centred beside new ones that are not. Nothing
# in the documentation says that k is written to. A copy of the slice, or smooth_k=False, is right.
#
# Six chunks of 64 random tokens, whose keys have a mean of their own, on a CPU in Triton's interpreter, by sageattn
# itself. Each attends to itself and those before it, from a cache. Stand-in: what it asks of tensors, to be on a GPU.
# Shown is how far each chunk's output is off (by norm), and the largest change of the cache.
#
# On an H200 (torch 2.11.0, triton 3.6.0) other random tokens were off by 0.01, 0.35, 0.56, 0.61, 0.57, 0.76.
#
# Seen on 2026-11-29:
#   torch 2.13.0, triton 3.7.1, sageattention 1.0.6
#   as it comes: off by 0.01, 0.47, 0.54, 0.63, 0.77, 0.74; the cache changes by 7.4
#   a copy: off by 0.01, 0.01, 0.01, 0.01, 0.01, 0.01; the cache changes by 0.0
#   smooth_k=False: off by 0.01, 0.01, 0.01, 0.01, 0.01, 0.01; the cache changes by 0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  numpy==2.4.6 sageattention==1.0.6 torch==2.13.0 triton==3.7.1
cat > "$folder/seen.py" <<'PYTHON'
import os
from importlib import metadata
from unittest.mock import patch

os.environ["TRITON_INTERPRET"] = "1"
import torch
from sageattention import sageattn
from torch.nn.functional import scaled_dot_product_attention

CHUNK, CHUNKS = 64, 6
torch.manual_seed(0)
length = CHUNK * CHUNKS
q, k, v = torch.randn(3, 1, 2, length, 64, dtype=torch.float16)
k += torch.randn(1, 2, 1, 64, dtype=torch.float16)


def chunks(attend, copied=False):
    """Each chunk attends to itself and the ones before it, whose keys and values lie in a cache."""
    keys, values, outputs = torch.empty_like(k), torch.empty_like(v), []
    for start in range(0, length, CHUNK):
        now, so_far = slice(start, start + CHUNK), slice(0, start + CHUNK)
        keys[:, :, now], values[:, :, now] = k[:, :, now], v[:, :, now]
        seen = keys[:, :, so_far].clone() if copied else keys[:, :, so_far]
        outputs.append(attend(q[:, :, now], seen, values[:, :, so_far]).float())
    return outputs, keys


def off(seen, right):
    return ((seen - right).norm() / right.norm()).item()


def sage(smooth_k):
    return lambda *qkv: sageattn(*qkv, smooth_k=smooth_k)


versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("triton", "sageattention"))
print(f"torch {torch.__version__.partition('+')[0]}, {versions}")
right, _ = chunks(scaled_dot_product_attention)
for name, smooth_k, copied, fine in (
    ("as it comes", True, False, False),
    ("a copy", True, True, True),
    ("smooth_k=False", False, False, True),
):
    with patch.object(torch.Tensor, "is_cuda", True):
        seen, keys = chunks(sage(smooth_k), copied)
    wrong = [off(one, other) for one, other in zip(seen, right, strict=True)]
    changed = (keys - k).abs().max().item()
    print(f"{name}: off by {', '.join(f'{one:.2f}' for one in wrong)}; the cache changes by {changed:.1f}")
    assert wrong[0] < 0.02 and (max(wrong) < 0.02) == fine == (changed == 0)
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
