"""`python -m benchmarks.models.offload --output offload.json`: a job of Wan 2.1 14B by group offload, within 24 GB.

The worker's own engine runs it, kept to 24 GB of whatever GPU there is: the blocks of the transformer lie in host
memory, and AdaSpa is on them. Weights and texts are random, and there is no text encoder. Rows: the predicted peak,
seconds of each denoising step with both guidance branches, the peak so far, and the decoding.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import torch
from accelerate import init_empty_weights
from adaspa_api.words import StepKind
from adaspa_jobs.catalog import Memory, ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker.engines import in_groups
from adaspa_worker.engines.preflight import preflight_of
from adaspa_worker.engines.wan import WanEngine
from adaspa_worker.pipeline import Encoded
from adaspa_worker.warm_up import default_params
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

from benchmarks.models.full_models import MODELS
from benchmarks.models.memory_models import VAES
from benchmarks.results import add, ran_on

CARD_BYTES = 24 * 2**30
MODEL = "wan2.1-14b-720p-81f"
SIZE, FRAMES = (832, 480), 81
QUICK_SIZE, QUICK_FRAMES = (128, 128), 9
ATTENTION = {"sparsity": 0.8, "query_block_size": 128, "steps": 4, "warmup": 1, "searches": [1]}
"""One step is dense, the next one searches, the others are sparse."""
TEXT, SCALE = 512, 0.02
"""Tokens of a text, and the deviation of the weights."""
Row = dict[str, Any]


class RandomWan(WanEngine):
    """Wan with random weights, made in host memory of the same numbers for each layer, and with random texts."""

    def _load(self, folder: Path) -> Any:
        configs = {part: json.loads((folder / part / "config.json").read_text()) for part in ("transformer", "vae")}
        with init_empty_weights(include_buffers=False):
            transformer = WanTransformer3DModel.from_config(configs["transformer"])
        precise = set(transformer._keep_in_fp32_modules)
        most = max(parameter.numel() for parameter in transformer.parameters())
        random = (torch.randn(most, device=self.device) * SCALE).cpu()
        weights = {}
        for name, parameter in transformer.named_parameters():
            dtype = torch.bfloat16 if precise.isdisjoint(name.split(".")) else torch.float32
            weights[name] = torch.empty(parameter.shape, dtype=dtype)
            weights[name].view(-1).copy_(random[: parameter.numel()])
        transformer.load_state_dict(weights, assign=True)
        return WanPipeline(
            tokenizer=None,
            text_encoder=None,
            transformer=transformer.eval().requires_grad_(False),
            vae=AutoencoderKLWan.from_config(configs["vae"]).eval().requires_grad_(False),
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )

    def _find_latent_rgb(self, folder: Path) -> None:
        """Do without previews."""

    def encode_prompt(self, params: JobParams, images: Mapping[Any, Any] = MappingProxyType({})) -> Encoded:
        self._memory.begin(params)
        width, dtype = self.transformers[0].config.text_dim, torch.bfloat16
        texts = (torch.randn(1, TEXT, width, device=self.device, dtype=dtype) for _ in range(2))
        return Encoded((tuple(texts),), {})


def entry(folder: Path, size: tuple[int, int], frames: int) -> ModelSpec:
    """The catalog entry of a model's folder."""
    return ModelSpec(
        id=MODEL,
        source=str(folder),
        description="Random weights",
        sizes=["{}x{}".format(*size)],
        frames=[frames],
        default_frames=frames,
        fps=16,
        fps_range=(16, 16),
        steps_range=(4, 4),
        default_steps=4,
        guidance_range=(5, 5),
        default_guidance=5,
        attention=ATTENTION,
        memory=Memory(group_offload=True),
    )


def model_folder(folder: Path, *, quick: bool) -> Path:
    """Write the configurations of a model's folder."""
    model = MODELS[MODEL].quick() if quick else MODELS[MODEL]
    with torch.device("meta"):
        parts = {
            "transformer": WanTransformer3DModel(**model.config),
            "vae": AutoencoderKLWan(**VAES["AutoencoderKLWan"].small if quick else {}),
        }
    for part, module in parts.items():
        module.save_config(folder / part)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    return folder


def run(spec: ModelSpec, folder: Path, tell: Callable[[Row], None]) -> None:
    """Run the model's default request, and tell its rows."""
    start = time.perf_counter()

    def done(what: Row) -> None:
        nonlocal start
        peak = torch.cuda.max_memory_allocated() if engine.device.type == "cuda" else None
        tell(what | {"seconds": round(time.perf_counter() - start, 3), "peak_bytes": peak})
        start = time.perf_counter()

    def on_step(number: int, kind: StepKind | None) -> None:
        done({"part": "step", "step": number, "kind": kind})

    params = default_params(spec)
    engine = RandomWan(spec, folder)
    (transformer,) = engine.transformers
    weights, resident = in_groups.size(transformer.parameters()), in_groups.resident(transformer)
    host = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done({"part": "load", "weights_bytes": weights, "resident_bytes": resident, "host_peak_bytes": host})
    done({"part": "preflight", "predicted_bytes": vars(preflight_of(spec, folder).peak(params))})
    latents = engine.denoise(params, engine.encode_prompt(params), on_step)
    row = {"part": "decode", "density": engine.report()["density"]}
    row["frames"] = len(list(engine.frames(latents, lambda: None)))
    done(row | vars(engine.report()["memory"]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.offload", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    parser.add_argument("--quick", action="store_true", help="a tiny model on the CPU: to try the benchmark itself")
    arguments = parser.parse_args()
    os.environ["ADASPA_WORKER_MEMORY_BYTES"] = str(CARD_BYTES)
    size, frames = (QUICK_SIZE, QUICK_FRAMES) if arguments.quick else (SIZE, FRAMES)
    with TemporaryDirectory() as name:
        spec = entry(model_folder(Path(name), quick=arguments.quick), size, frames)
        told = {"model": MODEL, "size": f"{spec.sizes[0]}, {frames} frames", "limit_bytes": CARD_BYTES, "rows": []}
        result = ran_on(quick=arguments.quick) | told
        run(spec, Path(name), lambda row: add(result, row, arguments.output))


if __name__ == "__main__":
    main()
