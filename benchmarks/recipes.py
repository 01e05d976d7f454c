"""`python -m benchmarks.recipes`: the tables of docs/recipes, from recipes.json and the benchmarks' own JSON files.

Minutes are added up by the schedule of each preset from measured steps. Where sparse steps were measured at one density
only, those of other densities lie on the line to the dense step; a model without measured steps takes those of
another one, scaled by the operations of attention and of all else. GPU memory is what a worker's preflight says of the
model's published configuration.
"""

import argparse
import json
import math
from copy import copy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import diffusers
import torch
from adaspa.config import AdaSpaConfig, Preset
from adaspa_jobs.catalog import Catalog
from adaspa_worker.engines.preflight import Preflight
from adaspa_worker.warm_up import default_params

from benchmarks import markdown
from benchmarks.fidelity.tables import longest_densities
from benchmarks.models.block_models import BLOCK_MODELS
from benchmarks.models.full_models import MODELS
from benchmarks.models.totals import StepSeconds, total_seconds

Json = dict[str, Any]
ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "docs" / "recipes"
KERNELS = ROOT / "docs" / "kernels"
GB = 1e9
LOADING = 1.25
"""Host memory that a worker takes while it loads, in units of its weights."""
BESIDE = 8
"""GB of host memory for PyTorch, the frames of a clip and its checkpoints."""
CARDS = {
    "RTX 4090, 24 GB": 25.8,
    "L40S, 48 GB": 48.3,
    "A100, 80 GB": 85.9,
    "H100, 80 GB": 85.5,
    "H200, 141 GB": 150.8,
}
"""GPUs, each with the GB (10^9 bytes) that its driver reports."""
FREE = 0.06
"""Share of a GPU's memory that is left to CUDA itself and to what is not modelled."""


@cache
def load(path: Path) -> Json:
    """A file of results, which is read only."""
    found: Json = json.loads(path.read_text())
    return found


def recipes() -> list[Json]:
    found: list[Json] = load(RECIPES / "recipes.json")["recipes"]
    return found


def measured(name: str) -> tuple[list[Json], str]:
    """A model's rows of the benchmarks, and the GPU that they are from."""
    for path in sorted(KERNELS.glob("*.json")):
        result = load(path)
        if path.stem.startswith(("models", "blocks")):
            rows = [row for row in result["rows"] if row["model"] == name]
            if rows:
                return rows, result["device"].removeprefix("NVIDIA ").split()[0]
    raise KeyError(name)


def on_a_line(seconds: StepSeconds) -> StepSeconds:
    """The same with the dense step for density 1, so that all densities are known."""
    return StepSeconds(**vars(seconds) | {"sparse": {**seconds.sparse, 1.0: seconds.dense}})


def scaled(seconds: StepSeconds, attention: float, rest: float) -> StepSeconds:
    """Steps of a model with so many times the attention's operations and so many times the others."""
    (density, sparse), *_ = sorted(seconds.sparse.items())
    others = seconds.dense - (seconds.dense - sparse) / (1 - density)

    def other(value: float) -> float:
        return (value - others) * attention + others * rest

    times = {name: other(value) for name, value in vars(seconds).items() if isinstance(value, float)}
    kept = {"searched_at": seconds.searched_at}
    return StepSeconds(**times | kept, sparse={at: other(value) for at, value in seconds.sparse.items()})


def operations(shape: Json) -> tuple[float, float]:
    """Multiplications of attention, and of all else, up to a factor that all models share."""
    tokens = shape["tokens"]
    return tokens**2 * shape["channels"] * shape["layers"], tokens * shape["billion_parameters"]


def steps_of(recipe: Json) -> tuple[StepSeconds, float, str]:
    """Seconds of a denoising step's forward, how many of them a step has, and the GPU."""
    timing = recipe["timing"]
    rows, gpu = measured(timing["rows"])
    seconds = on_a_line(StepSeconds.of(rows))
    if "rows_shape" in timing:
        own_shape = recipe["shape"] | {"billion_parameters": recipe["parts"][0]["billion_parameters"]}
        pairs = zip(operations(own_shape), operations(timing["rows_shape"]), strict=True)
        seconds = scaled(seconds, *(own / other for own, other in pairs))
    return seconds, timing.get("forwards", rows[0]["calls"]), gpu


