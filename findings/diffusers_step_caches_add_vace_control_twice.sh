#!/usr/bin/env bash
# diffusers 0.42.1: in a step that FirstBlockCache or MagCache skips, Wan VACE's control is added a second time.
#
# VACE adds its control to the tokens between the blocks, in the transformer's own loop. What a cache keeps of a
# computed step is the whole way from the first block to the last, that control included. In a skipped step the blocks
# hand on what they are given, but the loop runs on, and adds each layer's control once more. Both caches take the model
# without a word; with control_hidden_states_scale of 0 they are exact.
#
# A small VACE of random weights, on a CPU, predicts twice from the very same input, so that the second prediction,
# which is skipped, should be the first. Shown is how far off it is, as a share of the root mean square of the right
# one. Then, at the end of the blocks: what is too much there, and how far that is from the sum of what the layers
# added.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   FirstBlockCache, scale 0.0: off by 0.000; 0.000 too much, 0.000 from the sum
#   FirstBlockCache, scale 0.5: off by 0.323; 0.416 too much, 0.000 from the sum
#   FirstBlockCache, scale 1.0: off by 0.322; 0.833 too much, 0.000 from the sum
#   MagCache, scale 0.0: off by 0.000; 0.000 too much, 0.000 from the sum
#   MagCache, scale 0.5: off by 0.323; 0.416 too much, 0.000 from the sum
#   MagCache, scale 1.0: off by 0.322; 0.833 too much, 0.000 from the sum
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  diffusers==0.42.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
from importlib import metadata

import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, WanVACETransformer3DModel

LAYERS = [0, 2, 4]
torch.manual_seed(0)
model = WanVACETransformer3DModel(
    num_attention_heads=2,
    attention_head_dim=12,
    text_dim=16,
    freq_dim=16,
    ffn_dim=32,
    num_layers=6,
    vace_layers=LAYERS,
    vace_in_channels=96,
)
inputs = {
    "hidden_states": torch.randn(1, 16, 3, 8, 8),
    "timestep": torch.tensor([500]),
    "encoder_hidden_states": torch.randn(1, 5, 16),
    "control_hidden_states": torch.randn(1, 96, 3, 8, 8),
}
controls, ends, computed = [], [], []
for block in model.vace_blocks:
    block.register_forward_hook(lambda _, inputs, output: controls.append(output[0]))
model.norm_out.register_forward_pre_hook(lambda _, inputs: ends.append(inputs[0]))
model.blocks[-1].attn1.register_forward_hook(lambda *_: computed.append(True))


def rms(x):
    return x.square().mean().sqrt().item()


@torch.no_grad()
def predicted(scale):
    with model.cache_context("cond"):
        return model(**inputs, control_hidden_states_scale=torch.full((len(LAYERS),), scale)).sample


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
for config in (
    FirstBlockCacheConfig(threshold=0.05),
    MagCacheConfig(num_inference_steps=10, retention_ratio=0.1, mag_ratios=[1.0] * 10),
):
    name = type(config).__name__.removesuffix("Config")
    for scale in (0.0, 0.5, 1.0):
        model.enable_cache(config)
        controls.clear(), ends.clear(), computed.clear()
        right, seen = predicted(scale), predicted(scale)
        model.disable_cache()
        assert len(computed) == 1
        off = rms(seen - right) / rms(right)
        too_much = ends[1] - ends[0]
        from_sum = rms(too_much - scale * sum(controls[-len(LAYERS) :]))
        print(f"{name}, scale {scale}: off by {off:.3f}; {rms(too_much):.3f} too much, {from_sum:.3f} from the sum")
        assert from_sum < 1e-4 and (off > 0.1 if scale else off < 1e-4)
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
