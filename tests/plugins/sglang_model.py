"""SGLang's whole Wan transformer in one of its processes, denoising a small video: `sglang_model.py FOLDER`."""

import os
import sys
from pathlib import Path

import ranks
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from sglang_stand_ins import OURS, serve

# isort: split
from sglang.multimodal_gen.configs.models.dits.wanvideo import WanVideoArchConfig, WanVideoConfig
from sglang.multimodal_gen.runtime.distributed import parallel_state
from sglang.multimodal_gen.runtime.layers.attention.layer import USPAttention
from sglang.multimodal_gen.runtime.layers.attention.selector import get_attn_backend
from sglang.multimodal_gen.runtime.managers.forward_context import DENOISING_LOOP_STATE, set_forward_context
from sglang.multimodal_gen.runtime.models.dits.wanvideo import WanTransformer3DModel
from sglang.multimodal_gen.runtime.pipelines_core.schedule_batch import Req, SamplingParams
from sglang.multimodal_gen.runtime.pipelines_core.stages.base import PipelineStage
from sglang.multimodal_gen.runtime.pipelines_core.stages.denoising import DenoisingStage
from sglang.multimodal_gen.runtime.platforms import plugins as server_plugins

SHAPE = (1, 16, ranks.GRID[0], 2 * ranks.GRID[1], 2 * ranks.GRID[2])


def make():
    arch = WanVideoArchConfig(
        num_attention_heads=ranks.HEADS,
        attention_head_dim=ranks.DIM,
        text_dim=16,
        freq_dim=16,
        ffn_dim=64,
        num_layers=ranks.LAYERS,
    )
    model = WanTransformer3DModel(WanVideoConfig(arch_config=arch), {})
    ranks.weigh(model)
    return model.eval()


class Denoising(PipelineStage):
    """A loop as the server's: its metadata, its forward context, its guidance branches."""

    def __init__(self):
        super().__init__()
        self.model, self.found = make(), {}
        self.attn_backend = get_attn_backend(ranks.DIM, torch.float32)

    @torch.no_grad()
    def forward(self, batch, server_args):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        scheduler.set_timesteps(ranks.STEPS)
        texts, outs = ranks.texts(), {}
        for step, time in enumerate(scheduler.timesteps):
            metadata = DenoisingStage._build_attn_metadata(self, step, batch, server_args)
            for negative, text in zip((True, False), texts, strict=True):
                batch.is_cfg_negative = negative
                with set_forward_context(step, metadata, batch):
                    outs[negative] = self.model(batch.latents, text, time[None])
            guided = outs[True] + 3 * (outs[False] - outs[True])
            batch.latents = scheduler.step(guided, time, batch.latents, return_dict=False)[0]
        loop = batch.extra.get(DENOISING_LOOP_STATE, {}).get("adaspa")
        request = getattr(loop, "_adaspa", None)
        report = None if request is None else request.state.record.report()
        lists = {} if request is None else ranks.lists(request)
        self.found = {"latents": batch.latents, "lists": lists, "report": report}
        return batch


def denoise(args, grid, world):
    """What the last step left, the report and the lists of a request."""
    latents, stage = ranks.latents_of(grid), Denoising()
    sampling = SamplingParams(enable_sequence_shard=world > 1)
    batch = Req(sampling_params=sampling, timesteps=torch.arange(ranks.STEPS), raw_latent_shape=latents.shape)
    batch.latents = latents
    stage(batch, args)
    return stage.found


@torch.no_grad()
def denoise_beside_text(args):
    """What the layers of HunyuanVideo make of this process's rows of the video, and of the text that all have."""
    layers = [USPAttention(ranks.HEADS, ranks.DIM, prefix=f"Hunyuan.double_blocks.{n}.attn") for n in range(2)]
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    batch = Req(sampling_params=SamplingParams(), timesteps=torch.arange(4), raw_latent_shape=torch.Size(SHAPE))
    loop = Denoising()
    for step in range(4):
        metadata = DenoisingStage._build_attn_metadata(loop, step, batch, args)
        outs = []
        with set_forward_context(step, metadata, batch):
            for number, layer in enumerate(layers):
                given = ranks.qkv(number)
                own = [torch.cat((x[:, : -ranks.TEXT].chunk(world, 1)[rank], x[:, -ranks.TEXT :]), 1) for x in given]
                outs.append(layer(*own, num_replicated_suffix=ranks.TEXT))
    return {"latents": torch.stack(outs)}


def main(folder):
    world = int(os.environ["WORLD_SIZE"])
    server_plugins.apply_plugin_hooks()
    parallel_state.maybe_init_distributed_environment_and_model_parallel(
        1, world, ulysses_degree=world, distributed_init_method=f"file://{folder / 'store'}"
    )
    found = {}
    for grid in (ranks.GRID, ranks.ODD_GRID):
        for case, settings in ranks.SETTINGS.items():
            args = serve(OURS, **settings) if settings else serve("torch_sdpa")
            found[case, grid] = denoise(args, grid, world)
    for case, settings in ranks.SETTINGS.items():
        args = serve(OURS, **settings) if settings else serve("torch_sdpa")
        found[case, "text"] = denoise_beside_text(args)
    torch.save(found, folder / f"{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
