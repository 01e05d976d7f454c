#!/usr/bin/env bash
# cache-dit 1.5.3: cache-dit-metrics gives black against white a PSNR of 48 dB, and nothing ever less than 24.
#
# Its own formula, which is what --psnr-type is by default, takes the difference and the square of eight-bit pixels in
# eight bits, so both are what is left after multiples of 256. Up to a difference of 15 that is right; 16 is squared to
# 0, and 255 to 1. What comes out as equal is left out of a mean over many pictures or frames. The command's other
# formula, --psnr-type skimage, is right.
#
# Two PNG files at a time go through the command: a picture and the same with so much added to each pixel, black and
# white, and two pictures of noise.
#
# Seen on 2026-11-29:
#   cache-dit 1.5.3
#   5 added: 34.2, skimage 34.2
#   15 added: 24.6, skimage 24.6
#   16 added: inf, skimage 24.0
#   17 added: 32.9, skimage 23.5
#   64 added: inf, skimage 12.0
#   120 added: 30.1, skimage 6.5
#   black and white: 48.1, skimage 0.0
#   noise: 27.9, skimage 7.7
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  cache-dit==1.5.3 diffusers==0.42.1 numpy==2.4.6 opencv-python-headless==5.0.0.93 safetensors==0.8.0 \
  scikit-image==0.26.0 torch==2.13.0 tqdm==4.70.1 transformers==5.14.1
cat > "$folder/seen.py" <<'PYTHON'
import contextlib
import io
import re
import sys
from importlib import metadata
from unittest.mock import patch

import cv2
import numpy as np

print(f"cache-dit {metadata.version('cache-dit')}")
logged = io.StringIO()
with contextlib.redirect_stdout(logged), contextlib.redirect_stderr(logged):
    from cache_dit.metrics import main


def psnr(one, other, *options):
    """What the command says of two files, in dB."""
    cv2.imwrite("one.png", one)
    cv2.imwrite("other.png", other)
    with patch.object(sys, "argv", ["cache-dit-metrics", "psnr", "-i1", "one.png", "-i2", "other.png", *options]):
        main()
    return float(re.findall(r"PSNR: (\S+)", logged.getvalue())[-1])


generator = np.random.default_rng(0)
dark = generator.integers(0, 128, (64, 64, 3), dtype=np.uint8)
black, noise, other = (np.zeros_like(dark), *generator.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))
pairs = {f"{added} added": (dark, dark + np.uint8(added)) for added in (5, 15, 16, 17, 64, 120)}
pairs |= {"black and white": (black, black + 255), "noise": (noise, other)}
seen = {}
for name, (one, two) in pairs.items():
    right = 20 * np.log10(255) - 10 * np.log10(np.mean((one.astype(float) - two) ** 2))
    seen[name] = psnr(one, two)
    by_skimage = psnr(one, two, "--psnr-type", "skimage")
    print(f"{name}: {seen[name]:.1f}, skimage {by_skimage:.1f}")
    assert abs(by_skimage - right) < 1e-4 and min(24, right) < seen[name]
assert [name for name in seen if seen[name] == np.inf] == ["16 added", "64 added"] and seen["black and white"] > 48
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" CACHE_DIT_LOG_LEVEL=INFO env/bin/python seen.py