def densities() -> dict[str, list[float]]:
    """By preset, on the longest clips of the demo models."""
    files = (KERNELS / "fidelity.json", *sorted(KERNELS.glob("long-*.json")))
    return {"exact": []} | longest_densities([load(file) for file in files])[1]


def minutes(recipe: Json, preset: str) -> float:
    """Of the denoising of the catalog's default request."""
    seconds, forwards, _ = steps_of(recipe)
    steps = catalog(recipe)[0]["default_steps"]
    density = densities()[preset] or 1.0
    config = AdaSpaConfig.preset(preset)  # type: ignore[arg-type]
    searches = len(config.resolve(steps).schedule.searches)
    each = density if isinstance(density, float) else density[:searches]
    return forwards * total_seconds(config, seconds, each, steps) / 60


def catalog(recipe: Json) -> list[Json]:
    found: list[Json] = json.loads((RECIPES / f"{recipe['page']}.json").read_text())
    return found


def in_bf16(part: Json) -> float:
    """GB of a component as a worker holds it: its VAE in float32, all else in bfloat16."""
    return float(part["billion_parameters"] * (4 if part["part"].endswith("vae") else 2))


def weights(recipe: Json) -> float:
    return sum(map(in_bf16, recipe["parts"]))


def host_memory(recipe: Json) -> float:
    return LOADING * weights(recipe) + BESIDE


def area(size: str) -> int:
    return math.prod(map(int, size.split("x")))


MODES = {"whole": {}, "offloaded": {"cpu_offload": True}, "in groups": {"group_offload": True}}
"""Ways to place a model's weights, the fastest first: fields of ``memory``."""


@cache
def flights(page: str) -> dict[str, Preflight]:
    """A worker's preflight of a recipe's first model, by the mode that its weights are placed in."""
    (recipe,) = (recipe for recipe in recipes() if recipe["page"] == page)
    spec = next(iter(Catalog.load(RECIPES / f"{page}.json").models.values()))
    with TemporaryDirectory() as folder:
        write_model(recipe, Path(folder))
        flight = Preflight(spec, Path(folder))
        assert flight.weights, "they are read from the folder"
    found = {}
    for mode, memory in MODES.items():
        if mode != "in groups" or "Modular" not in recipe["model"]["pipeline"]:  # they do without
            found[mode] = other = copy(flight)  # what one has measured, the others need not
            placed = spec.memory.model_copy(update={"cpu_offload": False, **memory})
            other.spec = spec.model_copy(update={"memory": placed})
    return found


def write_model(recipe: Json, folder: Path) -> None:
    """Write a model's folder without its weights: configurations, and of encoders how many weights they have."""
    model, models = recipe["model"], MODELS | BLOCK_MODELS
    transformer, vae = models[model["transformer"]], dict(model["vae"])
    with torch.device("meta"):
        parts = {
            "transformer": getattr(diffusers, transformer.transformer)(**transformer.config),
            "vae": getattr(diffusers, vae.pop("_class_name"))(**vae),
        }
    for part in recipe["parts"]:
        name = part["part"].partition(" (")[0].replace(" ", "_")
        if name.startswith(("transformer", "vae")):
            parts[name.partition("_2")[0]].save_config(folder / name)
            continue
        header = json.dumps({"all": {"shape": [round(part["billion_parameters"] * 1e9)]}}).encode()
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    index = "modular_model_index.json" if "Modular" in model["pipeline"] else "model_index.json"
    (folder / index).write_text(json.dumps({"_class_name": model["pipeline"], **model["index"]}))


def gpu_memory(flight: Preflight, size: str, frames: int) -> float:
    """GB of a request, decoded in tiles."""
    width, height = map(int, size.split("x"))
    usual = default_params(flight.spec)
    return flight.least(usual.model_copy(update={"width": width, "height": height, "num_frames": frames})) / GB


def most(flight: Preflight) -> float:
    """GB of the largest request of a catalog entry."""
    return gpu_memory(flight, max(flight.spec.sizes, key=area), max(flight.spec.frames))


def on_card(recipe: Json, room: float) -> str:
    """How a GPU with so much room runs a recipe: its largest request, or else the longest of its sizes that fits."""
    found = flights(recipe["page"])
    for mode, flight in found.items():
        if most(flight) <= room:
            return mode
    offloaded = found["offloaded"]
    if max(offloaded.held) / GB > room:
        return "no"
    sizes = {area(size): size for size in reversed(offloaded.spec.sizes)}  # wide and high ones take the same
    for _, size in sorted(sizes.items(), reverse=True):
        for frames in sorted(offloaded.spec.frames, reverse=True):
            if gpu_memory(offloaded, size, frames) <= room:
                return f"offloaded, {size}, up to {frames} frames"
    return "no"


