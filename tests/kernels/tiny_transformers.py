"""A tiny transformer of random weights for each model family that has no tiny pipeline, and what it is called with."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers import (
    AllegroTransformer3DModel,
    ChronoEditTransformer3DModel,
    ConsisIDTransformer3DModel,
    Cosmos3OmniTransformer,
    CosmosTransformer3DModel,
    EasyAnimateTransformer3DModel,
    HunyuanVideoFramepackTransformer3DModel,
    Kandinsky5Transformer3DModel,
    Kandinsky6SRTransformer3DModel,
    Kandinsky6Transformer3DModel,
    MiniMaxH3Transformer3DModel,
    MotifVideoTransformer3DModel,
    SkyReelsV2Transformer3DModel,
    WanAnimateTransformer3DModel,
    WanVACETransformer3DModel,
)
from diffusers.models.embeddings import get_3d_rotary_pos_embed, get_3d_rotary_pos_embed_allegro
from tiny_pipelines import CHANNELS, HEADS, STEPS, TEXT, make_ltx, prepare

Grid = tuple[int, int, int]
GRID: Grid = (5, 3, 5)
"""75 video tokens, as in the tiny pipelines."""
SMALLER: Grid = (3, 4, 4)


class Inputs:
    """Random arguments, and a denoising without a pipeline: two guidance branches of other texts."""

    def __init__(self, grid: Grid, seed: int = 0) -> None:
        self.grid = grid
        self.generator = torch.Generator().manual_seed(seed)

    def noise(self, *shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, generator=self.generator)

    def latents(self, channels: int = 4) -> torch.Tensor:
        """``[B, C, frames, rows, columns]``, four to a token."""
        frames, rows, columns = self.grid
        return self.noise(channels, frames, 2 * rows, 2 * columns)

    def texts(self, tokens: int = TEXT) -> tuple[torch.Tensor, torch.Tensor]:
        """One for each branch."""
        return self.noise(tokens, 16), self.noise(tokens, 16)


class Family(NamedTuple):
    """How to build a transformer, and the arguments of its guidance branches, the latents and timestep apart.

    ``others`` are the rows of its sequence that are not video: before it and behind it. ``tiles``: whether the token
    order may be changed. ``call`` is a forward, given the transformer, latents, timestep and a branch's arguments.
    """

    transformer: Callable[[], Any]
    branches: Callable[[Inputs], tuple[dict[str, Any], ...]]
    latents: Callable[[Inputs], torch.Tensor] = Inputs.latents
    others: tuple[int, int] = (0, 0)
    tiles: bool = True
    timestep: Callable[[int], torch.Tensor] = lambda step: torch.tensor([1000.0 - 100 * step])
    call: Callable[..., torch.Tensor] = lambda transformer, latents, timestep, branch: transformer(
        hidden_states=latents, timestep=timestep, **branch, return_dict=False
    )[0]


WAN = {**HEADS, **CHANNELS, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32}


def by_text(inputs: Inputs) -> tuple[dict[str, Any], ...]:
    return tuple({"encoder_hidden_states": text} for text in inputs.texts())


def vace(inputs: Inputs) -> tuple[dict[str, Any], ...]:
    control = inputs.latents()
    return tuple({**branch, "control_hidden_states": control} for branch in by_text(inputs))


def animate() -> Any:
    settings = {**WAN, "in_channels": 12, "latent_channels": 4, "image_dim": None, "inject_face_latents_blocks": 2}
    settings |= {"motion_encoder_size": 16, "motion_style_dim": 8, "motion_dim": 4, "motion_encoder_dim": 8}
    settings |= {"face_encoder_hidden_dim": 16, "face_encoder_num_heads": 2}
    sizes = {"4": 8, "8": 8, "16": 8}  # of the faces' pixels
    return prepare(WanAnimateTransformer3DModel(**settings, motion_encoder_channel_sizes=sizes))


def posed(inputs: Inputs) -> tuple[dict[str, Any], ...]:
    pose = inputs.latents()[:, :, 1:]
    face = inputs.noise(3, 4 * (inputs.grid[0] - 1), 16, 16)
    given = {"pose_hidden_states": pose, "face_pixel_values": face}
    return tuple({**branch, **given} for branch in by_text(inputs))


def cosmos() -> Any:
    settings = {**HEADS, **CHANNELS, "num_layers": 2, "text_embed_dim": 16, "adaln_lora_dim": 8}
    return prepare(CosmosTransformer3DModel(**settings, max_size=(8, 16, 16), concat_padding_mask=False))


def allegro() -> Any:
    settings = {**HEADS, **CHANNELS, "num_layers": 2, "cross_attention_dim": 48, "caption_channels": 16}
    return prepare(AllegroTransformer3DModel(**settings, sample_height=6, sample_width=10, sample_frames=5))


def with_places(inputs: Inputs) -> tuple[dict[str, Any], ...]:
    frames, rows, columns = inputs.grid
    *tables, t, h, w = get_3d_rotary_pos_embed_allegro(
        24, ((0, 0), (rows, columns)), (rows, columns), frames, interpolation_scale=(1.0, 1.0, 1.0)
    )
    places = torch.cartesian_prod(t.long(), h.long(), w.long()).T.reshape(3, 1, -1)
    mask = torch.ones(1, TEXT, dtype=torch.long)
    given = {"image_rotary_emb": (tuple(tables), tuple(places)), "encoder_attention_mask": mask}
    return tuple({**branch, **given} for branch in by_text(inputs))


def easyanimate() -> Any:
    settings = {**CHANNELS, "num_attention_heads": 2, "attention_head_dim": 16, "patch_size": 2, "time_embed_dim": 16}
    model = EasyAnimateTransformer3DModel(**settings, num_layers=2, mmdit_layers=1, text_embed_dim=16)
    return prepare(model)


def framepack() -> Any:
    settings = {**HEADS, **CHANNELS, "num_layers": 1, "num_single_layers": 2, "num_refiner_layers": 1}
    settings |= {"text_embed_dim": 16, "pooled_projection_dim": 8, "rope_axes_dim": (8, 8, 8), "guidance_embeds": False}
    images = {"has_image_proj": True, "image_proj_dim": 8, "has_clean_x_embedder": True}
    return prepare(HunyuanVideoFramepackTransformer3DModel(**settings, **images))


def with_history(inputs: Inputs) -> tuple[dict[str, Any], ...]:
    """Two clean frames of 3 x 5 tokens, two of half the size (2 x 3 tokens), eight of a quarter (2 x 1 x 2)."""
    rows, columns = 2 * inputs.grid[1], 2 * inputs.grid[2]
    given: dict[str, Any] = {"image_embeds": inputs.noise(3, 8), "pooled_projections": inputs.noise(8)}
    for name, first, frames in (("latents_clean", 0, 2), ("latents_history_2x", 2, 2), ("latents_history_4x", 4, 8)):
        given[name] = inputs.noise(4, frames, rows, columns)
        given[f"indices_{name}"] = torch.arange(first, first + frames)
    given["indices_latents"] = torch.arange(12, 12 + inputs.grid[0])
    mask = (torch.arange(TEXT) < TEXT - 2).long().unsqueeze(0)
    return tuple({**branch, **given, "encoder_attention_mask": mask} for branch in by_text(inputs))


def motif(**changes: Any) -> Any:
    settings = {**HEADS, **CHANNELS, "num_layers": 1, "num_single_layers": 3, "num_decoder_layers": 1, **changes}
    return prepare(MotifVideoTransformer3DModel(**settings, text_embed_dim=16, rope_axes_dim=(8, 8, 8)))


def masked_text(inputs: Inputs) -> tuple[dict[str, Any], ...]:
    mask = (torch.arange(TEXT) < TEXT - 2).long().unsqueeze(0)
    return tuple({**branch, "encoder_attention_mask": mask} for branch in by_text(inputs))


def consisid() -> Any:
    settings = {**CHANNELS, "num_attention_heads": 2, "attention_head_dim": 16, "time_embed_dim": 16}
    settings |= {"text_embed_dim": 16, "num_layers": 2, "sample_width": 10, "sample_height": 6, "sample_frames": 17}
    return prepare(
        ConsisIDTransformer3DModel(**settings, max_text_seq_length=TEXT, use_rotary_positional_embeddings=True)
    )


def rotated(inputs: Inputs) -> tuple[dict[str, Any], ...]:
    frames, rows, columns = inputs.grid
    tables = get_3d_rotary_pos_embed(16, ((0, 0), (rows, columns)), (rows, columns), frames)
    return tuple({**branch, "image_rotary_emb": tables} for branch in by_text(inputs))


def frames_first(inputs: Inputs) -> torch.Tensor:
    return inputs.latents().transpose(1, 2)


def channels_last(inputs: Inputs) -> torch.Tensor:
    return inputs.latents().movedim(1, -1)


KANDINSKY = {"in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": 16, "in_text_dim2": 8, "time_dim": 16}
KANDINSKY |= {"model_dim": 48, "ff_dim": 64, "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (8, 8, 8)}


def kandinsky5(**settings: Any) -> Any:
    return prepare(Kandinsky5Transformer3DModel(**KANDINSKY, **settings))


def kandinsky6_sr() -> Any:
    """With NABLA alone, which the tests of the others do not suit."""
    settings = {"in_visual_dim": 4, "out_visual_dim": 4, "time_dim": 16, "model_dim": 48, "ff_dim": 64}
    settings |= {"num_visual_blocks": 2, "axes_dims": (8, 8, 8), "nabla_threshold": 0.6, "nabla_window": (1, 1, 1)}
    return prepare(Kandinsky6SRTransformer3DModel(**settings))


def placed(inputs: Inputs) -> tuple[dict[str, Any], ...]:
    given = {"pooled_projections": inputs.noise(8), "text_rope_pos": torch.arange(TEXT)}
    given["visual_rope_pos"] = tuple(torch.arange(size) for size in inputs.grid)
    return tuple({**branch, **given} for branch in by_text(inputs))


def kandinsky6(visual_cond: bool = False) -> Any:
    sound = {"in_audio_dim": 6, "out_audio_dim": 6, "axes_dims_a": (8, 8, 8)}
    return prepare(Kandinsky6Transformer3DModel(**KANDINSKY, **sound, visual_cond=visual_cond))


def with_sound(inputs: Inputs) -> tuple[dict[str, Any], ...]:
    given = {"pooled_projections": inputs.noise(8), "audio_hidden_states": inputs.noise(7, 6)}
    return tuple({**branch, **given} for branch in by_text(inputs))


SOUND, CONDITIONS = 6, 15
"""Rows of sound and of a keyframe in MiniMax-H3's sequence, behind the text and before the video."""


