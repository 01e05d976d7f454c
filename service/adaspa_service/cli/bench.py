"""``adaspa bench``: measure kernels or whole clips on this machine, as a table, JSON or a plot."""

import json
import subprocess
import sys
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Unpack, cast

import typer
from adaspa_api.words import Quality
from adaspa_client import Video, VideoFields

from adaspa_service.cli import params
from adaspa_service.cli.jobs import check_output
from adaspa_service.cli.local import generate_here, need, resolved
from adaspa_service.cli.terminal import Json, fail, print_json, print_table, say

PROMPT = "a large yellow star moves right on a navy background"
COLUMNS = ("PRESET", "DENOISING", "DENSE STEP", "SEARCH STEP", "SPARSE STEP", "WORK", "DENSITY", "RECALL", "SPEED-UP")
KERNEL_COLUMNS = ("OPERATION", "DENSITY", "MS", "TFLOP/S")
KINDS = ("dense", "search", "sparse")
WARMUP_STEPS = 2

bench = typer.Typer(help="Measure this machine: attention kernels or whole clips.", no_args_is_help=True)

Output = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the results to this JSON file.")]
Plot = Annotated[
    Path | None, typer.Option(help="Also draw a plot to this .png, .svg or .pdf file. Requires matplotlib.")
]


class Dtype(StrEnum):
    """Data types for timing the kernels."""

    bfloat16 = "bfloat16"
    float16 = "float16"


@bench.command()
def kernels(
    *,
    dtype: Annotated[Dtype, typer.Option(help="Data type of the tensors.")] = Dtype.bfloat16,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Check the kernels against reference implementations on this GPU, and time them beside PyTorch's attention."""
    need(("adaspa", "torch", "triton"), "bench kernels")
    check_outputs(output, None)
    found = json.loads(run("adaspa.self_check", "--dtype", dtype.value))
    if output:
        output.write_text(json.dumps(found, indent=1))
    if as_json:
        return print_json(found)
    print_table(KERNEL_COLUMNS, [[row["op"], row["density"], row["ms"], row["tflops"]] for row in found["rows"]])
    worst = max(max(row["max_abs_difference"]) for row in found["deviations"])
    shape = found["shape"]
    say(f"{found['device']}, {shape['heads']} heads, {shape['tokens']} tokens, head dimension {shape['dim']}")
    say(f"Largest difference from the references over {len(found['deviations'])} kernels: {worst:.3g}")
    return say_files(output)


@bench.command()
@params.options(["model", "size", "num_frames", "steps"])
def model(
    *,
    prompt: Annotated[str, typer.Option(help="Text that describes the clips.")] = PROMPT,
    preset: Annotated[
        list[Quality] | None, typer.Option(help="Preset to compare with exact; can be repeated (default: all).")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Clips per preset, interleaved; the table shows the medians.")] = 1,
    output: Output = None,
    plot: Plot = None,
    as_json: Json = False,
    **asked: Unpack[VideoFields],
) -> None:
    """Time whole clips with each AdaSpa preset on this machine, without a server."""
    check_outputs(output, plot)
    presets = [Quality.exact, *(name for name in preset or Quality if name is not Quality.exact)]
    each = [cast(VideoFields, {**params.given(asked), "seed": 0, "quality": name.value}) for name in presets]
    jobs = [job for fields in each for job in resolved(prompt, 1, fields)]
    warmup = jobs[0].model_copy(update={"steps": min(WARMUP_STEPS, jobs[0].steps)})
    planned = [warmup, *(jobs * rounds)]
    with TemporaryDirectory(prefix="adaspa-bench-") as folder:
        files = [Path(folder) / f"{number}.{job.output_format}" for number, job in enumerate(planned)]
        videos = generate_here(planned, files, quiet=as_json)[1:]
    rows = [figures(name, videos[place :: len(presets)]) for place, name in enumerate(presets)]
    for row in rows:
        row["speedup"] = round(rows[0]["denoising_s"] / row["denoising_s"], 3)
    first = jobs[0]
    shape = {"size": f"{first.width}x{first.height}", "num_frames": first.num_frames, "steps": first.steps}
    result = {"model": first.model, **shape, "rounds": rounds, "rows": rows}
    if output:
        output.write_text(json.dumps(result, indent=1))
    if plot:
        draw(result, plot)
    if as_json:
        return print_json(result)
    print_table(COLUMNS, [cells(row) for row in rows])
    return say_files(output, plot)


def figures(preset: Quality, videos: list[Video]) -> dict[str, Any]:
    """Return medians over the clips of one preset."""
    reports = [video.attention for video in videos if video.attention]
    row: dict[str, Any] = {
        "preset": preset.value,
        "denoising_s": median(video.timings["denoising"] for video in videos),
        "decoding_s": median(video.timings["decoding"] for video in videos),
    }
    for kind in KINDS:
        each = [
            getattr(report, f"{kind}_seconds") / getattr(report, f"{kind}_steps")
            for report in reports
            if getattr(report, f"{kind}_steps")
        ]
        row[f"{kind}_step_s"] = round(median(each), 4) if each else None
    first = reports[0]
    return row | {
        "attention_work": first.attention_work,
        "density": round(first.density, 4),
        "recall": first.recall,
        "recall_is_estimate": first.recall_is_estimate,
    }


def cells(row: dict[str, Any]) -> list[str]:
    """Format a row of the table."""
    steps = ["" if row[f"{kind}_step_s"] is None else f"{row[f'{kind}_step_s']:.2f} s" for kind in KINDS]
    recall = "" if row["recall"] is None else f"{row['recall']:.3f}"
    return [
        row["preset"],
        f"{row['denoising_s']:.1f} s",
        *steps,
        "" if row["attention_work"] is None else f"{row['attention_work']:.2f}",
        f"{row['density']:.2f}",
        recall,
        f"{row['speedup']:.2f}",
    ]


def draw(result: dict[str, Any], path: Path) -> None:
    """Plot denoising seconds by preset, with the speed-up over exact."""
    from matplotlib.figure import Figure  # noqa: PLC0415  an optional dependency

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar([row["preset"] for row in result["rows"]], [row["denoising_s"] for row in result["rows"]])
    axes.bar_label(bars, [f"{row['speedup']:.2f}x" for row in result["rows"]])
    title = f"{result['model']}, {result['size']}, {result['num_frames']} frames, {result['steps']} steps"
    axes.set(title=title, ylabel="denoising, seconds")
    figure.savefig(path, dpi=150)


def run(module: str, *arguments: str) -> str:
    """Run a module of the library in a process and return its output. If it fails, end this command with its error."""
    command = [sys.executable, "-m", module, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        said = ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}, without an error message"]
        fail(f"bench: {said[-1].rpartition('error: ')[2]}")
    return ran.stdout


def check_outputs(output: Path | None, plot: Path | None) -> None:
    """End the command early if a file could not be written later."""
    for path in filter(None, (output, plot)):
        check_output(path)
    if plot and find_spec("matplotlib") is None:
        fail("--plot: requires matplotlib; pip install matplotlib")


def say_files(*files: Path | None) -> None:
    """Print the names of the files written."""
    for path in filter(None, files):
        say(f"Wrote {path}")
