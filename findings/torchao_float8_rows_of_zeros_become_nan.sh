#!/usr/bin/env bash
# torchao 0.18.0: float8 scaled per row (granularity=PerRow()) makes NaN of each token of zeros; per tensor it does not.
#
# A row's scale is its largest value by 448, and by that the row is divided: 0 / 0. The lower bound that the config has
# for it (activation_value_lb) is not set unless asked for. So one token of padding is enough, where the layer in
# bfloat16 gives the bias. pytorch/ao#3356 has NaN from the same setting in training, and proposes the bound as default.
#
# PyTorch's kernels for a CPU (KernelPreference.TORCH) answer here, on four tokens, the third of zeros. Stand-in:
# the check that float8 has a GPU made for it. What other kernels make of such a token was not seen.
#
# Seen on 2026-11-29:
#   torch 2.13.0, torchao 0.18.0
#   PerTensor, activation_value_lb None: rows of NaN []
#   PerRow, activation_value_lb None: rows of NaN [2]
#   PerRow, activation_value_lb 1e-12: rows of NaN []
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.13.0 torchao==0.18.0
cat > "$folder/seen.py" <<'PYTHON'
from importlib import metadata
from unittest.mock import patch

import torch
from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, PerTensor, quant_api, quantize_
from torchao.quantization.quantize_.common import KernelPreference

print(f"torch {torch.__version__.partition('+')[0]}, torchao {metadata.version('torchao')}")
torch.manual_seed(0)
x = torch.randn(4, 64, dtype=torch.bfloat16)
x[2] = 0
for granularity, least, expected in ((PerTensor(), None, []), (PerRow(), None, [2]), (PerRow(), 1e-12, [])):
    layer = torch.nn.Linear(64, 32, dtype=torch.bfloat16)
    config = Float8DynamicActivationFloat8WeightConfig(
        granularity=granularity, activation_value_lb=least, kernel_preference=KernelPreference.TORCH
    )
    with patch.object(quant_api, "_check_hardware_support"):
        quantize_(layer, config)
    nan = layer(x).isnan()
    rows = nan.any(1).nonzero().flatten().tolist()
    print(f"{type(granularity).__name__}, activation_value_lb {least}: rows of NaN {rows}")
    assert rows == expected and nan[rows].all()
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
