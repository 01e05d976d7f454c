#!/usr/bin/env bash
# diffusers 0.42.1: TaylorSeer as it comes finds no layer of Wan, LTX-Video, CogVideoX or Mochi, and says nothing.
#
# What it caches are modules whose whole name matches "^blocks.*attn" and the like. Those of HunyuanVideo end in "attn",
# those of Wan and the others in "attn1" and "attn2". enable_cache(TaylorSeerCacheConfig()) succeeds, is_cache_enabled
# is true, and each step is computed. In LTX-2 it takes the two attentions between sound and picture of each block, and
# leaves the four others. use_lite_mode=True has patterns that match.
#
# First, each model as its class makes it (weights on the meta device): the modules that TaylorSeer hooks. Then 20 steps
# of a small Wan of random weights on a CPU: how many of its attentions were computed.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   HunyuanVideoTransformer3DModel: 60 attn
#   MiniMaxH3Transformer3DModel: 50 attn
#   LTX2VideoTransformer3DModel: 48 audio_to_video_attn, 48 video_to_audio_attn
#   WanTransformer3DModel: nothing
#   WanVACETransformer3DModel: nothing
#   LTXVideoTransformer3DModel: nothing
#   CogVideoXTransformer3DModel: nothing
#   MochiTransformer3DModel: nothing
#   SkyReelsV2Transformer3DModel: nothing
#   HeliosTransformer3DModel: nothing
#   AllegroTransformer3DModel: nothing
#   Kandinsky5Transformer3DModel: nothing
#   20 steps of Wan: 120 attentions, with TaylorSeer 120, with its lite mode 42
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  diffusers==0.42.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
from collections import Counter
from importlib import metadata

import diffusers
import torch
from diffusers import TaylorSeerCacheConfig, WanTransformer3DModel

EXPECTED = {
    "HunyuanVideoTransformer3DModel": {"attn": 60},
    "MiniMaxH3Transformer3DModel": {"attn": 50},
    "LTX2VideoTransformer3DModel": {"audio_to_video_attn": 48, "video_to_audio_attn": 48},
    "WanTransformer3DModel": {},
    "WanVACETransformer3DModel": {},
    "LTXVideoTransformer3DModel": {},
    "CogVideoXTransformer3DModel": {},
    "MochiTransformer3DModel": {},
    "SkyReelsV2Transformer3DModel": {},
    "HeliosTransformer3DModel": {},
    "AllegroTransformer3DModel": {},
    "Kandinsky5Transformer3DModel": {},
}


def hooked(model):
    registries = ((name, getattr(module, "_diffusers_hook", None)) for name, module in model.named_modules())
    return Counter(name.rpartition(".")[2] for name, registry in registries if registry and registry.hooks)


def attentions(config):
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=3
    )
    calls = []
    for block in model.blocks:
        block.attn1.to_q.register_forward_hook(lambda *_: calls.append("self"))
        block.attn2.to_q.register_forward_hook(lambda *_: calls.append("cross"))
    if config:
        model.enable_cache(config)
        assert model.is_cache_enabled
    with torch.no_grad(), model.cache_context("cond") if config else torch.no_grad():
        for step in range(20):
            model(torch.randn(1, 16, 2, 8, 8), torch.tensor([1000 - 50 * step]), torch.randn(1, 5, 16))
    return len(calls)


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
for name, expected in EXPECTED.items():
    with torch.device("meta"):
        model = getattr(diffusers, name)()
    model.enable_cache(TaylorSeerCacheConfig())
    found = hooked(model)
    print(f"{name}: {', '.join(f'{count} {kind}' for kind, count in found.items()) or 'nothing'}")
    assert found == expected
whole, default, lite = (
    attentions(config) for config in (None, TaylorSeerCacheConfig(), TaylorSeerCacheConfig(use_lite_mode=True))
)
print(f"20 steps of Wan: {whole} attentions, with TaylorSeer {default}, with its lite mode {lite}")
assert whole == default == 120 > lite
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
