"""`python -m benchmarks.models.memory --output memory.json`: what the parts of a job take of a GPU's memory.

Peak bytes of the kinds of denoising step, of dense steps with step caches, and of the VAE's decoding with and without
tiles, by model, size and frames, all with random weights; beside them the bytes of the weights by the type that they
are kept in, and of AdaSpa's caches. It is what a formula for a job's peak is to be held against.
"""

import gc
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice, product
from typing import Any

import diffusers
import torch
from adaspa_jobs.step_cache import StepCache
from adaspa_worker.engines import step_cache
from adaspa_worker.engines.weights import by_type

from benchmarks.models import command_line
from benchmarks.models.full_models import FullModel
from benchmarks.models.memory_models import CACHED, CACHES, KEPT, SIZES, TRANSFORMERS, VAES, Transformer, Vae
from benchmarks.models.steps import Subject, attempt, walk_rows
from benchmarks.results import add, ran_on, write

WALKED = 3
"""Forwards: a dense step, a search, a sparse step."""
STEP_CACHES = "step_caches"
CACHED_STEPS = 4
BRANCHES = ("cond", "uncond")
"""Names of the guidance branches, each of which has a cache of its own."""
Row = dict[str, Any]


def keep(transformer: Any, kind: str) -> Row:
    """Keep a transformer's weights as a catalog's ``storage_dtype`` or ``quantization`` has it; their bytes by type."""
    if kind == "float8_e4m3fn":
        transformer.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    elif kind == "int8":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_  # noqa: PLC0415  optional

        quantize_(transformer, Int8WeightOnlyConfig())
    return {"weights": by_type(transformer)}


def step_peaks(transformer: Any, model: FullModel, device: torch.device) -> Row:
    """Peak bytes of a forward by its kind, and what is held after them."""
    subject = Subject(transformer, model.inputs(device, torch.bfloat16))
    rows = list(islice(walk_rows(subject), WALKED))
    transformer.adaspa.reset()
    peaks = {row["step"]: row["peak_bytes"] for row in rows}
    return {"peak_bytes": peaks, "seconds": [row["seconds"] for row in rows], "cache_bytes": rows[-1]["cache_bytes"]}


def transformer_rows(subject: Transformer, device: torch.device) -> Iterator[Row]:
    model, sizes = subject.model, subject.sizes
    for kind in subject.kept:
        transformer: Any = model.build(device, torch.bfloat16)
        row = {"part": "transformer", "model": model.name, "kept": kind}
        row = attempt(row, partial(keep, transformer, kind))
        if "error" in row:
            yield row
            continue
        for size, latents in islice(sizes.items(), None if kind == KEPT[0] else 1):
            told = row | {"size": size, "samples": latents[0]}
            yield attempt(told, partial(step_peaks, transformer, replace(model, latents=latents), device))
        del transformer
        free(device)


def decoding_peak(vae: Any, latents: torch.Tensor, device: torch.device) -> Row:
    """Peak bytes of a decoding."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    frames = vae.decode(latents, return_dict=False)[0]
    return {
        "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        "frames": list(frames.shape),
    }


def vae_rows(subject: Vae, device: torch.device, *, small: bool) -> Iterator[Row]:
    sizes = {"128x128, 5 frames": subject.quick_latents} if small else subject.sizes
    with torch.device(device):
        vae = getattr(diffusers, subject.name)(**subject.small if small else {}).to(subject.dtype).eval()
    for tiled in (False, True) if subject.whole else (True,):
        if tiled:
            vae.enable_tiling()
        for size, latents in sizes.items():
            row = {"part": "vae", "model": subject.name, "weights": by_type(vae), "tiled": tiled, "size": size}
            given = torch.randn(latents, device=device, dtype=subject.dtype)
            yield attempt(row, partial(decoding_peak, vae, given, device))
            free(device)


def cache_rows(device: torch.device, *, small: bool) -> Iterator[Row]:
    model, size = CACHED
    model = model.quick() if small else replace(model, latents=SIZES[size])
    transformer, given = model.build(device, torch.bfloat16), model.inputs(device, torch.bfloat16)
    for kind in (None, *CACHES):
        row = {"part": "step_cache", "model": model.name, "size": size, "cache": kind, "branches": len(BRANCHES)}
        yield attempt(row, partial(cached_peak, transformer, given, kind))
        free(device)


def cached_peak(transformer: Any, given: Row, kind: str | None) -> Row:
    """Peak bytes of dense steps with a step cache of a kind, or without one."""
    device = given["hidden_states"].device
    cache = None if kind is None else StepCache.model_validate({"kind": kind, **CACHES[kind]})
    settings = None if cache is None else step_cache.config(cache, CACHED_STEPS, 0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with step_cache.cached([transformer], settings):
        for step, branch in product(range(CACHED_STEPS), BRANCHES):
            timestep = torch.full((1,), 1000 - 1000 * step / CACHED_STEPS, device=device)
            told = {"step_index": step, "sigma": float(timestep) / 1000, "num_inference_steps": CACHED_STEPS}
            with transformer.cache_context(branch, **told):
                transformer(**given, timestep=timestep)
    return {"peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None}


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    parser = command_line.parser("memory", __doc__)
    names = [*TRANSFORMERS, *VAES, STEP_CACHES]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="what to measure")
    arguments, device = command_line.read(parser)
    result: dict[str, Any] = {**ran_on(quick=arguments.quick), "diffusers": diffusers.__version__, "rows": []}
    write(result, arguments.output)
    transformers = [TRANSFORMERS[name] for name in arguments.only if name in TRANSFORMERS]
    if arguments.quick:
        transformers = [subject.quick() for subject in transformers]
    with torch.no_grad():
        steps = (transformer_rows(subject, device) for subject in transformers)
        vaes = (VAES[name] for name in arguments.only if name in VAES)
        decodings = (vae_rows(subject, device, small=arguments.quick) for subject in vaes)
        caches = cache_rows(device, small=arguments.quick) if STEP_CACHES in arguments.only else ()
        for row in chain(*steps, *decodings, caches):
            add(result, row, arguments.output)


if __name__ == "__main__":
    main()
