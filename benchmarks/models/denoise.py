"""`python -m benchmarks.models.denoise --output run.json`: one whole denoising of a full-size model, for real.

Random weights, so the attention is nearly uniform and retained mass would keep nearly all of it: with ``--density`` a
preset keeps its schedule and takes the top share of the blocks instead. The pattern of every step is searched and used
as in earnest; only the video is noise. With ``--compile`` the blocks are compiled, by one forward that is not counted.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import adaspa
import torch
from adaspa.config import AdaSpaConfig, Preset
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils.logging import tqdm

from benchmarks.attention import peers
from benchmarks.models.full_models import MODELS, FullModel
from benchmarks.models.steps import Subject, compiling_row, dense_by
from benchmarks.results import ran_on, write


def configuration(name: str, density: float | None) -> AdaSpaConfig:
    """The paper's settings or a preset's; with a density as row-uniform top-k of that share."""
    config = AdaSpaConfig.paper() if name == "paper" else AdaSpaConfig.preset(name)  # type: ignore[arg-type]
    return config if density is None else config.replace(selection="top_k", sparsity=1 - density)


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.denoise", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every step")
    parser.add_argument("--model", choices=list(MODELS), default=next(iter(MODELS)))
    parser.add_argument("--config", choices=["paper", *get_args(Preset)], default="paper")
    parser.add_argument("--density", type=float, help="share of the blocks to keep, in (0, 1]")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument(
        "--attention", choices=["adaspa", "diffusers", *peers.DENSE], default="adaspa", help="of dense steps"
    )
    parser.add_argument("--compile", action="store_true", help="compile the transformer's repeated blocks")
    parser.add_argument("--minutes", type=float, default=9.5, help="stop after this time, the run incomplete")
    parser.add_argument("--quick", action="store_true", help="a tiny model on the CPU: to try the benchmark itself")
    arguments = parser.parse_args()
    if not arguments.quick and not torch.cuda.is_available():
        parser.error("a GPU is needed, or --quick")
    started = time.monotonic()
    device = torch.device("cpu" if arguments.quick else "cuda")
    model = MODELS[arguments.model].quick() if arguments.quick else MODELS[arguments.model]
    config = configuration(arguments.config, arguments.density)
    transformer: Any = model.build(device, torch.bfloat16)
    adaspa.apply(transformer, config)
    result: dict[str, Any] = {
        **ran_on(quick=arguments.quick),
        **{
            name: getattr(arguments, name)
            for name in ("model", "config", "density", "steps", "attention", "compile", "quick")
        },
        "complete": False,
        "rows": [],
    }
    with torch.no_grad(), dense_by(arguments.attention), tqdm(total=arguments.steps, desc=arguments.model) as bar:
        if arguments.compile:
            result["compiling"] = compiling_row(Subject(transformer, model.inputs(device, torch.bfloat16)))
        for row in denoise(transformer, model, arguments.steps, device):
            result["rows"].append(row)
            bar.update()
            bar.set_postfix(step=row["kind"], seconds=row["seconds"])
            result["seconds"] = round(sum(row["seconds"] for row in result["rows"]), 3)
            result["complete"] = len(result["rows"]) == arguments.steps
            report = transformer.adaspa.report()
            result["report"] = {key: value for key, value in report.items() if key != "layers"}
            if device.type == "cuda":
                result["peak_bytes"] = torch.cuda.max_memory_allocated()
            write(result, arguments.output)
            if time.monotonic() - started > 60 * arguments.minutes:
                break
    summary = {key: value for key, value in result.items() if key != "rows"}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
