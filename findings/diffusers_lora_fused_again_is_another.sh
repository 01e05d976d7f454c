#!/usr/bin/env bash
# diffusers 0.42.1: each fuse_lora(lora_scale=0.8) on one pipeline fuses less: 0.8, 0.64, 0.51, 0.41, 0.33.
#
# To fuse at a scale, the LoRA's own scale is multiplied by it, and unfuse_lora, said to reverse that, leaves it so: the
# weights are the model's again, the LoRA is not. So a host that fuses for a job and unfuses after it makes each video
# with another LoRA than the one before, up to the square, cube, ... of what was asked. The multiplication is for all
# active adapters, even where adapter_names fuses but one. Nothing is logged. set_adapters before each fuse_lora sets
# the scale anew.
#
# A small Wan of random weights has five jobs on a CPU, each between fuse_lora and unfuse_lora. Shown is the strength at
# which the LoRA was in the weights, then how far the fifth job's prediction is from that of a new pipeline: with the
# scale that was asked, and with its fifth power. Last are two LoRAs, of which one is fused at 0.5: how strong the other
# is afterwards.
#
# Seen on 2026-11-30:
#   torch 2.13.0, diffusers 0.42.1, peft 0.21.2
#   lora_scale 0.5: 0.50, 0.25, 0.13, 0.06, 0.03; 0.041 from the scale asked, 0.000 from its fifth power
#   lora_scale 0.8: 0.80, 0.64, 0.51, 0.41, 0.33; 0.042 from the scale asked, 0.000 from its fifth power
#   lora_scale 1.0: 1.00, 1.00, 1.00, 1.00, 1.00; 0.000 from the scale asked, 0.000 from its fifth power
#   lora_scale 1.2: 1.20, 1.44, 1.73, 2.07, 2.49; 0.137 from the scale asked, 0.000 from its fifth power
#   motion fused at 0.5: style at 0.5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  accelerate==1.15.0 diffusers==0.42.1 ftfy==6.3.1 numpy==2.4.6 peft==0.21.2 safetensors==0.8.0 torch==2.13.0 \
  transformers==5.23.0
cat > "$folder/seen.py" <<'PYTHON'
import warnings
from importlib import metadata

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.utils import logging

JOBS = 5
LAYER = "blocks.0.attn1.to_q"
logging.set_verbosity_error()
warnings.simplefilter("ignore")
generator = torch.manual_seed(0)
inputs = {
    "hidden_states": torch.randn(1, 16, 3, 8, 8),
    "timestep": torch.tensor([500]),
    "encoder_hidden_states": torch.randn(1, 5, 16),
}


def adapter(model):
    """A LoRA of rank 4 for the linear layers of all blocks."""
    weights = {}
    for name, layer in model.named_modules():
        if name.startswith("blocks") and isinstance(layer, torch.nn.Linear):
            weights[f"transformer.{name}.lora_A.weight"] = torch.randn(4, layer.in_features)
            weights[f"transformer.{name}.lora_B.weight"] = torch.randn(layer.out_features, 4) / 50
    return weights


def pipeline(loras):
    torch.manual_seed(1)
    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, text_dim=16, freq_dim=16, ffn_dim=64, num_layers=2
    )
    one = WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=None, transformer=model)
    for name, weights in loras.items():
        one.load_lora_weights(dict(weights), adapter_name=name)
    return one


@torch.no_grad()
def predicted(one):
    return one.transformer(**inputs).sample


def layer(one):
    return one.transformer.get_submodule(LAYER)


def off(one, other):
    return (one - other).square().mean().sqrt().item()


torch.manual_seed(0)
style, motion = (adapter(pipeline({}).transformer) for _ in range(2))
delta = style[f"transformer.{LAYER}.lora_B.weight"] @ style[f"transformer.{LAYER}.lora_A.weight"]
print(
    f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')},"
    f" peft {metadata.version('peft')}"
)
for scale in (0.5, 0.8, 1.0, 1.2):
    used = pipeline({"style": style})
    before, strengths = layer(used).weight.detach().clone(), []
    for _ in range(JOBS):
        used.fuse_lora(lora_scale=scale)
        last = predicted(used)
        strengths.append((((layer(used).weight - before) * delta).sum() / delta.square().sum()).item())
        used.unfuse_lora()
        assert (layer(used).weight - before).abs().max() < 1e-6
    fresh = []
    for asked in (scale, scale**JOBS):
        new = pipeline({"style": style})
        new.fuse_lora(lora_scale=asked)
        fresh.append(off(last, predicted(new)))
    print(
        f"lora_scale {scale}: {', '.join(f'{strength:.2f}' for strength in strengths)};"
        f" {fresh[0]:.3f} from the scale asked, {fresh[1]:.3f} from its fifth power"
    )
    assert all(abs(strength - scale**job) < 1e-4 for job, strength in enumerate(strengths, 1))
    assert fresh[1] < 1e-4 and (fresh[0] > 0.01) == (scale != 1)
both = pipeline({"style": style, "motion": motion})
both.set_adapters(["style", "motion"])
both.fuse_lora(lora_scale=0.5, adapter_names=["motion"])
other = layer(both).scaling["style"]
print(f"motion fused at 0.5: style at {other}")
assert other == 0.5 and layer(both).merged_adapters == ["motion"]
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
