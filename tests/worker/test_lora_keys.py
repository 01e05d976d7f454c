"""The names that trainers give to a LoRA's weights, and what of a file finds no place in a model."""

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
