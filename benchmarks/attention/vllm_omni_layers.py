"""`python -m benchmarks.attention.vllm_omni_layers --output layers-vllm-omni.json`: AdaSpa in vLLM-Omni's own layers.

One attention layer of vLLM-Omni on a GPU, at the shapes of MiniMax-H3 and Wan, in forward contexts as its pipelines
set them: with PyTorch's attention, and with AdaSpa through its plugin, in turns in one run. Each kind of call is timed
by itself, and the 50 steps of a request are counted from the medians. The layer's result at density 1 is compared with
that of PyTorch's attention.

It needs vLLM and vLLM-Omni.
"""

import json
import os
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
from adaspa.plugins.settings import VARIABLE
from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
from vllm_omni.diffusion.attention.backends.abstract import AttentionMetadata, VideoTokenLayout, VideoTokenSpan
from vllm_omni.diffusion.attention.layer import Attention
from vllm_omni.diffusion.config import set_current_diffusion_config
from vllm_omni.diffusion.data import AttentionConfig, DiffusionParallelConfig, OmniDiffusionConfig
from vllm_omni.diffusion.distributed import parallel_state
from vllm_omni.diffusion.forward_context import DenoiseProgressMixin, get_forward_context, set_forward_context
from vllm_omni.plugins import load_omni_plugins_by_group

from benchmarks.attention.served_layer import DIM, Case, inputs, ours, run
from benchmarks.attention.servers import BLOCK, STEPS, Times, timed

DENSE, OURS = "TORCH_SDPA", "RAINFUSION_ATTN"


class Pipeline(DenoiseProgressMixin):
    """Tells its steps as those of Wan do."""

    scheduler = SimpleNamespace(timesteps=torch.arange(STEPS), config=None)


class Layer:
    """An attention layer of the server with one of its backends, called in the steps of one `request`.

    Args:
        settings: AdaSpa's; none for another backend.
        qkv: ``[1, S, H, D]`` each, all rows of the case.
    """

    def __init__(self, case: Case, backend: str, settings: dict[str, Any], qkv: list[torch.Tensor]) -> None:
        os.environ[VARIABLE] = json.dumps(settings) if settings else ""
        self.config = OmniDiffusionConfig.__new__(OmniDiffusionConfig)
        self.config.__dict__.update(
            diffusion_attention_config=AttentionConfig(default={"backend": backend}),
            parallel_config=DiffusionParallelConfig(),
            model_class_name=None,
            cache_backend="none",
        )
        with set_current_diffusion_config(self.config), set_forward_context(omni_diffusion_config=self.config):
            sizes = case.heads, DIM, False, DIM**-0.5
            self.module = Attention(*sizes, prefix="blocks.0.attn1", qkv_layout="BSND")
        if case.others:
            span = VideoTokenSpan(case.others, case.grid, "target")
            layout = VideoTokenLayout(used_len=case.rows, video_spans=(span,))
        else:
            layout = VideoTokenLayout(prefix_len=0, latent_grid=case.grid, used_len=case.rows)
        self.metadata = AttentionMetadata(extra={"max_seqlen_q": case.rows}, video_layout=layout)
        self.pipeline, self.qkv = Pipeline(), qkv

    @contextmanager
    def request(self) -> Iterator["Layer"]:
        """The forward context of one request."""
        with set_forward_context(omni_diffusion_config=self.config):
            yield self

    def __call__(self, step: int) -> torch.Tensor:
        """The layer in a denoising step, ``[1, S, H, D]``."""
        self.pipeline.record_denoise_step(step)
        out: torch.Tensor = self.module(*self.qkv, self.metadata)
        return out

    def rows(self) -> list[torch.Tensor]:
        """Queries, keys and values, ``[1, S, H, D]``."""
        return self.qkv

    def state(self) -> adaspa.AdaSpaState:
        """AdaSpa's, of the request so far."""
        found: adaspa.AdaSpaState = get_forward_context()._adaspa.state
        return found


def measure(case: Case, sparsity: float, rounds: int, device: str = "cuda") -> dict[str, Any]:
    """Time both in turns; the figures of a case, with 50 steps counted from them."""
    qkv = inputs(case, device)
    dense, density = Layer(case, DENSE, {}, qkv), 0.0
    times: Times = defaultdict(list)
    for number in range(rounds + 1):
        into: Times = times if number else defaultdict(list)  # the first calls compile
        with dense.request():
            for _ in range(2):
                timed(partial(dense, 0), device, into["dense"])
        with Layer(case, OURS, {"sparsity": sparsity, "block_size": BLOCK}, qkv).request() as layer:
            density = ours(layer, case, into)
    with dense.request():
        theirs = dense(0)
    with Layer(case, OURS, {"sparsity": 0.0001, "block_size": BLOCK}, qkv).request() as layer:
        same = [layer(step) for step in (0, 9, 10, 11)][-1]
    ms = {name: median(found) for name, found in times.items()}
    searches = ms["first_search"] + ms["later_search"]
    return {
        "shape": case.name,
        "heads": case.heads,
        "rows": case.rows,
        "density": round(density, 4),
        "ms": {name: round(value, 3) for name, value in ms.items()},
        "all_dense_s": round(STEPS * ms["dense"] / 1e3, 3),
        "ours_s": round((9 * ms["dense"] + ms["with_lse"] + searches + 38 * ms["sparse"]) / 1e3, 3),
        "relative_error_at_density_1": float((same - theirs).float().norm() / theirs.float().norm()),
    }


@contextmanager
def started(device: str) -> Iterator[None]:
    """The server's process: our plugin, and its groups of one process."""
    load_omni_plugins_by_group("vllm_omni.general_plugins")["adaspa"]()
    with TemporaryDirectory() as folder, set_current_vllm_config(VllmConfig(device_config=DeviceConfig(device=device))):
        parallel_state.init_distributed_environment(1, 0, f"file://{folder}/store", 0, backend="gloo")
        parallel_state.initialize_model_parallel(backend="gloo")
        yield


if __name__ == "__main__":
    assert __doc__
    run(__doc__, f"vLLM-Omni {version('vllm-omni')}", DENSE, started("cuda"), measure)
