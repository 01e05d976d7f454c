"""vLLM-Omni's whole Wan transformer in one of its processes, denoising a small video: `vllm_omni_model.py FOLDER`."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import ranks
import torch
import vllm_omni_stand_ins  # noqa: F401 - before the server looks for a platform
from diffusers import FlowMatchEulerDiscreteScheduler
from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
from vllm_omni.diffusion.attention.backends.abstract import AttentionMetadata, VideoTokenLayout, VideoTokenSpan
from vllm_omni.diffusion.attention.layer import Attention
from vllm_omni.diffusion.config import set_current_diffusion_config
from vllm_omni.diffusion.data import AttentionConfig, DiffusionParallelConfig, OmniDiffusionConfig
from vllm_omni.diffusion.distributed import parallel_state
from vllm_omni.diffusion.forward_context import DenoiseProgressMixin, get_forward_context, set_forward_context
from vllm_omni.diffusion.models.wan2_2.wan2_2_transformer import WanTransformer3DModel
from vllm_omni.diffusion.registry import _apply_sequence_parallel_if_enabled
from vllm_omni.plugins import load_omni_plugins_by_group


class Pipeline(DenoiseProgressMixin):
    """Tells its steps as those of Wan do."""

    def __init__(self, scheduler):
        self.scheduler = scheduler


def configured(world, settings):
    """The server's configuration, with AdaSpa's settings in the environment, or without AdaSpa."""
    os.environ["ADASPA_CONFIG"] = json.dumps(settings) if settings else ""
    backend = "RAINFUSION_ATTN" if settings else "TORCH_SDPA"
    made = OmniDiffusionConfig.__new__(OmniDiffusionConfig)
    made.__dict__.update(
        diffusion_attention_config=AttentionConfig(default={"backend": backend}),
        parallel_config=DiffusionParallelConfig(ulysses_degree=world),
        model_class_name=None,
        cache_backend="none",
    )
    return made


def make(made):
    with set_current_diffusion_config(made), set_forward_context(omni_diffusion_config=made):
        model = WanTransformer3DModel(
            num_attention_heads=ranks.HEADS,
            attention_head_dim=ranks.DIM,
            text_dim=16,
            freq_dim=16,
            ffn_dim=64,
            num_layers=ranks.LAYERS,
            rope_max_seq_len=32,
        )
        ranks.weigh(model)
        _apply_sequence_parallel_if_enabled(SimpleNamespace(transformer=model), made)
        return model.eval(), get_forward_context().sp_plan_hooks_applied


@torch.no_grad()
def denoise(made, grid):
    """What the last step left, the report and the lists of a request."""
    model, hooked = make(made)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(ranks.STEPS)
    pipeline, latents, texts, request = Pipeline(scheduler), ranks.latents_of(grid), ranks.texts(), None
    with set_forward_context(omni_diffusion_config=made):
        get_forward_context().sp_plan_hooks_applied = hooked
        for step, time in enumerate(scheduler.timesteps):
            pipeline.record_denoise_step(step, time)
            negative, positive = (model(latents, time[None], text, return_dict=False)[0] for text in texts)
            latents = scheduler.step(negative + 3 * (positive - negative), time, latents, return_dict=False)[0]
        request = getattr(get_forward_context(), "_adaspa", None)
        kept = {} if request is None else ranks.lists(request)
    report = None if request is None else request.state.record.report()
    return {"latents": latents, "lists": kept, "report": report}


@torch.no_grad()
def denoise_beside_text(made):
    """What layers make of this process's part of a sequence as MiniMax-H3 packs it: text, and behind it the video."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with set_current_diffusion_config(made), set_forward_context(omni_diffusion_config=made):
        sizes = ranks.HEADS, ranks.DIM, False, ranks.DIM**-0.5
        layers = [Attention(*sizes, prefix=f"blocks.{number}.attn", qkv_layout="BSND") for number in range(2)]
    rows = ranks.qkv(0)[0].shape[1]
    span = VideoTokenSpan(ranks.TEXT, ranks.GRID, "target")
    pipeline = Pipeline(SimpleNamespace(timesteps=torch.arange(4), config=None))
    with set_forward_context(omni_diffusion_config=made):
        for step in range(4):
            pipeline.record_denoise_step(step)
            outs = []
            for number, layer in enumerate(layers):
                own = [x.chunk(world, 1)[rank].contiguous() for x in ranks.qkv(number)]
                layout = VideoTokenLayout(used_len=rows, video_spans=(span,))
                outs.append(layer(*own, AttentionMetadata(extra={"max_seqlen_q": rows}, video_layout=layout)))
    return {"latents": torch.stack(outs)}


def main(folder):
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    load_omni_plugins_by_group("vllm_omni.general_plugins")["adaspa"]()
    with set_current_vllm_config(VllmConfig(device_config=DeviceConfig(device="cpu"))):
        store = f"file://{folder / 'store'}"
        parallel_state.init_distributed_environment(world, rank, store, rank, backend="gloo")
        parallel_state.initialize_model_parallel(ulysses_degree=world, backend="gloo")
        found = {}
        for case, settings in ranks.SETTINGS.items():
            made = configured(world, settings)
            for grid in (ranks.GRID, ranks.ODD_GRID):
                found[case, grid] = denoise(made, grid)
            found[case, "text"] = denoise_beside_text(made)
    torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
