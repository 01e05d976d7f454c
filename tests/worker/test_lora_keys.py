"""The names that trainers give to a LoRA's weights, and what of a file finds no place in a model."""

import json
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from adaspa_worker.loras.keys import Fitted, Unfit, fit
from adaspa_worker.loras.slots import sizes_of
from diffusers import CogVideoXPipeline, HunyuanVideoPipeline, LTXPipeline, WanPipeline
from tiny_loras import HUNYUAN, LTX, WAN, diffusers, hunyuan_files, kohya, low_ranks, plain_files, wan_files
from torch import Tensor

COGVIDEOX = LTX
MODELS: dict[str, tuple[Any, torch.nn.Module, list[str], Any]] = {
    "wan": (WanPipeline, tiny.make_wan(), WAN, wan_files),
    "ltx": (LTXPipeline, tiny.make_ltx(), LTX, plain_files),
    "cogvideox": (CogVideoXPipeline, tiny.make_cogvideox_rotary(), COGVIDEOX, plain_files),
    "hunyuan-video": (HunyuanVideoPipeline, tiny.make_hunyuan_video(), HUNYUAN, hunyuan_files),
}


def placed(model: str, tensors: dict[str, Tensor], header: dict[str, str] | None = None) -> Fitted:
    pipeline, transformer, *_ = MODELS[model]
    return fit(tensors, header or {}, pipeline, sizes_of(transformer))


@pytest.mark.parametrize("model", MODELS)
def test_every_trainers_names_are_those_of_the_models_layers(model: str) -> None:
    _, transformer, layers, files = MODELS[model]
    low = low_ranks(transformer, layers)
    written = files(low)
    assert len(written) >= 3
    for style, (tensors, header) in written.items():
        found = placed(model, tensors, header)
        assert found.lost == [] and set(found.pairs) == set(layers), style
        for name, (a, b) in low.items():
            assert torch.equal(found.pairs[name].b @ found.pairs[name].a, b @ a), (style, name)


def test_hunyuan_videos_single_blocks_are_split_into_their_layers() -> None:
    """As the model has them: a loader of diffusers has their width written down."""
    width = 3072
    ours = {f"attn.to_{c}": (width, width) for c in "qkv"} | {"proj_mlp": (width, 4 * width)}
    sizes = {f"single_transformer_blocks.0.{name}": size for name, size in ours.items()}
    sizes["transformer_blocks.0.attn.to_q"] = sizes["transformer_blocks.0.attn.to_k"] = (width, width)
    sizes["transformer_blocks.0.attn.to_v"] = (width, width)
    shapes = {"double_blocks_0_img_attn_qkv": 3 * width, "single_blocks_0_linear1": 7 * width}
    tensors = {}
    for name, outputs in shapes.items():
        tensors[f"lora_unet_{name}.lora_down.weight"] = torch.empty(16, width, device="meta")
        tensors[f"lora_unet_{name}.lora_up.weight"] = torch.empty(outputs, 16, device="meta")
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(16.0)
    found = fit(tensors, {}, HunyuanVideoPipeline, sizes)
    assert set(found.pairs) == set(sizes) and found.lost == []


RANK = 4
FIRST = "blocks.0.attn1.to_q"
SCALES: list[tuple[dict[str, Any], float, float]] = [
    ({}, 1, 1),
    ({"lora_alpha": RANK}, 1, 1),
    ({"lora_alpha": 2}, 2 / RANK, 2 / RANK),
    ({"r": RANK, "lora_alpha": 2, "use_rslora": True}, 2 / RANK**0.5, 2 / RANK**0.5),
    ({"use_rslora": True}, RANK / RANK**0.5, RANK / RANK**0.5),
    ({"lora_alpha": 2, "alpha_pattern": {FIRST: 12}}, 12 / RANK, 2 / RANK),
    ({"lora_alpha": 2, "alpha_pattern": {"attn1.to_q": 12}, "use_rslora": True}, 12 / RANK**0.5, 2 / RANK**0.5),
    ({"lora_alpha": 2, "alpha_pattern": {}, "use_dora": False}, 2 / RANK, 2 / RANK),
]
"""A header, and by what it multiplies the first layer and others."""


@pytest.mark.parametrize(("header", "first", "others"), SCALES, ids=str)
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_a_file_is_scaled_as_its_header_or_else_its_alphas_say(
    header: dict[str, Any], first: float, others: float, prefix: str
) -> None:
    """As PEFT scales it; an alpha among the weights is the word of other trainers, who know no header."""
    low = low_ranks(MODELS["wan"][1], WAN, RANK)
    metadata = {"lora_adapter_metadata": json.dumps({prefix + name: value for name, value in header.items()})}
    found = placed("wan", diffusers(low), metadata)
    for name, (a, b) in low.items():
        scale = first if name == FIRST or (name.endswith("attn1.to_q") and "attn1.to_q" in str(header)) else others
        if FIRST in header.get("alpha_pattern", {}) and name != FIRST:
            scale = others
        torch.testing.assert_close(found.pairs[name].b @ found.pairs[name].a, scale * (b @ a))
    alphas = {f"transformer.{name}.alpha": torch.tensor(RANK / 2) for name in low}
    found = placed("wan", diffusers(low) | alphas, metadata)
    for name, (a, b) in low.items():
        torch.testing.assert_close(found.pairs[name].b @ found.pairs[name].a, 0.5 * (b @ a))


