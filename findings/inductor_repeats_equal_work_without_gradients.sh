#!/usr/bin/env bash
# torch 2.13.0: under no_grad, torch.compile computes three times what is written three times; with gradients, once.
#
# The merge of equal nodes belongs to the split into forward and backward (torch/_functorch/partitioners.py). Without
# gradients there is no split, and nothing makes up for it: a norm that is called before each of q, k and v is computed
# three times, into three tensors. pytorch/pytorch#185299 describes the same.
#
# Counted here are the tensors that the three multiplications of the code made for a CPU read. It needs a C++ compiler.
#
# Seen on 2026-11-29:
#   torch 2.13.0
#   without gradients: 3 norms
#   with gradients: 1 norm
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
import re

import torch
from torch._inductor.utils import run_and_get_code


def norm(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def projected(x, q, k, v):
    return norm(x) @ q, norm(x) @ k, norm(x) @ v


print("torch", torch.__version__.partition("+")[0])
x = torch.randn(256, 512)
weights = [torch.randn(512, 512, requires_grad=True) for _ in range(3)]
for gradients, expected in ((False, 3), (True, 1)):
    torch.compiler.reset()
    with torch.set_grad_enabled(gradients):
        _, (code,) = run_and_get_code(torch.compile(projected), x, *weights)
    read = re.findall(r"extern_kernels\.mm\((\w+),", code)
    assert len(read) == 3, code
    norms = len(set(read))
    print(f"{'with' if gradients else 'without'} gradients: {norms} norm{'s' if norms > 1 else ''}")
    assert norms == expected
PYTHON
cd "$folder" && TORCHINDUCTOR_CACHE_DIR="$folder/cache" env/bin/python seen.py