def gpus_table(found: list[Json]) -> str:
    lines = markdown.head(["recipe", *CARDS])
    for recipe in found:
        cells = [on_card(recipe, memory * (1 - FREE)) for memory in CARDS.values()]
        lines.append(markdown.line([f"[{recipe['title']}]({recipe['page']}.md)", *cells]))
    return "\n".join(lines)


def memory_table(recipe: Json) -> str:
    lines = markdown.head(["part", "to download, GB", "in memory, GB", "how it is known"])
    for part in recipe["parts"]:
        where = f"[read]({part['source']})" if part["source"].startswith("https://") else part["source"]
        lines.append(markdown.line([part["part"], f"{part['gigabytes']:.1f}", f"{in_bf16(part):.1f}", where]))
    whole = sum(part["gigabytes"] for part in recipe["parts"])
    lines.append(markdown.line(["together", f"about {whole:.0f}", f"{weights(recipe):.0f}", ""]))
    return "\n".join(lines)


PLACES = {"whole": ", all weights in the GPU", "offloaded": " with `cpu_offload`", "in groups": " with `group_offload`"}


def needs_table(recipe: Json) -> str:
    lines = markdown.head(["needs", "GB", "basis"])
    needed = {f"GPU memory{PLACES[mode]}": most(flight) for mode, flight in flights(recipe["page"]).items()}
    needed["host memory"] = host_memory(recipe)
    lines += [markdown.line([name, f"{value:.0f}", "modelled"]) for name, value in needed.items()]
    return "\n".join(lines)


def minutes_table(found: list[Json]) -> str:
    presets = [preset for preset in get_args(Preset) if preset in densities()]
    lines = markdown.head(["recipe", "steps", "size, frames", "GPU", *(f"`{preset}`" for preset in presets), "basis"])
    for recipe in found:
        entry, (_, _, gpu) = catalog(recipe)[0], steps_of(recipe)
        cells = [f"{minutes(recipe, preset):.1f}" for preset in presets]
        shown = f"{entry['sizes'][0]}, {entry['default_frames']}"
        name = f"[{recipe['title']}]({recipe['page']}.md)"
        lines.append(markdown.line([name, f"{entry['default_steps']}", shown, gpu, *cells, recipe["timing"]["basis"]]))
    return "\n".join(lines)


def overview_table(found: list[Json]) -> str:
    lines = markdown.head(["recipe", "makes", "to download, GB", "GPU memory, GB", "host memory, GB", "license"])
    for recipe in found:
        entry = catalog(recipe)[0]
        offloads = entry.get("memory", {}).get("cpu_offload", False)
        taken = most(flights(recipe["page"])["offloaded" if offloads else "whole"])
        name = f"[{recipe['title']}]({recipe['page']}.md)"
        whole = f"{sum(part['gigabytes'] for part in recipe['parts']):.0f}"
        gpu = f"{taken:.0f}{', offloaded' if offloads else ''}"
        license_ = f"[{recipe['license']['name']}]({recipe['license']['source']})"
        lines.append(markdown.line([name, recipe["makes"], whole, gpu, f"{host_memory(recipe):.0f}", license_]))
    return "\n".join(lines)


def filled(page: Path) -> str:
    """The page with its tables as they should be."""
    found, text = recipes(), page.read_text()
    own = [recipe for recipe in found if recipe["page"] == page.stem]
    if not own:
        text = markdown.replaced(markdown.replaced(text, "overview", overview_table(found)), "gpus", gpus_table(found))
        return markdown.replaced(text, "minutes", minutes_table(found))
    text = markdown.replaced(text, "parts", memory_table(own[0]))
    return markdown.replaced(markdown.replaced(text, "needs", needs_table(own[0])), "minutes", minutes_table(own))


def pages() -> list[Path]:
    return [RECIPES / "README.md", *(RECIPES / f"{recipe['page']}.md" for recipe in recipes())]


def main() -> None:
    argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=__doc__.splitlines()[0]).parse_args()
    for page in pages():
        page.write_text(filled(page))
        print("wrote", page.name)


if __name__ == "__main__":
    main()