def minimax_h3() -> Any:
    settings = {**HEADS, "hidden_size": 32, "num_layers": 2, "num_refiner_layers": 1, "ffn_dim": 32, "in_channels": 4}
    settings |= {"audio_in_channels": 6, "text_dim": 16, "freq_dim": 16, "time_embed_hidden_dim": 16}
    return prepare(MiniMaxH3Transformer3DModel(**settings, time_embed_dim=16, rope_freq_dim=4))


def packed(inputs: Inputs) -> tuple[dict[str, Any], ...]:
    """``[text | a keyframe | sound | video]``."""
    frames, rows, columns = inputs.grid
    video = frames * rows * columns
    kinds = torch.tensor([1] * TEXT + [0] * CONDITIONS + [2] * SOUND + [0] * video)
    grid = torch.cartesian_prod(*(torch.arange(size) for size in inputs.grid))
    places = torch.zeros(len(kinds), 3)
    places[:, 0] = torch.arange(len(kinds))
    places[-video:] = grid + TEXT
    videos = (kinds == 0).nonzero().flatten()
    # The distinct timesteps are those of the video, of the sound and of the conditions.
    indices = torch.zeros(len(kinds), dtype=torch.long)
    indices[kinds == 2] = 1
    indices[videos[:CONDITIONS]] = 2
    given = {
        "audio_hidden_states": inputs.noise(SOUND, 6),
        "timestep_indices": indices,
        "token_tags": kinds,
        "position_ids": places,
        "video_indices": videos,
        "audio_indices": (kinds == 2).nonzero().flatten(),
        "text_indices": (kinds == 1).nonzero().flatten(),
    }
    return tuple({**branch, **given} for branch in by_text(inputs))


