"""Published video transformers with images and sound, measured a few blocks at a time: each has one kind of block."""

from dataclasses import replace

import torch

from benchmarks.models.full_models import FullModel, Inputs

SOUND_RATE, SOUND_CHANNELS, FRAME_RATE = 40, 2, 24
"""Of MiniMax-H3: rows of sound a second in each of its channels, and frames a second."""


def _randn(device: torch.device, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(shape, device=device, dtype=dtype)


def _minimax_h3_inputs(model: FullModel, device: torch.device, dtype: torch.dtype) -> Inputs:
    """``[text | first frame | sound | video]``, as its pipeline packs them for image to video."""
    channels, frames, rows, columns = model.latents[1:]
    grid = (frames, rows // 2, columns // 2)
    frame, video = grid[1] * grid[2], grid[0] * grid[1] * grid[2]
    seconds = (17 * (frames - 2) / 5 + 5) / FRAME_RATE
    sound = SOUND_CHANNELS * round(seconds * SOUND_RATE)
    counts = torch.tensor([model.text[0], frame, sound, video])
    kinds = torch.tensor([1, 0, 2, 0]).repeat_interleave(counts)
    places = torch.zeros(len(kinds), 3, dtype=torch.float64)
    places[:-video, 0] = torch.arange(len(kinds) - video)
    places[-video:] = torch.cartesian_prod(*(torch.arange(size, dtype=torch.float64) for size in grid))
    given = {
        "token_tags": kinds,
        # The distinct timesteps are those of the video (and of the text), of the sound and of the first frame.
        "timestep_indices": torch.tensor([0, 2, 1, 0]).repeat_interleave(counts),
        "position_ids": places,
        **{name: (kinds == tag).nonzero().flatten() for name, tag in (("video_indices", 0), ("text_indices", 1))},
        "audio_indices": (kinds == 2).nonzero().flatten(),
        "timestep": torch.zeros(3),
    }
    return {
        "hidden_states": _randn(device, dtype, 1, frame + video, 4 * channels),
        "audio_hidden_states": _randn(device, dtype, 1, sound, 32),
        "encoder_hidden_states": _randn(device, dtype, 1, *model.text),
        **{name: value.to(device) for name, value in given.items()},
    }


def _wan_inputs(model: FullModel, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Noise, a mask and the first frame's latents as channels."""
    return {
        "hidden_states": _randn(device, dtype, *model.latents),
        "encoder_hidden_states": _randn(device, dtype, 1, *model.text),
    }


def _hunyuan_video15_inputs(model: FullModel, device: torch.device, dtype: torch.dtype) -> Inputs:
    """A long prompt without text to write, and the first frame as its image encoder tells it."""
    config = model.config
    return {
        "hidden_states": _randn(device, dtype, *model.latents),
        "encoder_hidden_states": _randn(device, dtype, 1, *model.text),
        "encoder_attention_mask": torch.ones(1, model.text[0], device=device, dtype=torch.long),
        "encoder_hidden_states_2": _randn(device, dtype, 1, 256, config.get("text_embed_2_dim", 1472)),
        "encoder_attention_mask_2": torch.zeros(1, 256, device=device, dtype=torch.long),
        "image_embeds": _randn(device, dtype, 1, 729, config.get("image_embed_dim", 1152)),
        "timestep": torch.zeros(1, device=device, dtype=dtype),
    }


def _ltx2_inputs(model: FullModel, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Both guidance branches as one batch, with the sound of as many seconds at 25 rows each."""
    batch, channels, frames, rows, columns = model.latents
    sound = round((8 * (frames - 1) + 1) / FRAME_RATE * 25)
    text = (batch, *model.text)
    return {
        "hidden_states": _randn(device, dtype, batch, frames * rows * columns, channels),
        "audio_hidden_states": _randn(device, dtype, batch, sound, 128),
        "encoder_hidden_states": _randn(device, dtype, *text),
        "audio_encoder_hidden_states": _randn(device, dtype, *text),
        "encoder_attention_mask": torch.ones(text[:2], device=device, dtype=torch.long),
        "audio_encoder_attention_mask": torch.ones(text[:2], device=device, dtype=torch.long),
        "num_frames": frames,
        "height": rows,
        "width": columns,
        "fps": float(FRAME_RATE),
        "audio_num_frames": sound,
    }


_HEADS = {"num_attention_heads": 2, "attention_head_dim": 64}
_MINIMAX_H3 = FullModel(
    "minimax-h3-33b-768p",
    "MiniMaxH3Transformer3DModel",
    {"num_layers": 50},
    (1, 24, 37, 48, 84),
    (512, 5120),
    _minimax_h3_inputs,
    1,
    (
        {**_HEADS, "hidden_size": 64, "num_refiner_layers": 1, "ffn_dim": 64, "text_dim": 32, "time_embed_dim": 32}
        | {"time_embed_hidden_dim": 32, "rope_freq_dim": 8},
        (1, 24, 7, 16, 16),
    ),
)

BLOCK_MODELS = {
    model.name: model
    for model in (
        replace(_MINIMAX_H3, name="minimax-h3-33b-768p-5s"),
        replace(_MINIMAX_H3, name="minimax-h3-33b-768p-10s", latents=(1, 24, 72, 48, 84)),
        replace(_MINIMAX_H3, name="minimax-h3-33b-768p-15s", latents=(1, 24, 107, 48, 84)),
        FullModel(
            "wan2.2-a14b-i2v-720p-81f",
            "WanTransformer3DModel",
            {"num_layers": 40, "in_channels": 36, "out_channels": 16},
            (1, 36, 21, 90, 160),
            (512, 4096),
            _wan_inputs,
            2,
            ({**_HEADS, "ffn_dim": 64, "text_dim": 32}, (1, 36, 3, 24, 24)),
        ),
        FullModel(
            "wan2.2-ti2v-5b-704p-121f",
            "WanTransformer3DModel",
            {"num_attention_heads": 24, "in_channels": 48, "out_channels": 48, "ffn_dim": 14336, "num_layers": 30},
            (1, 48, 31, 44, 80),
            (512, 4096),
            _wan_inputs,
            2,
            ({**_HEADS, "ffn_dim": 64, "text_dim": 32}, (1, 48, 3, 24, 24)),
        ),
        FullModel(
            "hunyuan-video1.5-8b-i2v-720p-121f",
            "HunyuanVideo15Transformer3DModel",
            {"num_layers": 54},
            (1, 65, 31, 45, 80),
            (1000, 3584),
            _hunyuan_video15_inputs,
            2,
            (
                {**_HEADS, "num_refiner_layers": 1, "text_embed_dim": 32, "rope_axes_dim": (16, 24, 24)}
                | {"text_embed_2_dim": 32, "image_embed_dim": 32},
                (1, 65, 3, 12, 12),
            ),
        ),
        FullModel(
            "ltx2-19b-1088p-121f",
            "LTX2VideoTransformer3DModel",
            {"num_layers": 48, "rope_type": "split"},
            (2, 128, 16, 34, 60),
            (1024, 3840),
            _ltx2_inputs,
            1,
            (
                {**_HEADS, "cross_attention_dim": 128, "audio_num_attention_heads": 2, "audio_attention_head_dim": 32}
                | {"audio_cross_attention_dim": 64, "caption_channels": 32},
                (2, 128, 3, 12, 12),
            ),
        ),
    )
}