def test_a_dora_is_refused_by_its_header() -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.use_dora": True})}
    with pytest.raises(Unfit, match="it is a DoRA; allowed: a LoRA"):
        placed("wan", diffusers(low_ranks(MODELS["wan"][1], WAN)), metadata)


BIAS = f"transformer.{FIRST}.lora_B.bias"


@pytest.mark.parametrize("with_ranks", [True, False])
def test_a_bias_is_taken_with_its_low_ranks_or_alone(with_ranks: bool) -> None:
    low = low_ranks(MODELS["wan"][1], WAN[1:2] if not with_ranks else WAN[:1])
    found = placed("wan", diffusers(low) | {BIAS: torch.arange(48.0)})
    pair = found.pairs[FIRST]
    assert pair.bias is not None and torch.equal(pair.bias, torch.arange(48.0)) and found.lost == []
    assert (pair.a.shape, pair.b.shape) == (((4, 48), (48, 4)) if with_ranks else ((0, 48), (48, 0)))
    with pytest.raises(Unfit, match=f"{FIRST} has a bias of 7 in the file but 48 in the model"):
        placed("wan", diffusers(low) | {BIAS: torch.ones(7)})


def test_a_difference_of_a_bias_that_diffusers_knows_is_a_bias() -> None:
    given = {
        f"diffusion_model.blocks.{block}.{part}.diff_b": torch.full((size,), block + 1.5)
        for block in range(2)
        for part, size in (("self_attn.q", 48), ("cross_attn.o", 48), ("ffn.0", 32), ("ffn.2", 48))
    }
    found = placed("wan", OWN | given)
    assert found.lost == [] and set(found.pairs) == set(WAN)
    for block in range(2):
        for layer in ("attn1.to_q", "attn2.to_out.0", "ffn.net.0.proj", "ffn.net.2"):
            bias = found.pairs[f"blocks.{block}.{layer}"].bias
            assert bias is not None and {*bias.tolist()} == {block + 1.5}
    assert sum(pair.bias is not None for pair in found.pairs.values()) == len(given)


LOW = low_ranks(MODELS["wan"][1], WAN)
WHOLE = diffusers(LOW)
OTHERS = diffusers(low_ranks(MODELS["ltx"][1], LTX))
WIDE = {name: torch.cat([tensor, tensor], dim=1 if "lora_A" in name else 0) for name, tensor in WHOLE.items()}
OWN = wan_files(LOW)["comfyui-peft"][0]
NORM = "diffusion_model.blocks.0.self_attn.norm_q.diff"


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        (OTHERS, "none of its 16 weights fits the model: it is for another model family"),
        (
            WIDE,
            "blocks.0.attn1.to_q maps 96 to 96 in the file but 48 to 48 in the model: it is for a model",
        ),
        (
            kohya(low_ranks(MODELS["ltx"][1], LTX), str, "diffusion_model."),
            "for another model family, or diffusers does not know",
        ),
        (
            WHOLE | {"transformer.blocks.0.attn1.to_q.dora_scale": torch.ones(48, 1)},
            "is not a LoRA weight; .*no DoRA",
        ),
        ({"transformer.blocks.0.attn1.to_q.lokr_w1": torch.ones(4, 4)}, "lokr_w1 is not a LoRA weight"),
        ({"base_model.model.blocks.0.attn1.to_x.lora_A.weight": torch.ones(4, 48)}, "another model family"),
    ],
)
def test_what_is_for_another_model_or_no_lora_is_refused(tensors: dict[str, Tensor], why: str) -> None:
    with pytest.raises(Unfit, match=why):
        placed("wan", tensors)


@pytest.mark.parametrize(
    ("tensors", "lost"),
    [
        (WHOLE | OTHERS, set(OTHERS)),
        (WHOLE | {"text_encoder.layer.lora_A.weight": torch.ones(4, 4)}, {"text_encoder.layer.lora_A.weight"}),
        (
            {n: t for n, t in WHOLE.items() if "0.attn1.to_q.lora_B" not in n},
            {"transformer.blocks.0.attn1.to_q.lora_A.weight"},
        ),
        (OWN | {NORM: torch.ones(48)}, {NORM}),
        (OWN | {NORM: torch.zeros(48)}, set()),
        (
            OWN | {"diffusion_model.time_projection.1.diff_b": torch.ones(288)},
            {"diffusion_model.time_projection.1.diff_b"},
        ),
    ],
)
def test_what_diffusers_passes_over_in_silence_is_counted(tensors: dict[str, Tensor], lost: set[str]) -> None:
    found = placed("wan", tensors)
    assert set(found.lost) == lost
    assert found.pairs
