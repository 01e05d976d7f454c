"""`python -m benchmarks.attention.sglang_model --output model.json`: SGLang's whole Wan transformer with AdaSpa.

It denoises a video in two blocks of Wan 14B's width, with random weights in bfloat16 and two guidance branches: by the
server's PyTorch attention in FlashAttention's kernel and in cuDNN's, and by AdaSpa at density 1 and sparse. The
difference of the server's two kernels says what rounding alone does.

It needs SGLang, on the device that the server takes.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from sglang.multimodal_gen.configs.models.dits.wanvideo import WanVideoArchConfig, WanVideoConfig
from sglang.multimodal_gen.runtime.layers.attention.selector import get_attn_backend
from sglang.multimodal_gen.runtime.managers.forward_context import DENOISING_LOOP_STATE, set_forward_context
from sglang.multimodal_gen.runtime.models.dits.wanvideo import WanTransformer3DModel
from sglang.multimodal_gen.runtime.pipelines_core.schedule_batch import Req, SamplingParams
from sglang.multimodal_gen.runtime.pipelines_core.stages.base import PipelineStage
from sglang.multimodal_gen.runtime.pipelines_core.stages.denoising import DenoisingStage
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.attention.served_layer import DIM
from benchmarks.attention.servers import BLOCK
from benchmarks.attention.sglang_layers import OURS, serve, started
from benchmarks.clock import synchronize
from benchmarks.results import ran_on, write

HEADS, LAYERS, FEED_FORWARD, TEXT = 40, 2, 13_824, 4096
GRID, STEPS = (21, 30, 52), 8
CASES: dict[str, dict[str, Any] | SDPBackend] = {
    "server": SDPBackend.FLASH_ATTENTION,
    "server by cuDNN": SDPBackend.CUDNN_ATTENTION,
    "density 1": {"sparsity": 0.0001, "block_size": BLOCK},
    "sparse": {"sparsity": 0.8, "block_size": BLOCK},
}
"""AdaSpa's settings, or the kernel of the server's own attention."""
TOLD = ("density", "attention_work", "kernels", "dense_steps", "search_steps", "sparse_steps", "fell_back")


def make(device: str) -> torch.nn.Module:
    """The server's transformer, with weights under which queries do not look everywhere alike."""
    arch = WanVideoArchConfig(
        num_attention_heads=HEADS,
        attention_head_dim=DIM,
        text_dim=TEXT,
        ffn_dim=FEED_FORWARD,
        num_layers=LAYERS,
    )
    with torch.device(device):
        model = WanTransformer3DModel(WanVideoConfig(arch_config=arch), {})
    torch.manual_seed(0)
    for name, weight in sorted(model.named_parameters()):
        if weight.ndim > 1:
            weight.data.normal_(0, weight[0].numel() ** -0.5)
        else:
            weight.data.fill_(0.0 if name.endswith("bias") else 3.0 if "norm_q" in name else 1.0)
    made: torch.nn.Module = model.to(device, torch.bfloat16).eval()
    return made


class Denoising(PipelineStage):
    """A loop as the server's: its metadata, its forward context, its guidance branches."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.model, self.on = make(device), device
        self.attn_backend = get_attn_backend(DIM, torch.bfloat16)
        self.report: dict[str, Any] | None = None
        self.seconds: list[float] = []

    @torch.inference_mode()
    def forward(self, batch: Any, server_args: Any) -> Any:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        scheduler.set_timesteps(STEPS)
        texts = torch.randn(2, 1, 7, TEXT, generator=torch.Generator().manual_seed(2)).to(self.on, torch.bfloat16)
        outs: dict[bool, torch.Tensor] = {}
        for step, moment in enumerate(scheduler.timesteps):
            began = time.perf_counter()
            metadata = DenoisingStage._build_attn_metadata(self, step, batch, server_args)
            for negative, text in zip((True, False), texts, strict=True):
                batch.is_cfg_negative = negative
                with set_forward_context(step, metadata, batch):
                    outs[negative] = self.model(batch.latents.bfloat16(), text, moment[None].to(self.on))
            guided = (outs[True] + 3 * (outs[False] - outs[True])).float()
            batch.latents = scheduler.step(guided, moment, batch.latents, return_dict=False)[0]
            synchronize(self.on)
            self.seconds.append(round(time.perf_counter() - began, 3))
        loop = batch.extra.get(DENOISING_LOOP_STATE, {}).get("adaspa")
        if loop is not None:
            self.report = loop._adaspa.state.record.report()
        return batch


@contextmanager
def attention(case: dict[str, Any] | SDPBackend) -> Iterator[Any]:
    """The server's arguments under which it attends so."""
    if isinstance(case, dict):
        yield serve(OURS, case)
        return
    with sdpa_kernel(case):
        yield serve("torch_sdpa", {})


def denoise(case: dict[str, Any] | SDPBackend, device: str) -> tuple[torch.Tensor, dict[str, Any]]:
    """What the last step left, and what there is to tell of it."""
    frames, rows, columns = GRID
    latents = torch.randn(1, 16, frames, 2 * rows, 2 * columns, generator=torch.Generator().manual_seed(1))
    batch = Req(sampling_params=SamplingParams(), timesteps=torch.arange(STEPS), raw_latent_shape=latents.shape)
    batch.latents = latents.to(device)
    with attention(case) as server_args:
        stage = Denoising(device)
        stage(batch, server_args)
    report = stage.report or {}
    return batch.latents, {"seconds": stage.seconds, **{name: report[name] for name in TOLD if name in report}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    parser.add_argument("--device", default="cuda", help="cpu to try the benchmark itself")
    arguments = parser.parse_args()
    result = ran_on(quick=arguments.device == "cpu")
    size = {"heads": HEADS, "layers": LAYERS, "tokens": GRID[0] * GRID[1] * GRID[2], "steps": STEPS}
    result |= {"server": f"SGLang {version('sglang')}", **size, "cases": {}}
    theirs: torch.Tensor | None = None
    with started():
        for name, case in CASES.items():
            latents, told = denoise(case, arguments.device)
            theirs = latents if theirs is None else theirs
            told["relative_error"] = float((latents - theirs).norm() / theirs.norm())
            result["cases"][name] = told
            write(result, arguments.output)
            print(name, told, flush=True)


if __name__ == "__main__":
    main()
