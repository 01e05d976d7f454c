"""`python -m benchmarks.models.resumed --output docs/spot.json`: how far a resumed video is from an undisturbed one.

Jobs of the demo model, whose weights are trained: each runs densely, undisturbed with a preset, and with that preset
from the checkpoint of a step. The figures are PSNR between the videos. `benchmarks.readme` writes the table.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adaspa_api.words import Quality
from adaspa_jobs.catalog import Catalog, ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker.checkpoint import pack, unpack
from adaspa_worker.comparison import IDENTICAL, psnr
from adaspa_worker.pipeline import Engine, load
from adaspa_worker.source import folder_of
from adaspa_worker.warm_up import default_params

from benchmarks.markdown import head, line
from benchmarks.results import Result, add, ran_on

SHARES = (0.25, 0.5, 0.75)
"""Shares of the steps after which a job is stopped."""
PAIRS = ("resumed_undisturbed", "undisturbed_dense", "resumed_dense")
"""Videos that are compared."""
Kept = dict[int, bytes]


def clip(engine: Engine, params: JobParams, kept: Kept | None = None, resume: bytes | None = None) -> torch.Tensor:
    """Make a job's video, uint8 [frames, height, width, 3].

    Args:
        engine: the loaded model.
        params: what is asked.
        kept: gets the checkpoint of each step.
        resume: the checkpoint to go on from.
    """

    def on_step(done: int, _: object) -> None:
        if kept is not None:
            kept[done] = pack(engine.snapshot() or {}, params.model_dump_json())

    snapshot = None if resume is None else unpack(resume, params.model_dump_json())
    latents = engine.denoise(params, engine.encode_prompt(params, {}), on_step, snapshot)
    frames = np.stack(list(engine.frames(latents, lambda: None)))
    engine.reset()
    return torch.from_numpy(frames)


def compared(engine: Engine, params: JobParams, dense: torch.Tensor, preset: Quality) -> list[dict[str, Any]]:
    """Compare the videos of one job with a preset, by the step after which it was stopped."""
    asked, kept = params.model_copy(update={"quality": preset}), Kept()
    undisturbed = clip(engine, asked, kept)
    rows = []
    for share in SHARES:
        at = round(share * params.steps)
        resumed = clip(engine, asked, resume=kept[at])
        row: dict[str, Any] = {"preset": str(preset), "stopped_after": at, "steps": params.steps, "seed": params.seed}
        pairs = zip(PAIRS, ((resumed, undisturbed), (undisturbed, dense), (resumed, dense)), strict=True)
        rows.append(row | {name: psnr(*pair) for name, pair in pairs})
    return rows


def table(result: Result) -> str:
    """The table of docs/spot.md: medians over the clips, in dB."""
    rows = result["rows"]
    text = f"PSNR of the demo model's clips in dB, the median of several; {result['device']}, {rows[0]['steps']} steps:"
    columns = (
        "preset",
        "clips",
        "stopped after step",
        "resumed to undisturbed",
        "undisturbed to dense",
        "resumed to dense",
    )
    lines = [text, "", *head(columns)]
    for preset in dict.fromkeys(row["preset"] for row in rows):
        for at in sorted({row["stopped_after"] for row in rows}):
            found = [row for row in rows if (row["preset"], row["stopped_after"]) == (preset, at)]
            cells = (shown([row[name] for row in found]) for name in PAIRS)
            lines.append(line([f"`{preset}`", len(found), at, *cells]))
    return "\n".join(lines) + "\n"


def shown(values: list[float]) -> str:
    """Show the median."""
    return "identical" if set(values) == {IDENTICAL} else f"{statistics.median(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.resumed", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="four steps of a short clip, to try the benchmark itself")
    asked = parser.parse_args()
    spec: ModelSpec = Catalog.load(None).models["demo"]
    engine = load(spec, folder_of(spec))
    result = {**ran_on(quick=not torch.cuda.is_available()), "model": "demo", "rows": []}
    less = {"num_frames": 9, "steps": 4} if asked.quick else {}
    for number in range(asked.clips):
        prompt = spec.prompt_examples[number % len(spec.prompt_examples)]
        params = default_params(spec).model_copy(update={"prompt": prompt, "seed": number, **less})
        dense = clip(engine, params.model_copy(update={"quality": Quality.exact}))
        for preset in Quality:
            for row in compared(engine, params, dense, preset):
                add(result, {"prompt": prompt, **row}, asked.output)


if __name__ == "__main__":
    main()
