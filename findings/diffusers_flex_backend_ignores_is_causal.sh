#!/usr/bin/env bash
# diffusers 0.42.1: the attention backend "flex" ignores is_causal, and hides queries where a 2D mask names keys.
#
# is_causal is looked at only where there is a mask, which causal calls have none of; so they attend to all, and nothing
# is logged. A mask of [batch, keys], which "native" and the flash backends with lengths take as padding, is laid along
# the queries: padded rows come out as zeros, and the rows that count attend to the padding. Four-dimensional masks are
# right. In Cosmos 3 the text's own attention is causal, so set_attention_backend("flex") changes its videos.
# huggingface/diffusers#12605 has masks that other backends dropped.
#
# First, one call on a CPU, with "flex" and "native": six tokens, of which the last two are padding where there is a
# mask. Then one prediction of a small Cosmos 3 of random weights, with "flex", and with "native" where is_causal is
# left out.
#
# Seen on 2026-11-29:
#   torch 2.13.0, diffusers 0.42.1
#   no mask: 0.000 from native, 0.000 from no mask, 0 rows of zeros
#   mask of keys, 4D: 0.000 from native, 1.412 from no mask, 0 rows of zeros
#   mask of keys, 2D: 1.681 from native, 1.306 from no mask, 4 rows of zeros
#   is_causal: 2.475 from native, 0.000 from no mask, 0 rows of zeros
#   Cosmos 3: 0.054 from native, 0.000 from native without is_causal
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
  diffusers==0.42.1 numpy==2.4.6 safetensors==0.8.0 torch==2.13.0
cat > "$folder/seen.py" <<'PYTHON'
import warnings
from importlib import metadata
from unittest.mock import patch

import torch
from diffusers import Cosmos3OmniTransformer
from diffusers.models.attention_dispatch import attention_backend, dispatch_attention_fn
from diffusers.models.transformers import transformer_cosmos3
from diffusers.utils import logging

TEXT, GRID = 6, (2, 2, 2)
VIDEO = 8
logging.set_verbosity_error()
warnings.simplefilter("ignore")
torch.manual_seed(0)
q, k, v = torch.randn(3, 2, 6, 2, 16)
valid = torch.ones(2, 6, dtype=torch.bool)
valid[:, 4:] = False
model = Cosmos3OmniTransformer(
    head_dim=16,
    hidden_size=32,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=32,
    num_hidden_layers=2,
    latent_channel=4,
    patch_latent_dim=16,
    vocab_size=16,
    rope_axes_dim=(4, 2, 2),
)
rows = torch.arange(TEXT, TEXT + VIDEO)
inputs = {
    "input_ids": torch.arange(TEXT),
    "text_indexes": torch.arange(TEXT),
    "position_ids": torch.arange(TEXT + VIDEO).expand(3, -1),
    "und_len": TEXT,
    "sequence_length": TEXT + VIDEO,
    "vision_tokens": [torch.randn(1, 4, 2, 4, 4)],
    "vision_token_shapes": [GRID],
    "vision_sequence_indexes": rows,
    "vision_mse_loss_indexes": rows,
    "vision_timesteps": torch.full((VIDEO,), 500.0),
    "vision_noisy_frame_indexes": [torch.arange(2)],
}


def attended(backend, **mask):
    with attention_backend(backend):
        return dispatch_attention_fn(q, k, v, **mask)


@torch.no_grad()
def predicted(backend):
    model.set_attention_backend(backend)
    return model(**inputs, return_dict=False)[0][0]


def not_causal(*args, **inputs):
    return dispatch_attention_fn(*args, **inputs | {"is_causal": False})


def off(one, other):
    return (one - other).abs().max().item()


print(f"torch {torch.__version__.partition('+')[0]}, diffusers {metadata.version('diffusers')}")
for name, mask, right in (
    ("no mask", {}, True),
    ("mask of keys, 4D", {"attn_mask": valid[:, None, None]}, True),
    ("mask of keys, 2D", {"attn_mask": valid}, False),
    ("is_causal", {"is_causal": True}, False),
):
    flex, native = attended("flex", **mask), attended("native", **mask)
    zeros = (flex == 0).all(dim=(2, 3)).sum().item()
    from_native, from_none = off(flex, native), off(flex, attended("native"))
    print(f"{name}: {from_native:.3f} from native, {from_none:.3f} from no mask, {zeros} rows of zeros")
    assert (from_native < 1e-5) == right and zeros == (4 if name.endswith("2D") else 0)
flex, native = predicted("flex"), predicted("native")
with patch.object(transformer_cosmos3, "dispatch_attention_fn", not_causal):
    all_seen = predicted("native")
print(f"Cosmos 3: {off(flex, native):.3f} from native, {off(flex, all_seen):.3f} from native without is_causal")
assert off(flex, native) > 0.01 and off(flex, all_seen) < 1e-5
PYTHON
cd "$folder" && CUDA_VISIBLE_DEVICES="" env/bin/python seen.py
