#!/usr/bin/env bash
# diffusers 0.42.1: asked for tiles of 256 pixels, the VAE of CogVideoX turns 512 x 512 into 524 x 522, strips repeated.
#
# The step from tile to tile is rounded down in latents, the overlap that is cut off each tile in pixels. The two fit
# only where the share that overlaps, a sixth of the height and a fifth of the width, is a whole number of latents. Else
# rows and columns come twice between tiles, and all behind them is moved. The VAE of HunyuanVideo 1.5 takes the step
# from tile_latent_min_height and _width, which enable_tiling leaves as they were where it is given the tile's size in
# pixels alone: smaller tiles lose strips of the picture, larger ones repeat them. Nothing is logged. Tiles as they come
# are right in both.
#
# Small VAEs of random weights decode one latent frame of noise on a CPU, whole and in tiles. Shown is the size of what
# comes out, where a square near the lower right corner is found again, and how alike it is (correlation).
#
# Seen on 2026-11-30:
#   torch 2.13.0, diffusers 0.42.1
#   AutoencoderKLCogVideoX, tiles 240: 512 x 512, moved 0 down, 0 right (0.998)
#   AutoencoderKLCogVideoX, tiles 256: 524 x 522, moved 12 down, 10 right (0.998)
#   AutoencoderKLCogVideoX, tiles 192: 512 x 518, moved 0 down, 6 right (0.935)
#   AutoencoderKLCogVideoX, tiles 128: 524 x 547, moved 12 down, 28 right (0.963)
#   AutoencoderKLHunyuanVideo15, tiles 256, as it comes: 512 x 512, moved 0 down, 0 right (0.999)
#   AutoencoderKLHunyuanVideo15, tiles 384: 640 x 640, moved 128 down, 128 right (0.999)
#   AutoencoderKLHunyuanVideo15, tiles 192: 416 x 416, moved -96 down, -96 right (0.999)
#   AutoencoderKLHunyuanVideo15, tiles 128: 288 x 288, the square is lost
#   AutoencoderKLHunyuanVideo15, tiles 128, and 8 latents: 512 x 512, moved 0 down, 0 right (0.968)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  diffusers==0.42.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
import warnings
from importlib import metadata

import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLHunyuanVideo15
from diffusers.utils import logging
from torch.nn.functional import conv2d

SIDE, SQUARE, START = 512, 24, 476
logging.set_verbosity_error()
warnings.simplefilter("ignore")


def found(whole, tiled):
    """How far down and right the square is in the tiles' frame, and how alike it is there."""
    part = slice(START, START + SQUARE)
    square = whole[None, :, part, part]
    square = square - square.mean()
    ones, n = torch.ones_like(square), square.numel()
    spread = conv2d(tiled[None] ** 2, ones) - conv2d(tiled[None], ones) ** 2 / n
    alike = (conv2d(tiled[None], square) / (spread * square.square().sum()).sqrt())[0, 0]
    best = alike.argmax().item()
    return best // alike.shape[1] - START, best % alike.shape[1] - START, alike.max().item()


@torch.no_grad()
def decoded(kind, latents, **tiling):
    torch.manual_seed(0)
    layers = {"layers_per_block": 1, "latent_channels": 4}
    if kind is AutoencoderKLCogVideoX:
        vae = kind(block_out_channels=(8,) * 4, norm_num_groups=2, **layers)
    else:
        vae = kind(block_out_channels=(8,) * 5, **layers)
    if tiling:
        vae.enable_tiling(**tiling)
    return vae.eval().decode(latents).sample[0, :, 0]


def tiles(pixels, latents=None):
    sizes = {f"tile_sample_min_{side}": pixels for side in ("height", "width")}
    return sizes | ({f"tile_latent_min_{side}": latents for side in ("height", "width")} if latents else {})


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
for kind, ratio, cases in (
    (
        AutoencoderKLCogVideoX,
        8,
        {
            "240": (tiles(240), (512, 512)),
            "256": (tiles(256), (524, 522)),
            "192": (tiles(192), (512, 518)),
            "128": (tiles(128), (524, 547)),
        },
    ),
    (
        AutoencoderKLHunyuanVideo15,
        16,
        {
            "256, as it comes": (tiles(256), (512, 512)),
            "384": (tiles(384), (640, 640)),
            "192": (tiles(192), (416, 416)),
            "128": (tiles(128), (288, 288)),
            "128, and 8 latents": (tiles(128, 8), (512, 512)),
        },
    ),
):
    latents = torch.randn(1, 4, 1, SIDE // ratio, SIDE // ratio, generator=torch.manual_seed(0))
    whole = decoded(kind, latents)
    for name, (tiling, expected) in cases.items():
        tiled = decoded(kind, latents, **tiling)
        down, right, alike = found(whole, tiled)
        size = tuple(tiled.shape[1:])
        place = f"moved {down} down, {right} right ({alike:.3f})" if alike > 0.9 else "the square is lost"
        print(f"{kind.__name__}, tiles {name}: {size[0]} x {size[1]}, {place}")
        assert size == expected and (size == (SIDE, SIDE)) == ((down, right) == (0, 0))
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
