"""`python -m benchmarks.models.denoise --output run.json`: one whole denoising of a full-size model, for real.

Random weights, so the attention is nearly uniform and retained mass would keep nearly all of it: with ``--density`` a
preset keeps its schedule and takes the top share of the blocks instead, and with ``--warmup-density`` another one in a
warm-up that is partly sparse. The pattern of every step is searched and used
as in earnest; only the video is noise.

With ``--compile`` the blocks are compiled, and the first blocks of each kind are run through the first steps before any
is counted. With ``--dense-steps`` dense steps by FlashAttention-3 in bfloat16 come first, of the same model compiled
too: what the run is to be compared with. With ``--step-cache`` MagCache skips steps beside it: which ones depends on
the magnitude ratios of the real model alone, not on the random weights.
"""

import argparse
import gc
import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any, Final, get_args
from unittest.mock import patch

import adaspa
import torch
from adaspa.config import AdaSpaConfig, Preset
from adaspa.ops.call import Precision
from adaspa.plan import Plan
from adaspa.selection.top_k import TopK
from adaspa_worker.engines import linears
from adaspa_worker.engines.compiling import compile_blocks
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.hooks import MagCacheConfig
from diffusers.utils.logging import tqdm
from torch import nn

from benchmarks.attention import peers
from benchmarks.models import command_line
from benchmarks.models.full_models import MODELS, FullModel
from benchmarks.models.steps import dense_by
from benchmarks.models.totals import SHORT_WARMUP
from benchmarks.results import ran_on, write

LINEARS = ("bfloat16", "float8")
FIRST_STEPS = 7
"""Of `WARM_UP` steps: one at least of each kind, where the schedule searches twice in its first quarter."""
WARM_UP = 25
RATIOS: Final = (
    1.0, 1.0754, 1.27807, 1.11596, 1.09504, 1.05188, 1.00844, 1.05779, 1.00657, 1.04142,
    1.03101, 1.00679, 1.02556, 1.00908, 1.06949, 1.05438, 1.02214, 1.02321, 1.03019, 1.00779,
    1.03381, 1.01886, 1.01161, 1.02968, 1.00544, 1.02822, 1.00689, 1.02119, 1.0105, 1.01044,
    1.01572, 1.02972, 1.0094, 1.02368, 1.0226, 0.98965, 1.01588, 1.02146, 1.0018, 1.01687,
    0.99436, 1.00283, 1.01139, 0.97122, 0.98251, 0.94513, 0.97656, 0.90943, 0.85703, 0.75456,
)  # fmt: skip
"""Magnitude ratios of HunyuanVideo at 720p in 50 steps, as published with MagCache (arXiv 2506.09045,
github.com/Zehong-Ma/MagCache)."""
MAG_MODEL: Final = "hunyuan-video-13b-720p-129f"


def configuration(name: str, density: float | None) -> AdaSpaConfig:
    """The paper's settings in blocks of 128 x 64, three dense steps of 50, or a preset's; with a density as row-uniform
    top-k of that share."""
    if name == "paper":
        config = AdaSpaConfig.paper().replace(query_block_size=128)
    else:
        config = SHORT_WARMUP if name == "short" else AdaSpaConfig.preset(name)  # type: ignore[arg-type]
    return config if density is None else config.replace(selection="top_k", sparsity=1 - density)


def in_warmup(density: float | None) -> AbstractContextManager[Any]:
    """Within the block, a warm-up that is partly sparse keeps the top share of the blocks; None leaves it its mass."""
    resolve = AdaSpaConfig.resolve

    def resolved(config: AdaSpaConfig, steps: int | None = None) -> Plan:
        assert density is not None
        return replace(resolve(config, steps), warmup_selection=TopK(1 - density))

    return nullcontext() if density is None else patch.object(AdaSpaConfig, "resolve", resolved)


