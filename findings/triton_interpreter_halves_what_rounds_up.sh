#!/usr/bin/env bash
# Triton 3.7.1: its interpreter's cast to float8e4nv makes 64 of 127: what rounds up to a power of two may be halved.
#
# It adds one to the three bits of the significand and joins the exponent to them by an "or". Where all three were set
# the one is carried into the exponent's last bit, and is lost if that is set already: below 128, 32, 8 and so on, but
# not below 64 or 16. Nor does it know NaN, which becomes 384. So a kernel tried with TRITON_INTERPRET=1 is
# wrong by a factor of two now and then, and hides NaN. triton-lang/triton#11897 proposes a mend.
#
# PyTorch's own cast stands beside it, on a CPU: first each number, then what PyTorch makes of it, then the interpreter.
#
# Seen on 2026-11-29:
#   triton 3.7.1
#   254.0 256.0 256.0
#   127.0 128.0 64.0
#   63.5 64.0 64.0
#   31.75 32.0 16.0
#   15.875 16.0 16.0
#   7.9375 8.0 4.0
#   -127.0 -128.0 -64.0
#   nan nan 384.0
#   65,536 numbers from 1/64 to 448: 1.2% are half as large, the others equal
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.13.0 triton==3.7.1
cat > "$folder/seen.py" <<'PYTHON'
from importlib import metadata

import torch
import triton
import triton.language as tl


@triton.jit
def cast_kernel(source, target, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(target + at, tl.load(source + at).to(tl.float8e4nv))


def casts(numbers):
    interpreted = torch.zeros(len(numbers), dtype=torch.float8_e4m3fn)
    cast_kernel[(1,)](numbers, interpreted, len(numbers))
    return numbers.to(torch.float8_e4m3fn).float(), interpreted.float()


print("triton", metadata.version("triton"))
numbers = torch.tensor([254.0, 127.0, 63.5, 31.75, 15.875, 7.9375, -127.0, float("nan")])
right, interpreted = casts(numbers)
for row in zip(numbers.tolist(), right.tolist(), interpreted.tolist(), strict=True):
    print(*row)
expected = torch.tensor([256.0, 64.0, 64.0, 16.0, 16.0, 4.0, -64.0, 384.0])
assert torch.equal(right[:-1], torch.tensor([256.0, 128.0, 64.0, 32.0, 16.0, 8.0, -128.0])) and right[-1].isnan()
assert torch.equal(interpreted, expected), interpreted

right, interpreted = casts(torch.linspace(1 / 64, 448, 2**16))
halves = interpreted == right / 2
share = halves.float().mean().item()
print(f"65,536 numbers from 1/64 to 448: {share:.1%} are half as large, the others equal")
assert torch.equal(interpreted[~halves], right[~halves]) and 0.01 < share < 0.015
PYTHON
cd "$folder" && TRITON_INTERPRET=1 env/bin/python seen.py
