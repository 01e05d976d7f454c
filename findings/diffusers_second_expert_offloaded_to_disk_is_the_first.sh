#!/usr/bin/env bash
# diffusers 0.42.1: offloaded to disk, Wan 2.2's second expert computes with the first one's weights, without a word.
#
# pipeline.enable_group_offload(offload_to_disk_path=...) gives each component the same folder. A file there is named by
# the blocks' names within their model, and what exists is not written again: transformer_2 has the names and shapes of
# transformer, so it finds the other's files and takes them for its own. They outlive the process, too: another model of
# that shape, offloaded into the folder later, is the old one. huggingface/diffusers#11767 brought the names.
#
# Two small experts of random weights denoise for eight steps on a CPU, from memory and from disk. Shown is the largest
# difference from the latents of the right pair, and from those of the first expert in both places. "Later" is another
# pair, offloaded into the same folder.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1, latents from -3.5 to 4.7
#   block_level: 2.17 from the pair, 0.00 from the first expert twice
#   block_level, later: 2.96 from the pair, 0.00 from the first expert of before twice
#   leaf_level: 2.17 from the pair, 0.00 from the first expert twice
#   leaf_level, later: 2.96 from the pair, 0.00 from the first expert of before twice
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  accelerate==1.15.0 diffusers==0.42.1 ftfy==6.3.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0 transformers==5.23.0
cat > "$folder/seen.py" <<'PYTHON'
import tempfile
from importlib import metadata

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

torch.manual_seed(0)
vae = AutoencoderKLWan(base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
text = torch.randn(1, 5, 16)


def expert(seed):
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2
    )


def latents(first, second, **offload):
    pipeline = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=expert(first),
        transformer_2=expert(second),
        boundary_ratio=0.875,
    )
    if offload:
        pipeline.enable_group_offload(torch.device("cpu"), exclude_modules="vae", **offload)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt_embeds=text,
        negative_prompt_embeds=text,
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=8,
        generator=torch.manual_seed(0),
        output_type="latent",
    ).frames


def off(one, other):
    return (one - other).abs().max().item()


pair, later_pair, first_twice = latents(1, 2), latents(3, 4), latents(1, 1)
print(
    f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')},"
    f" latents from {pair.min():.1f} to {pair.max():.1f}"
)
for kind, blocks in (("block_level", 1), ("leaf_level", None)):
    with tempfile.TemporaryDirectory() as folder:
        offload = {"offload_type": kind, "num_blocks_per_group": blocks, "offload_to_disk_path": folder}
        seen, later = latents(1, 2, **offload), latents(3, 4, **offload)
    print(f"{kind}: {off(seen, pair):.2f} from the pair, {off(seen, first_twice):.2f} from the first expert twice")
    print(
        f"{kind}, later: {off(later, later_pair):.2f} from the pair,"
        f" {off(later, first_twice):.2f} from the first expert of before twice"
    )
    assert off(seen, pair) > 1 and off(later, later_pair) > 1
    assert off(seen, first_twice) < 1e-4 and off(later, first_twice) < 1e-4
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