@contextmanager
def first_blocks(transformer: nn.Module) -> Iterator[None]:
    """Within the block, the transformer has the first two of each of its lists of blocks alone.

    The first of a list may be given tensors that are laid out otherwise than those of all others.
    """
    whole = {
        name: part
        for name, part in transformer.named_children()
        if isinstance(part, nn.ModuleList) and set(part) & set(linears.blocks_of(transformer))
    }
    for name, part in whole.items():
        setattr(transformer, name, part[:2])
    try:
        yield
    finally:
        for name, part in whole.items():
            setattr(transformer, name, part)


def built(model: FullModel, kind: str, device: torch.device, *, compiled: bool) -> Any:
    """The transformer with linear layers in ``kind``, its blocks to be compiled when they run."""
    transformer: Any = model.build(device, torch.bfloat16)
    if kind == "float8":
        linears.compute_in_float8(transformer, device)
    if compiled:
        options = linears.compile_options() if kind == "float8" else None
        on_gpu = {"options": options} if device.type == "cuda" else {"backend": "eager"}
        compile_blocks(transformer, dynamic=False, **on_gpu)
    return transformer


def warm_up(
    transformer: Any, config: AdaSpaConfig, model: FullModel, device: torch.device, steps: int = FIRST_STEPS
) -> None:
    """Compile the blocks and the kernels by the first steps of the first blocks."""
    with first_blocks(transformer):
        adaspa.apply(transformer, config)
        list(islice(denoise(transformer, model, WARM_UP, device), steps))
        adaspa.remove(transformer)


def dense_steps(model: FullModel, device: torch.device, steps: int) -> Iterator[dict[str, Any]]:
    """Seconds of dense steps by FlashAttention-3 in bfloat16, compiled, and their peak of memory."""
    transformer = built(model, "bfloat16", device, compiled=True)
    exact = AdaSpaConfig.preset("exact")
    with dense_by("fa3" if device.type == "cuda" else "diffusers"):
        warm_up(transformer, exact, model, device, steps=1)
        adaspa.apply(transformer, exact)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for row in islice(denoise(transformer, model, max(steps, 2), device), steps):
            yield row | ({"peak_bytes": torch.cuda.max_memory_allocated()} if device.type == "cuda" else {})


