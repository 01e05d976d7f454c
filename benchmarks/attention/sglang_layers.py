"""`python -m benchmarks.attention.sglang_layers --output layers.json`: AdaSpa inside SGLang's own attention layers.

One layer of SGLang on a GPU, at the shapes of MiniMax-H3 and Wan, in forward contexts as its denoising loop sets them:
with a dense backend of the server, with SubBlock, and with AdaSpa through its plugin, in turns in one run. Each kind of
call is timed by itself, and the 50 steps of a request are counted from the medians: dense, dense with the LSE for the
search, the two searches, sparse. All three take the same dense calls.

It needs SGLang, on the device that the server takes.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import adaspa
import torch
from adaspa import ops
from adaspa.index import BlockIndex
from sglang.multimodal_gen.runtime.distributed import parallel_state
from sglang.multimodal_gen.runtime.layers.attention.backends.attention_backend import AttentionRequirements
from sglang.multimodal_gen.runtime.layers.attention.layer import USPAttention
from sglang.multimodal_gen.runtime.layers.attention.selector import get_attn_backend
from sglang.multimodal_gen.runtime.managers.forward_context import set_forward_context
from sglang.multimodal_gen.runtime.pipelines_core.schedule_batch import Req, SamplingParams
from sglang.multimodal_gen.runtime.pipelines_core.stages.denoising import DenoisingStage
from sglang.multimodal_gen.runtime.pipelines_core.stages.model_specific_stages.minimax_h3 import (
    constants,
    packed_sequence,
)
from sglang.multimodal_gen.runtime.platforms import plugins
from sglang.multimodal_gen.runtime.server_args import server_args

from benchmarks.attention.served_layer import DIM, Case, inputs, ours, run
from benchmarks.attention.servers import BLOCK, STEPS, Times, timed

DENSE, OURS, SUB_BLOCK = "torch_cudnn_sdpa", "rain_fusion_attn", "subblock_sparse_attn"


def serve(backend: str, config: dict[str, Any]) -> Any:
    """Set the arguments of a server, as it does at its start."""
    made = SimpleNamespace(
        attention_backend=backend,
        attention_backend_config=config,
        component_attention_backends={},
        component_attention_backend_roles={},
        kv_gather_degree=1,
        enable_attention_backend_autotune=False,
        is_arg_explicitly_set=lambda _: True,
        pipeline_config=SimpleNamespace(dit_config=SimpleNamespace(patch_size=(1, 2, 2), prefix="Wan")),
        comfyui_mode=False,
        enable_layerwise_nvtx_marker=False,
    )
    server_args.set_global_server_args(made)
    return made


class Layer:
    """An attention layer of the server with one of its backends, called in the steps of one request.

    Args:
        qkv: ``[1, S, H, D]`` each, all rows of the case.
    """

    def __init__(self, case: Case, backend: str, config: dict[str, Any], qkv: list[torch.Tensor]) -> None:

        self.args, self.qkv = serve(backend, config), qkv
        frames, rows, columns = case.grid
        self.batch = Req(
            sampling_params=SamplingParams(),
            timesteps=torch.arange(STEPS),
            raw_latent_shape=torch.Size((1, 16, frames, 2 * rows, 2 * columns)),
        )
        self.backend = get_attn_backend(DIM, qkv[0].dtype)
        self.packed: dict[str, Any] | None = None
        if case.text:
            self._pack(case)
        else:
            self.module = USPAttention(case.heads, DIM, prefix="blocks.0.attn1")
            self.impl = self.module.attn_impl

    def _pack(self, case: Case) -> None:
        """MiniMax-H3's: its packed sequence, and the state that its stages leave in the request."""
        frames, rows, columns = case.grid
        latents = {"latent_t": frames, "latent_h": 2 * rows, "latent_w": 2 * columns}
        made = packed_sequence.minimax_h3_packed_sequence(
            text_len=case.text, audio_t=case.sound, include_keyframe_cond=False, **latents
        )
        bounds = tuple(made["cu_seqlens"].tolist())
        lengths = made["cu_seqlens"].to(self.qkv[0].device, torch.int32)
        self.packed = {"cu_seqlens": lengths, "max_seqlen": bounds[1], "cu_seqlens_host": bounds}
        self.qkv = [torch.nn.functional.pad(x, (0, 0, 0, 0, 0, bounds[-1] - x.shape[1]))[0] for x in self.qkv]
        self.batch.extra[constants.MINIMAX_H3_DENOISE_STATE_EXTRA_KEY] = latents
        self.batch.extra[constants.MINIMAX_H3_SIGMAS_EXTRA_KEY] = {"video": [1.0] * (STEPS + 1)}
        needed = AttentionRequirements(packed_varlen=True)
        implementation = get_attn_backend(DIM, self.qkv[0].dtype, attention_requirements=needed).get_impl_cls()
        self.impl = implementation(
            num_heads=case.heads,
            head_size=DIM,
            causal=False,
            softmax_scale=DIM**-0.5,
            num_kv_heads=case.heads,
            prefix="blocks.0.attn",
            packed_trailing_padding=True,
        )

    def __call__(self, step: int) -> torch.Tensor:
        """The layer in a denoising step, ``[1, S, H, D]`` or, packed, ``[S, H, D]``."""

        out: torch.Tensor
        if self.packed is not None:
            with set_forward_context(step, None, self.batch):
                out = self.impl.forward_varlen(*self.qkv, **self.packed)
            return out
        stage = SimpleNamespace(attn_backend=self.backend)
        metadata = DenoisingStage._build_attn_metadata(stage, step, self.batch, self.args)
        with set_forward_context(step, metadata, self.batch):
            out = self.module(*self.qkv)
        return out

    def state(self) -> adaspa.AdaSpaState:
        """AdaSpa's, of the request so far."""
        found: adaspa.AdaSpaState = self.batch.extra["_denoising_loop_state"]["adaspa"]._adaspa.state
        return found

    def rows(self) -> list[torch.Tensor]:
        """Queries, keys and values in use, ``[1, S, H, D]``."""
        if self.packed is None:
            return self.qkv
        return [x[None, : self.packed["max_seqlen"]] for x in self.qkv]


