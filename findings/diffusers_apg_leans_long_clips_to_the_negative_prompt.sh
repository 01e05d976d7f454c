#!/usr/bin/env bash
# diffusers 0.42.1: AdaptiveProjectedGuidance, as it comes, gives a long clip less of the prompt than no guidance does.
#
# It cuts the difference of the two predictions to a norm of 15, and adds 7.5 times that to the negative prompt's. The
# norm grows with the root of how many latents there are. So from some size on the sum falls short of the prompt's own
# prediction, and tends to the negative prompt's. In the paper (arXiv:2410.02416) the cut difference is added to the
# prompt's prediction, 6.5 times for a scale of 7.5; use_original_formulation=True does that.
#
# One step of a small Wan of random weights on a CPU, with the latents of 480 x 832. The share is 0 at the negative
# prompt's prediction and 1 at the prompt's; root mean square, these are 0.63 each, and differ by 0.09.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   frames 1, difference of norm 29: classifier-free guidance 7.50, this 3.85, by the paper's formula 4.34
#   frames 17, difference of norm 66: classifier-free guidance 7.50, this 1.72, by the paper's formula 2.49
#   frames 81, difference of norm 134: classifier-free guidance 7.50, this 0.84, by the paper's formula 1.73
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  diffusers==0.42.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
from importlib import metadata

import torch
from diffusers import AdaptiveProjectedGuidance, ClassifierFreeGuidance, WanTransformer3DModel
from diffusers.utils import logging

logging.set_verbosity_error()
torch.manual_seed(0)
model = WanTransformer3DModel(
    num_attention_heads=2, attention_head_dim=24, text_dim=16, freq_dim=16, ffn_dim=64, num_layers=2
)
texts = (torch.randn(1, 5, 16), torch.randn(1, 5, 16))


def share(guider, predictions):
    guider.set_state(step=10, num_inference_steps=20, timestep=torch.tensor([500]))
    batches = guider.prepare_inputs({"encoder_hidden_states": texts})
    for batch, prediction in zip(batches, predictions, strict=True):
        batch.noise_pred = prediction
    prompt, negative = predictions
    return (((guider(batches)[0] - negative) * (prompt - negative)).sum() / (prompt - negative).square().sum()).item()


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
for frames in (1, 17, 81):
    latents = torch.randn(1, 16, (frames + 3) // 4, 60, 104)
    with torch.no_grad():
        predictions = [model(latents, torch.tensor([500]), text).sample for text in texts]
    norm = (predictions[0] - predictions[1]).norm().item()
    plain = share(ClassifierFreeGuidance(7.5), predictions)
    default = share(AdaptiveProjectedGuidance(7.5), predictions)
    paper = share(AdaptiveProjectedGuidance(6.5, use_original_formulation=True), predictions)
    print(
        f"frames {frames}, difference of norm {norm:.0f}: classifier-free guidance {plain:.2f},"
        f" this {default:.2f}, by the paper's formula {paper:.2f}"
    )
    assert abs(plain - 7.5) < 0.01 and abs(default - 7.5 * 15 / norm) < 0.01 and paper > 1
assert default < 1
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