def denoise(transformer: Any, model: FullModel, steps: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Denoise noise: a row for each step. The guidance branches differ in their text, as they do in earnest."""
    handle = transformer.adaspa
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    scheduler.set_timesteps(steps, device=device)
    branches = [model.inputs(device, torch.bfloat16) for _ in range(model.calls)]
    for branch in branches[1:]:
        branch["encoder_hidden_states"] = torch.randn_like(branch["encoder_hidden_states"])
    latents = branches[0]["hidden_states"].float()
    handle.begin(steps, branches=model.calls)
    for step, timestep in enumerate(scheduler.timesteps):
        start = time.perf_counter()
        outs = []
        for inputs in branches:
            given = inputs | {"hidden_states": latents.to(torch.bfloat16)}
            outs.append(transformer(**given, timestep=timestep.repeat(latents.shape[0])).sample.float())
        velocity = outs[0] if len(outs) == 1 else outs[1] + 5.0 * (outs[0] - outs[1])
        latents = scheduler.step(velocity, timestep, latents).prev_sample
        if not latents.isfinite().all():
            raise FloatingPointError(f"the latents after step {step} are not finite")
        yield {"step": step, "kind": handle.step_kind, "seconds": round(time.perf_counter() - start, 4)}


def run(
    arguments: argparse.Namespace, model: FullModel, config: AdaSpaConfig, device: torch.device
) -> Iterator[dict[str, Any]]:
    """What is known after each step of the denoising that the arguments ask for, with the step alone in ``rows``."""
    transformer = built(model, arguments.linears, device, compiled=arguments.compile)
    warmup = in_warmup(arguments.warmup_density)
    with warmup, dense_by(arguments.attention), tqdm(total=arguments.steps, desc=arguments.model) as bar:
        if arguments.compile:
            warm_up(transformer, config, model, device)
        adaspa.apply(transformer, config)
        if arguments.step_cache is not None:
            steps = arguments.steps
            transformer.enable_cache(
                MagCacheConfig(arguments.step_cache, num_inference_steps=steps, mag_ratios=list(RATIOS))
            )
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds, reused = 0.0, 0
        for row in denoise(transformer, model, arguments.steps, device):
            seconds += row["seconds"]
            bar.update()
            bar.set_postfix(step=row["kind"], seconds=row["seconds"])
            report = transformer.adaspa.report()
            told = {"reused": True} if report["reused_forwards"] > reused else {}
            reused = report["reused_forwards"]
            known: dict[str, Any] = {"rows": [row | told], "seconds": round(seconds, 3)}
            known["complete"] = row["step"] + 1 == arguments.steps
            known["report"] = {key: value for key, value in report.items() if key != "layers"}
            if device.type == "cuda":
                known["peak_bytes"] = torch.cuda.max_memory_allocated()
            yield known


def main() -> None:
    parser = command_line.parser("denoise", __doc__)
    parser.add_argument("--model", choices=list(MODELS), default=next(iter(MODELS)))
    parser.add_argument("--config", choices=["paper", "short", *get_args(Preset)], default="paper")
    parser.add_argument("--density", type=float, help="share of the blocks to keep, in (0, 1]")
    parser.add_argument("--warmup-density", type=float, help="share to keep in a warm-up that is partly sparse")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument(
        "--attention", choices=["adaspa", "diffusers", *peers.DENSE], default="adaspa", help="of dense steps"
    )
    parser.add_argument("--linears", choices=LINEARS, default=LINEARS[0], help="of the blocks' linear layers")
    for kind in ("dense", "sparse"):
        parser.add_argument(f"--{kind}-precision", choices=get_args(Precision), default="full", help=f"of {kind} steps")
    parser.add_argument("--step-cache", type=float, help=f"threshold of MagCache, for {MAG_MODEL}; without, none")
    parser.add_argument(
        "--dense-steps", type=int, default=0, help="steps by FlashAttention-3 in bfloat16 to time before"
    )
    parser.add_argument("--compile", action="store_true", help="compile the transformer's repeated blocks")
    parser.add_argument("--minutes", type=float, default=9.5, help="stop after this time, the run incomplete")
    arguments, device = command_line.read(parser)
    if arguments.step_cache is not None and arguments.model != MAG_MODEL:
        parser.error(f"--step-cache needs the ratios of the model; allowed: --model {MAG_MODEL}")
    started = time.monotonic()
    model = MODELS[arguments.model].quick() if arguments.quick else MODELS[arguments.model]
    precisions = {name: getattr(arguments, name) for name in ("dense_precision", "sparse_precision")}
    config = configuration(arguments.config, arguments.density).replace(**precisions)
    result: dict[str, Any] = {
        **ran_on(quick=arguments.quick),
        **{
            name: getattr(arguments, name)
            for name in ("model", "config", "density", "warmup_density", "steps", "attention", "compile", "quick")
        },
        "linears": arguments.linears,
        **precisions,
        "step_cache": arguments.step_cache,
        "complete": False,
        "rows": [],
    }
    with torch.no_grad():
        for row in dense_steps(model, device, arguments.dense_steps) if arguments.dense_steps else ():
            result.setdefault("dense_rows", []).append(row)
            write(result, arguments.output)
        gc.collect()  # a patched transformer is part of a cycle
        if device.type == "cuda":
            torch.cuda.empty_cache()
        for row in run(arguments, model, config, device):
            result |= row | {"rows": result["rows"] + row["rows"]}
            write(result, arguments.output)
            if time.monotonic() - started > 60 * arguments.minutes:
                break
    summary = {key: value for key, value in result.items() if key not in {"rows", "dense_rows"}}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
