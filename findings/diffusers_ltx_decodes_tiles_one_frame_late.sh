#!/usr/bin/env bash
# diffusers 0.42.1: LTX-Video and LTX-2, decoded in tiles along time, are a frame late from the second tile on.
#
# With use_framewise_decoding each tile starts on the last latent frame of the stretch before, and so has one frame too
# many, at its beginning. The VAE of HunyuanVideo drops that first frame; those of LTX drop the last one instead. All
# that follows the first tile shows the frame before. Where tiles overlap, each frame is mixed with its neighbour; one
# frame is lost at the end, and the frame count is right. So pictures and sound of LTX-2 are a frame apart.
# huggingface/diffusers#10488 brought it. Encoding in tiles drops the first, as it should.
#
# Small VAEs of random weights decode 97 frames of noise on a CPU, whole and in tiles: of 16 frames, as they come, and
# of 64. Shown is how alike frames are after the first tile (correlation): each to its own frame of the whole, and to
# the frame before. "Mended" drops the first frame of a tile.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   LTX-Video, tiles of 16: own 0.17, the frame before 0.56; mended, own 0.55
#   LTX-Video, tiles of 64: own 0.16, the frame before 0.99; mended, own 0.99
#   LTX-2, tiles of 16: own 0.35, the frame before 0.63; mended, own 0.65
#   LTX-2, tiles of 64: own 0.36, the frame before 0.91; mended, own 0.91
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  diffusers==0.42.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
from importlib import metadata

import torch
from diffusers import AutoencoderKLLTX2Video, AutoencoderKLLTXVideo

torch.manual_seed(0)
sizes = {"latent_channels": 8, "block_out_channels": (8, 8, 8, 8), "layers_per_block": (1, 1, 1, 1, 1)}
first = AutoencoderKLLTXVideo(
    **sizes, decoder_block_out_channels=(8, 8, 8, 8), decoder_layers_per_block=(1, 1, 1, 1, 1)
)
second = AutoencoderKLLTX2Video(
    **sizes,
    decoder_block_out_channels=(8, 8, 8),
    decoder_layers_per_block=(1, 1, 1, 1),
    upsample_factor=(1, 1, 1),
    spatial_compression_ratio=32,
    temporal_compression_ratio=8,
)


def correlation(one, other):
    one, other = one - one.mean(), other - other.mean()
    return ((one * other).sum() / (one.norm() * other.norm())).item()


@torch.no_grad()
def frames(vae, latents):
    return vae.decode(latents).sample[0].unbind(1)


def alike(seen, whole, start, late):
    pairs = [(seen[at], whole[at - late]) for at in range(start, len(whole))]
    return sum(correlation(*pair) for pair in pairs) / len(pairs)


def first_is_dropped(vae):
    """Of each tile but the first, the frame to drop goes to the end, where the VAE drops one."""
    tiles, forward = [], vae.decoder.forward

    def decoded(*args, **inputs):
        tiles.append(forward(*args, **inputs))
        return tiles[-1].roll(-1, dims=2) if len(tiles) > 1 else tiles[0]

    vae.decoder.forward = decoded


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
for name, vae in (("LTX-Video", first), ("LTX-2", second)):
    latents = torch.randn(1, 8, 13, 4, 4)
    vae.use_framewise_decoding = False
    whole = frames(vae, latents)
    vae.use_framewise_decoding = True
    for size in (16, 64):
        vae.enable_tiling(tile_sample_min_num_frames=size, tile_sample_stride_num_frames=size // 2)
        with_forward = vae.decoder.forward
        seen = frames(vae, latents)
        first_is_dropped(vae)
        mended = frames(vae, latents)
        vae.decoder.forward = with_forward
        own, before = (alike(seen, whole, size + 1, late) for late in (0, 1))
        right = alike(mended, whole, size + 1, 0)
        print(f"{name}, tiles of {size}: own {own:.2f}, the frame before {before:.2f}; mended, own {right:.2f}")
        assert len(seen) == len(whole) == 97 and min(before, right) > own + 0.2
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