def packed_latents(inputs: Inputs) -> torch.Tensor:
    frames, rows, columns = inputs.grid
    return inputs.noise(CONDITIONS + frames * rows * columns, 16)


def packed_timestep(step: int) -> torch.Tensor:
    return torch.tensor([step / STEPS, (step + 0.5) / STEPS, 1.0])


LAST_FRAME = GRID[1] * GRID[2]
"""Rows of the frame to which a clip of LTX is to come, in front of the video."""


def with_last_frame(inputs: Inputs) -> tuple[dict[str, Any], ...]:
    """``[last frame | video]``, of eight frames and 32 x 32 pixels to a token."""
    frames, rows, columns = inputs.grid
    axes = (torch.arange(size) * scale for size, scale in zip(inputs.grid, (8, 32, 32), strict=True))
    video = torch.cartesian_prod(*axes).T
    video[0] = (video[0] - 7).clamp(min=0)
    last = video[:, : rows * columns].clone()
    last[0] = 8 * (frames - 1)
    coordinates = torch.cat((last, video), dim=1).unsqueeze(0).float()
    given = {"video_coords": coordinates, "encoder_attention_mask": torch.ones(1, TEXT, dtype=torch.long)}
    return tuple({**branch, **given} for branch in by_text(inputs))


def ltx_latents(inputs: Inputs) -> torch.Tensor:
    frames, rows, columns = inputs.grid
    return inputs.noise((frames + 1) * rows * columns, 4)