def theirs(layer: Layer, sparsity: float, times: Times) -> tuple[float, float]:
    """Time SubBlock's sparse call and its router alone; its density, and how far our kernel is from its own."""
    device = layer.qkv[0].device.type
    out = None
    for step in (11, 12, 13):
        out = timed(partial(layer, step), device, times["sub_block"])
    q, k, v = layer.rows()
    for _ in range(3):
        plan = timed(
            lambda: layer.impl.router.route(q, k, sparsity=sparsity, softmax_scale=DIM**-0.5), device, times["router"]
        )
    assert out is not None
    chosen = plan.index.sort(dim=-1).values
    counts = torch.full(chosen.shape[:-1], chosen.shape[-1], dtype=torch.int32, device=chosen.device)
    index = BlockIndex(chosen.to(torch.int16), counts, BLOCK, BLOCK, q.shape[1], q.shape[1])
    heads_first = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    for _ in range(3):
        same, _ = timed(lambda: ops.block_sparse_attention(*heads_first, index), device, times["our_kernel"])
    there = out.view(1, -1, *out.shape[-2:])[:, : q.shape[1]]
    return plan.density, float((same.transpose(1, 2).float() - there.float()).abs().max())


def row(case: Case, times: Times, found: dict[str, Any]) -> dict[str, Any]:
    """The figures of a case, with 50 steps counted from them."""
    ms = {name: median(all_of) for name, all_of in times.items()}
    dense = 9 * ms["dense"]
    sparse = ms["first_search"] + ms["later_search"] + 38 * ms["sparse"]
    routed = 40 * ms["sub_block"]
    return {
        "shape": case.name,
        "heads": case.heads,
        "rows": case.rows,
        **found,
        "ms": {name: round(value, 3) for name, value in ms.items()},
        "all_dense_s": round(STEPS * ms["dense"] / 1e3, 3),
        "ours_s": round((dense + ms["with_lse"] + sparse) / 1e3, 3),
        "sub_block_s": round((dense + ms["dense"] + routed) / 1e3, 3),
        "ratio_without_dense_steps": round(sparse / routed, 3),
    }


def measure(case: Case, sparsity: float, rounds: int, device: str = "cuda") -> dict[str, Any]:
    """Time the three in turns, AdaSpa at SubBlock's density."""
    qkv = inputs(case, device)
    dense, sub_block = Layer(case, DENSE, {}, qkv), Layer(case, SUB_BLOCK, {"sparsity": sparsity}, qkv)
    times: Times = defaultdict(list)
    found: dict[str, Any] = {}
    own = sparsity
    for number in range(rounds + 1):
        into: Times = times if number else defaultdict(list)  # the first calls compile
        for _ in range(2):
            timed(partial(dense, 0), device, into["dense"])
        density = ours(Layer(case, OURS, {"sparsity": own, "block_size": BLOCK}, qkv), case, into)
        their_density, difference = theirs(sub_block, sparsity, into)
        found = {
            "density": round(density, 4),
            "sub_block_density": round(their_density, 4),
            "difference_of_kernels": difference,
        }
        own += density - their_density  # all queries keep the rows that are no video, and SubBlock rounds up
    return row(case, times, found)


@contextmanager
def started() -> Iterator[None]:
    """The server's process: its hooks, among them our plugin, and its groups of one process."""
    plugins.apply_plugin_hooks()
    with TemporaryDirectory() as folder:
        parallel_state.maybe_init_distributed_environment_and_model_parallel(
            1, 1, distributed_init_method=f"file://{folder}/store"
        )
        yield


if __name__ == "__main__":
    assert __doc__
    run(__doc__, f"SGLang {version('sglang')}", DENSE, started(), measure)