def cosmos3() -> Any:
    """Two heads to a key; the sound has its own projections."""
    settings = {"head_dim": 16, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    settings |= {"intermediate_size": 32, "num_hidden_layers": 2, "latent_channel": 4, "patch_latent_dim": 16}
    settings |= {"sound_gen": True, "sound_dim": 6, "vocab_size": 16, "rope_axes_dim": (4, 2, 2)}
    return prepare(Cosmos3OmniTransformer(**settings))


def behind_text(inputs: Inputs) -> tuple[dict[str, Any], ...]:
    """``[text | video | sound]``."""
    video = math.prod(inputs.grid)
    length = TEXT + video + SOUND
    places = torch.arange(length).expand(3, -1).clone()
    places[:, TEXT : TEXT + video] = torch.cartesian_prod(*(torch.arange(size) for size in inputs.grid)).T + TEXT
    rows, sound = torch.arange(TEXT, TEXT + video), torch.arange(TEXT + video, length)
    given = {
        **{"und_len": TEXT, "sequence_length": length, "text_indexes": torch.arange(TEXT), "position_ids": places},
        **{"vision_token_shapes": [inputs.grid], "vision_noisy_frame_indexes": [torch.arange(inputs.grid[0])]},
        **{"vision_sequence_indexes": rows, "vision_mse_loss_indexes": rows},
        **{"sound_tokens": [inputs.noise(6, SOUND)[0]], "sound_token_shapes": [(SOUND, 1, 1)]},
        **{"sound_sequence_indexes": sound, "sound_mse_loss_indexes": sound},
        "sound_noisy_frame_indexes": [torch.arange(SOUND)],
    }
    return tuple({**given, "input_ids": (torch.arange(TEXT) * step) % 16} for step in (3, 5))


def omni(transformer: Any, latents: torch.Tensor, timestep: torch.Tensor, branch: dict[str, Any]) -> torch.Tensor:
    """A forward of Cosmos 3, which has a timestep for each token."""
    times = {
        f"{kind}_timesteps": timestep.expand(len(branch[f"{kind}_sequence_indexes"])) for kind in ("vision", "sound")
    }
    return transformer(vision_tokens=[latents], **times, **branch, return_dict=False)[0][0]


FAMILIES = {
    "minimax-h3": Family(
        minimax_h3, packed, packed_latents, others=(TEXT + CONDITIONS + SOUND, 0), timestep=packed_timestep
    ),
    "kandinsky-5": Family(kandinsky5, placed, channels_last),
    "kandinsky-6": Family(kandinsky6, with_sound, channels_last),
    "skyreels-v2": Family(lambda: prepare(SkyReelsV2Transformer3DModel(**WAN)), by_text),
    "wan-vace": Family(lambda: prepare(WanVACETransformer3DModel(**WAN, vace_layers=[0], vace_in_channels=4)), vace),
    "wan-animate": Family(animate, posed, lambda inputs: inputs.latents(12), tiles=False),
    "chronoedit": Family(lambda: prepare(ChronoEditTransformer3DModel(**WAN)), by_text),
    "cosmos": Family(cosmos, by_text),
    "cosmos-3": Family(cosmos3, behind_text, others=(TEXT, SOUND), tiles=False, call=omni),
    "framepack": Family(framepack, with_history, others=(30 + 6 + 4, 3 + TEXT - 2), tiles=False),
    "motif-video": Family(motif, masked_text, others=(0, TEXT - 2)),
    "easyanimate": Family(easyanimate, by_text, others=(0, TEXT)),
    "allegro": Family(allegro, with_places),
    "ltx-condition": Family(make_ltx, with_last_frame, ltx_latents, others=(LAST_FRAME, 0), tiles=False),
    "consisid": Family(consisid, rotated, frames_first, others=(0, TEXT)),
}


def denoise(
    transformer: Any,
    family: str,
    grid: Grid = GRID,
    *,
    seed: int = 0,
    steps: int = STEPS,
    look: Callable[[], Any] = bool,
) -> torch.Tensor:
    """The latents behind so many steps of guidance by two calls; ``look`` is called behind each step."""
    tiny, inputs = FAMILIES[family], Inputs(grid, seed)
    latents, branches = tiny.latents(inputs), tiny.branches(inputs)
    if handle := getattr(transformer, "adaspa", None):
        handle.begin(steps, branches=2)
    with torch.no_grad():
        for step in range(steps):
            timestep = tiny.timestep(step)
            positive, negative = (tiny.call(transformer, latents, timestep, branch) for branch in branches)
            # What is denoised is in front of the channels that condition it.
            latents[:, : positive.shape[1]] -= 0.1 * (negative + 3 * (positive - negative))
            look()
    assert latents.isfinite().all()
    return latents
