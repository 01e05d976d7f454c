"""`python -m benchmarks.readme`: the tables and plots of kernels/README.md, from the JSON files of the benchmarks.

Between ``<!-- NAME -->`` and ``<!-- /NAME -->`` it writes anew what the files in ``--results`` say: ``kernels`` from
kernels.json (`benchmarks.attention`), ``low-density`` from low_density.json (`benchmarks.attention.low_density`),
``short`` from short.json (`benchmarks.models.short`),
``eight`` from eight.json (`benchmarks.attention.eight`), ``videos-eight`` from
videos-eight.json (`demo_model.eight`), ``changes`` from changes*.json, ``models`` from models*.json,
compiled*.json (the same with ``--compile``) and denoise*.json
(`benchmarks.models.steps`, `.denoise`), ``blocks`` from blocks.json (`benchmarks.models.blocks`), ``peaks`` from
peaks.json (`benchmarks.models.peaks`), ``linears`` from
linears.json, whole-step.json, paper-steps.json, linears-videos.json and caches-presets.json
(`benchmarks.models.linears`, `benchmarks.models.whole_step`, `benchmarks.models.paper_steps`, `demo_model.linears`,
`demo_model.caches`), ``parallel`` from
parallel.json (`benchmarks.models.parallel`), ``fidelity`` and ``grid`` from fidelity.json (`demo_model.fidelity`),
``grid`` also from candidates-*.json, ``put-back`` from all of these and compensation-presets.json, ``promise`` from
presets.json and ``unseen`` from unseen.json (the same with other ``--seed``s), ``longer`` from long-*.json and
unseen-*.json (the same with ``--length``), ``field`` from field.json (`demo_model.field`),
``field-16`` from field-16.json (more methods, fewer clips), ``lengths`` from lengths.json
(`demo_model.lengths`).

Of docs/how-it-works.md it writes ``passes`` from kernels.json, ``picture`` from field-16.json and missed.json
(`demo_model.field.missed`), and ``parts`` from fidelity.json and long-*.json. The sections ``servers``, ``layers`` and
``layers-vllm-omni`` of docs/plugins.md are from servers.json, layers.json and layers-vllm-omni.json
(`benchmarks.attention.servers`, `.sglang_layers`, `.vllm_omni_layers`). The section ``resumed`` of docs/spot.md is from
docs/spot.json (`benchmarks.models.resumed`), ``few-steps`` of docs/tuning.md from docs/demo_model/few_steps.json
(`demo_model.few_steps`), ``compensation`` of it from compensation.json (`demo_model.fidelity`), ``errors`` of
docs/how-it-works.md from field-errors.json (`demo_model.field`) and lasting.json (`demo_model.field.lasting`),
``offload`` of docs/models.md from offload*.json (`benchmarks.models.offload`), ``damage`` of docs/api.md from
docs/damage.json (`benchmarks.damage`). A section without its file stays as it is.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import damage, markdown
from benchmarks.attention import eight, low_density, report
from benchmarks.fidelity import compensation, few_steps, field, field_plots, lengths, longer, parts, unseen
from benchmarks.fidelity import tables as fidelity_tables
from benchmarks.models import linears_tables, offload_tables, parallel_plan, parallel_tables, peaks, resumed
from benchmarks.models import tables as model_tables

Json = dict[str, Any]
SHOWN = (
    "exact, two searches, density 0.19",
    "LoSA, mass 0.8",
    "SVG2, p 0.6",
    "SubBlock of 16, density 0.19",
    "Sol-Attn, beta 0.9",
    "Sol-Attn without correction, beta 0.9",
)
BESIDE = "../kernels/README.md#beside-other-methods"
LAYER = 8
"""The layer in which some heads' queries look at single keys."""
AT = 0.56
"""Share of the steps at which `demo_model.field.missed` looks."""
PASSES = {
    "dense, our kernel": "dense_attention",
    "dense with W": "attention_with_block_mass",
    "scoring pass": "block_mass, every 1",
    "scoring pass, every fourth row": "block_mass, every 4",
    "selection": "select_blocks, top_k",
}
"""What a search is made of, and the rows of kernels.json that time it."""


def kernels_section(result: Json, plot: Path, picture: str) -> str:
    report.plot(result, plot)
    versions = (
        f"{result['device']}, {result['dtype']}, PyTorch {result['torch']}, Triton {result['triton']}. Times are\n"
        "medians of the rounds. TFLOP/s count only the blocks in the pattern. Imbalance is the longest row of blocks\n"
        "over the mean."
    )
    if any("shared" in row for row in result["rows"]):
        versions += " Shared is the part of the blocks that the neighbouring query block keeps too."
    if missing := result.get("not_installed"):
        versions += f" Not installed there: {', '.join(missing)}."
    return "\n\n".join([versions, report.table(result), f"![Effective TFLOP/s against density]({picture})"]) + "\n"


def passes_section(result: Json, seen: str) -> str:
    """What a search costs, as docs/how-it-works.md shows it: the first row of each pass, of the longest shape."""
    ms = {row["op"]: row.get("ms") for row in reversed(result["rows"])}
    table = markdown.table(["pass", "ms"], ((name, f"{ms[op]:.3g}") for name, op in PASSES.items()))
    head = f"{result['device']}, 24 heads of 115,200 tokens ([kernels.json]({seen}/kernels.json)):"
    return f"{head}\n\n{table}\n"


def eight_section(result: Json) -> str:
    versions = f"{result['device']}, PyTorch {result['torch']}, Triton {result['triton']}, {result['date']}."
    return "\n\n".join([versions, eight.error_table(result["rows"]), eight.time_table(result["rows"])]) + "\n"


def videos_eight_section(result: Json) -> str:
    """PSNR to the dense videos in bfloat16, by the setting and what is in eight bits."""
    head = (
        f"{result['captions']} clips of {result['steps']} steps, {result['device']}, {result['date']}. "
        "PSNR to dense bfloat16, dB, by what is in eight bits:"
    )
    settings = list(dict.fromkeys(row["setting"] for row in result["rows"]))
    found = {(row["setting"], row["eight_bits"]): row for row in result["rows"]}
    kinds = list(dict.fromkeys(row["eight_bits"] for row in result["rows"]))
    columns = {"none": "nothing"}
    lines = markdown.head(["setting", "density", *(columns.get(kind, kind) for kind in kinds)])
    for name in settings:
        cells = [found.get((name, kind)) for kind in kinds]
        psnr = ["" if row is None else f"{row['to_dense']['psnr']:.2f}" for row in cells]
        lines.append(markdown.line([found[name, "none"]["variant"], f"{found[name, 'none']['density']:.2f}", *psnr]))
    return head + "\n\n" + "\n".join(lines) + "\n"


def low_density_section(result: Json) -> str:
    shape = result["shape"]
    versions = f"{result['device']}, PyTorch {result['torch']}, {result['date']}, bfloat16, blocks of 128 x 64,"
    versions += f" {shape['heads']} heads x {shape['tokens']:,} x {shape['dim']}. Medians."
    return f"{versions}\n\n{low_density.table(result)}\n"


def short_section(result: Json) -> str:
    """Whole steps of short videos: dense, sparse, and the bound that attention without cost would give."""
    text = (
        f"LTX-Video 2B, a batch of two, not compiled, {result['device']}, PyTorch {result['torch']}, diffusers "
        f"{result['diffusers']}, {result['date']}.\nMilliseconds of a step, and of the host in brackets:"
    )
    kinds = {"dense": "dense", "sparse": "sparse", "free": "self-attention without cost"}
    lines = markdown.head(["tokens", "density", *kinds.values(), "sparse over dense", "without cost over dense"])
    for row in result["rows"]:
        cells = [f"{row['tokens']:,}", f"{row['density']:.2f}"]
        cells += [f"{row[f'{kind}_ms']:.0f} ({row[f'{kind}_host_ms']:.0f})" for kind in kinds]
        cells += [f"{row[f'{kind}_ms'] / row['dense_ms']:.2f}" for kind in ("sparse", "free")]
        lines.append(markdown.line(cells))
    return text + "\n\n" + "\n".join(lines) + "\n"


def changes_section(result: Json) -> str:
    versions = f"{result['device']}, PyTorch {result['torch']}, Triton {result['triton']}, {result['date']}"
    return f"{versions}. Before: commit {result['before']}.\n\n{report.changes_table(result)}\n"


DENSITIES_FROM = (
    " The presets' densities were\nmeasured on the demo model at {:,} tokens ([longer clips](#longer-clips))."
)


def models_section(
    results: list[Json], compiled: list[Json], runs: list[Json], densities: dict[str, list[float]], tokens: int
) -> str:
    rows, compiled_rows = ([row for result in found for row in result["rows"]] for found in (results, compiled))
    first = results[0]
    parts = [
        f"{first['device']}, PyTorch {first['torch']}, diffusers {first['diffusers']}. Full-size models with\n"
        "random weights. Their attention is nearly uniform, so we set the density. The searches keep the top 20 % in\n"
        "blocks of 128 queries and 64 keys (the paper: 64 x 64). `scattered` patterns have equally many blocks in\n"
        "each row, at any place. `skewed` patterns have diagonals and columns, and heads from half to one and a half\n"
        "times the mean.",
        model_tables.step_table(rows),
        "Whole denoisings, added up from these times by the schedule of each configuration. AdaSpa's dense steps use\n"
        "its own kernel. In brackets: speed relative to FlashAttention-3, dense."
        + (DENSITIES_FROM.format(tokens) if densities else ""),
        model_tables.total_table(rows, dict(densities)),
        "The same for few-step models at density 0.2, without and with `few_steps` (added up, not run):",
        model_tables.few_steps_table(rows),
        *(_compiled_parts(compiled_rows, densities) if compiled_rows else ()),
        *(model_tables.denoise_line(run) for run in runs),
        model_tables.memory_table(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _compiled_parts(rows: list[Json], densities: dict[str, list[float]]) -> list[str]:
    return [
        "With compiled blocks (`transformer.compile_repeated_blocks`) in dense and sparse steps:",
        model_tables.step_table(rows),
        model_tables.total_table(rows, dict(densities)),
    ]


def blocks_section(result: Json) -> str:
    note = f"\n{result['note']}" if "note" in result else ""
    text = (
        f"{result['device']}, PyTorch {result['torch']}, diffusers {result['diffusers']}. Full size, random weights: "
        f"{result['blocks']} blocks of\neach model ran, and a forward was computed from them. Columns: seconds of one "
        "forward, and totals of all guidance branches at density 0.2.\nTotals are for 50 steps, three dense, and for 8 "
        f"and 4 steps with `few_steps=8`. In brackets: speed relative to FlashAttention-3.{note}"
    )
    return f"{text}\n\n{model_tables.blocks_table(result['rows'])}\n"


def peaks_section(result: Json) -> str:
    text = (
        f"{result['device']}, PyTorch {result['torch']}, diffusers {result['diffusers']}, {result['date']}. Full size, "
        f"random weights in bf16, one forward,\ndensity {result['density']}: {result['blocks']} blocks of each "
        "kind ran, and weights and caches of the others were added. The highest of a step, in brackets beside dense:"
    )
    return f"{text}\n\n{peaks.table(result['rows'])}\n"


def linears_section(
    result: Json,
    densities: dict[str, list[float]],
    *,
    videos: Json | None,
    cached: Json | None,
    whole: Json | None,
    paper: Json | None,
) -> str:
    """Steps by linear layers in e4m3; ``densities`` of the presets in their own blocks."""
    rows = result["rows"]
    text = (
        f"{result['device']}, PyTorch {result['torch']}, diffusers {result['diffusers']}, torchao {result['torchao']}, "
        f"{result['date']}. Full size, random weights.\nOne block of each kind was compiled and run, and a forward of "
        "all blocks was computed from\nthem. Times of the blocks' kernels: `attention`, `linear layers` and `rest`."
    )
    totals = (
        "Whole denoisings, added up from these times, all guidance branches, density 0.2 asked for. In brackets: speed "
        "relative to\nFlashAttention-3 in the same run, compiled too, with linear layers in bf16:"
    )
    errors = "Errors of a block's output against float32 at one frame, with the same weights and input:"
    note = f" {result['note']}" if "note" in result else ""
    parts = [
        text + note,
        linears_tables.share_table(rows),
        totals,
        linears_tables.total_table(rows),
    ]
    if whole is not None:
        in_a_row = (
            f"Sparse steps at density {whole['density']} with all their blocks one after another, without a wait "
            f"(`benchmarks.models.whole_step`,\n{whole['device']}, {whole['date']}). The columns are seconds of the "
            "kernels by what they do, and the card's mean clock and power:"
        )
        parts += [in_a_row, linears_tables.whole_table(whole["rows"])]
    if paper is not None:
        between = (
            "Compiled steps of the whole HunyuanVideo by the paper's schedule, and dense ones by FlashAttention-3\nof"
            f" the same run: `benchmarks.models.paper_steps`, density {paper['density']}, {paper['device']}, "
            f"{paper['date']}."
        )
        between += f" {paper['note']}" if "note" in paper else ""
        parts += [between, linears_tables.paper_table(paper["rows"])]
        if paper["complete"]:
            ours, dense = linears_tables.paper_total(paper["rows"])
            times = f"{dense / ours:.2f} times as long."
            parts += [f"So 50 steps take {ours:.0f} s, and {dense:.0f} s with FlashAttention-3, {times}"]
    if cached is not None:
        told = cached["settings"]
        seen = f" {cached['note']}" if "note" in cached else ""
        presets = (
            f"{linears_tables.presets_sentence(cached['rows'])}\nSpeeds are added up in the same way, "
            "by densities of the demo model. PSNR is to its dense videos in bf16 "
            f"({told['captions']} captions, {told['steps']} steps,\n{cached['device']}, {cached['date']}).{seen}"
        )
        parts += [presets, linears_tables.preset_table(rows, cached["rows"], dict(densities))]
    parts += [errors, linears_tables.error_table(rows)]
    if videos is not None:
        seen = (
            f"The demo model on one {videos['device']}, {videos['captions']} captions, {videos['steps']} steps. Videos "
            "are compared with dense ones in bf16,\nand with videos of the same setting in bf16:"
        )
        parts += [seen, linears_tables.video_table(videos["rows"])]
    return "\n\n".join(parts) + "\n"


def parallel_section(result: Json) -> str:
    text = (
        f"Up to {result['gpus']} times {result['device']}, PyTorch {result['torch']}, one run each model. Full size,\n"
        "random weights: a few blocks were run, and a step of all blocks and both guidance branches was computed from\n"
        "them. The exchange of all layers was timed by itself. Peak memory is what a process takes beyond what it\n"
        "holds between forwards."
    )
    dealt = "Heads that keep from half to one and a half times the mean, in equal numbers per rank and dealt by cost:"
    parts = [text, parallel_tables.table(result["rows"]), dealt, parallel_tables.balance_table(result["rows"])]
    if plan := parallel_plan.rows(result["rows"]):
        measured = "" if any("seconds" in row for row in plan) else ", **not measured**"
        planned = (
            f"Estimates for four and eight GPUs{measured} (`benchmarks/models/parallel_plan.py`). They keep the part\n"
            "that each of two GPUs did in full and divide the rest. The exchange scales with the bytes a rank sends."
        )
        parts += [planned, parallel_tables.plan_table(plan)]
    return "\n\n".join(parts) + "\n"


def fidelity_section(result: Json) -> str:
    settings, note = result["settings"], f" {result['note']}" if "note" in result else ""
    parts = [
        f"{settings['captions']} held-out captions, {settings['steps']} denoising steps, {settings['dtype']}, on one\n"
        f"{result['device']}. PSNR has its standard error. Density and recall are means over the sparse steps.\n"
        "Attention work is for the whole denoising; dense is 1. Right answers: share of colours, shapes, motions and\n"
        f"backgrounds that the video shows as its caption asks.{note}",
        fidelity_tables.table(result["rows"]),
    ]
    return "\n\n".join(parts) + "\n"


def grid_section(sets: list[Json], plot: Path, picture: str) -> str:
    rows = sets[0]["rows"]
    fidelity_tables.plot_grid(rows, plot)
    on_all = fidelity_tables.on_all([result["rows"] for result in sets])
    clips = sum(result["settings"]["captions"] for result in sets)
    parts = [
        "Of the many settings tried, these are the ones that no other beats at less cost, the presets and the paper's:",
        fidelity_tables.frontier_table(rows),
        f"![Cost against PSNR of the presets' candidates]({picture})",
        f"On {len(sets)} sets of captions ({clips} clips; PSNR on each set, then the worst clip of all):",
        fidelity_tables.sets_table(on_all),
    ]
    return "\n\n".join(parts) + "\n"


def put_back_section(sets: list[Json], put_back: Json) -> str:
    """The presets beside settings with compensation, and what their rule would choose of all of them."""
    of_seed = {result["settings"]["seed"]: result["rows"] for result in sets}
    more = [found["rows"] for found in put_back["sets"]]
    plain = [of_seed[found["settings"]["seed"]] for found in put_back["sets"]]
    lines = [
        f"- `{preset}`: {row['name']}, at a cost of {fidelity_tables.cost(row):.2f}"
        for preset, row in compensation.choice_with(plain, more).items()
    ]
    parts = [
        "The same sets, with settings that get back what their search saw them lose:",
        compensation.presets_table(plain, more),
        "Of all of them the rule would choose:",
        "\n".join(lines),
    ]
    return "\n\n".join(parts) + "\n"


def promise_section(result: Json) -> str:
    return (
        f"{field_head(result)}. Nothing was chosen on these captions and their\nnoise "
        f"(`--seed {result['settings']['seed']}`):\n\n{fidelity_tables.promise_table(result['rows'])}\n"
    )


def unseen_section(result: Json) -> str:
    return (
        f"{field_head(result)}. Of these policies nothing was chosen on these\ncaptions and their noise "
        f"(`--seed {result['settings']['seed']}`). A line lies between its measured points, clip by clip; in brackets "
        f"the\n95 % interval.\n\n{unseen.table(result['rows'])}\n"
    )


def lengths_section(result: Json, plot: Path, picture: str) -> str:
    lengths.plot(result["rows"], plot)
    settings, row = result["settings"], result["rows"][0]
    looked = list(row["attention"]["lse_change"])
    parts = [
        f"{settings['watched']} held-out captions, {settings['steps']} denoising steps, {settings['dtype']}, on one "
        f"{result['device']}. Blocks of 64 x 64; means over layers, heads and\nguidance branches at step "
        f"{looked[lengths.AT]}, with the standard deviation over clips. LSE and early blocks are compared with "
        f"step\n{looked[0]}, and the mass in the early blocks with that in as many new ones. Right answers are of "
        f"{settings['captions']} captions\nwith dense attention.",
        f"![Density, recall, PSNR and stability by length]({picture})",
        lengths.table(result["rows"]),
        "PSNR to dense, in brackets the density in use and the attention work of the whole denoising:",
        lengths.variants_table(result["rows"]),
    ]
    return "\n\n".join(parts) + "\n"


def few_steps_section(results: dict[str, Json]) -> str:
    """Schedules of few-step models, as docs/tuning.md shows them."""
    first = next(iter(results.values()))
    settings = first["settings"]
    text = (
        f"The demo model, 2,304 tokens, {settings['captions']} held-out captions, no guidance, retained mass "
        f"{settings['mass'][0]}, bf16, one {first['device']},\n{first['date']}. PSNR is to the dense videos of the "
        "same adapter; in brackets the worst clip. Work is that of all self-attention\nagainst dense, with dense "
        "steps, searches and routers."
    )
    return f"{text}\n\n{few_steps.table(results, settings['mass'][0])}\n"


def longer_section(results: list[Json], unseen_ones: list[Json]) -> str:
    texts = []
    for result in sorted(results, key=lambda result: -int(result["settings"]["tokens"])):
        texts += [
            f"{longer_head(result)}. Density has its standard deviation over clips. Cost is as for "
            "[the candidates](#candidates-of-the-presets):",
            longer.table(result["rows"]),
        ]
    for result in sorted(unseen_ones, key=lambda result: -int(result["settings"]["tokens"])):
        told = f"{longer_head(result)}. Nothing was chosen on these captions and their noise"
        texts += [f"{told} (`--seed {result['settings']['seed']}`):", longer.table(result["rows"])]
    return "\n\n".join(texts) + "\n"


def longer_head(result: Json) -> str:
    settings = result["settings"]
    return (
        f"The long model at {settings['tokens']:,} tokens, {settings['captions']} held-out captions, "
        f"{settings['steps']} denoising steps, {settings['dtype']}, on one\n{result['device']}"
    )


def parts_section(results: list[Json]) -> str:
    """Where in the denoising sparse attention costs picture, as docs/how-it-works.md shows it."""
    settings = results[0]["settings"]
    return (
        f"The demo models, {settings['steps']} denoising steps, {settings['dtype']}, on one {results[0]['device']}. "
        "Blocks of 64 x 64 at a price\nof 2.2, one search just before, lists shared; all other steps are dense. The "
        f"noise goes from 1 to 0:\n\n{parts.table(results)}\n"
    )


def field_head(result: Json) -> str:
    settings = result["settings"]
    return (
        f"The demo model (2,304 tokens), {settings['captions']} held-out captions, {settings['steps']} denoising\n"
        f"steps, {settings['dtype']}, on one {result['device']}"
    )


def field_section(result: Json, plot: Path, picture: str) -> str:
    field_plots.plot(result["rows"], plot)
    parts = [
        f"{field_head(result)}. Attention work is that of\nthe whole denoising in multiplications, dense being 1. "
        "The router is what a sparse call costs besides its kept\npairs, in dense calls. Ours at the same work lies "
        "between our measured points, clip by clip; in brackets the 95 % interval.",
        f"![Attention work against PSNR, by method]({picture})",
        field.table(result["rows"]),
    ]
    return "\n\n".join(parts) + "\n"


def compensation_section(result: Json) -> str:
    """What compensation gains, as docs/tuning.md shows it."""
    return (
        f"{field_head(result)}, {result['date']}. Attention work is that of the whole\ndenoising, dense being 1. The "
        "same line without compensation lies between its measured points, clip by clip; in\nbrackets the 95 % "
        f"interval.\n\n{compensation.table(result['rows'])}\n"
    )


def errors_section(result: Json, lasting: Json) -> str:
    """Which errors cost picture and how long they last, as docs/how-it-works.md shows it."""
    search = lasting["rows"][0]["search"]
    parts = [
        f"{field_head(lasting)}, {lasting['date']}. What is\nleft of the error at the search in step {search}:",
        compensation.lasting_table(lasting["rows"]),
        f"{field_head(result)}, {result['date']}. Errors are\nrelative to the attention's output, in two sparse steps. "
        "Work is that of the whole denoising, dense being 1:",
        compensation.errors_table(result["rows"]),
    ]
    return "\n\n".join(parts) + "\n"


def picture_section(result: Json, missed: Json, folder: Path, seen: str) -> str:
    """What the explanation in docs/how-it-works.md rests on."""
    rows = field.with_lost(result["rows"], missed["lost"])
    field_plots.plot_missed(missed, folder / "missed.png")
    field_plots.plot_predictors(rows, folder / "unevenness.png", ("recall", "uneven"))
    field_plots.plot_errors(result["rows"], folder / "errors.png", SHOWN)
    clips = missed["settings"]["captions"]
    parts = [
        f"![Queries that lose nearly all, by head; and a block that pooled scores miss]({seen}/missed.png)",
        f"{field_head(result)}.\nThe numbers of {len(rows)} [methods and settings]({BESIDE}) are of {clips} dense "
        f"clip{'s' * (clips > 1)}, all layers\nat step {int(AT * result['settings']['steps'])}:",
        f"![Recall and unevenness against PSNR]({seen}/unevenness.png)",
        field.predictor_table(rows),
        "Error that differs between 64 neighbouring tokens, relative to the attention's output, in four sparse steps:",
        field.layer_table(result["rows"], SHOWN, LAYER),
        f"![Spatial spectrum of errors, and their size against PSNR]({seen}/errors.png)",
    ]
    return "\n\n".join(parts) + "\n"


def servers_section(result: Json) -> str:
    """AdaSpa beside SubBlock, as docs/plugins.md shows it."""
    rows = result["rows"]
    text = (
        f"One {result['device']}, PyTorch {result['torch']}, random queries and keys, one layer. Milliseconds: a\n"
        "dense call, AdaSpa's two searches together, its sparse call, SubBlock's router and the kernel under its\n"
        "blocks. Seconds: 50 calls. Ratio: AdaSpa's time over SubBlock's in the 40 calls that are not dense.\n"
        f"Router: {rows[0]['router_of']}. Kernel: ours for both, in blocks of 64 x 64."
    )
    columns = ("dense_ms", "search_ms", "sparse_ms", "router_ms", "kernel_ms", "all_dense_s", "ours_s", "sub_block_s")
    titles = "shape", "dense", "two searches", "sparse", "router", "kernel", "all dense", "AdaSpa", "SubBlock", "ratio"
    cells = (
        [row["shape"], *(f"{row[name]:.3g}" for name in columns), f"{row['ratio_without_dense_steps']:.2f}"]
        for row in rows
    )
    return f"{text}\n\n{markdown.table(titles, cells)}\n"


MS_OF_LAYERS = {
    "dense": "dense",
    "first_search": "first search",
    "later_search": "second search",
    "sparse": "sparse",
    "library": "without the server",
    "sub_block": "SubBlock",
    "router": "its router",
}
SECONDS_OF_LAYERS = {"all_dense_s": "all dense", "ours_s": "AdaSpa", "sub_block_s": "SubBlock"}


def layers_section(result: Json) -> str:
    """AdaSpa in a server's own attention layers, and SubBlock where the server has it, as docs/plugins.md shows it."""
    rows = result["rows"]
    text = (
        f"One {result['device']}, {result['server']}, PyTorch {result['torch']}, random queries and keys, one layer.\n"
        f"Milliseconds: a dense call (`{result['dense']}`), AdaSpa's two searches and its sparse call, and that call\n"
        "without the server. Seconds: 50 calls."
    )
    ms = {name: title for name, title in MS_OF_LAYERS.items() if name in rows[0]["ms"]}
    seconds = {name: title for name, title in SECONDS_OF_LAYERS.items() if name in rows[0]}
    titles = ["shape", *(f"{title}, ms" for title in ms.values()), *(f"{title}, s" for title in seconds.values())]
    if "ratio_without_dense_steps" in rows[0]:
        text += " Ratio: AdaSpa's time over SubBlock's in the 40 calls that are not dense."
        titles.append("ratio")
    lines = markdown.head(titles)
    for row in rows:
        cells = [row["shape"], *(f"{row['ms'][name]:.3g}" for name in ms), *(f"{row[name]:.3g}" for name in seconds)]
        if "ratio_without_dense_steps" in row:
            cells.append(f"{row['ratio_without_dense_steps']:.2f}")
        lines.append(markdown.line(cells))
    return "\n".join([text, "", *lines]) + "\n"


def plugins_page(text: str, load: Callable[[str], list[Json]]) -> str:
    """docs/plugins.md with the tables whose results are there."""
    for name, section in (
        ("layers", layers_section),
        ("layers-vllm-omni", layers_section),
        ("servers", servers_section),
    ):
        if results := load(f"{name}.json"):
            text = markdown.replaced(text, name, section(results[0]))
    return text


def offload_section(results: list[Json]) -> str:
    """Jobs by group offload, as docs/models.md shows them."""
    first = results[0]
    text = (
        f"One {first['device']}, PyTorch {first['torch']} limited to {first['limit_bytes'] / 2**30:.0f} GiB, random "
        "weights, no text encoder.\nIn brackets the prediction:"
    )
    notes = "".join(f"\n{result['model']}: {result['note']}\n" for result in results if "note" in result)
    return f"{text}\n\n{offload_tables.table(results)}\n{notes}"


def quality_sections(load: Callable[[str], list[Json]], folder: Path, seen: str) -> dict[str, str]:
    """Sections on how close to dense attention videos are.

    Args:
        load: the JSON files of a name.
        folder: where the plots go.
        seen: the folder, as the text names it.
    """
    sections = {}
    for fidelity in load("fidelity.json"):
        sections["fidelity"] = fidelity_section(fidelity)
        if again := load("candidates-*.json"):
            sets = [fidelity, *again]
            sections["grid"] = grid_section(sets, folder / "grid.png", f"{seen}/grid.png")
            print(fidelity_tables.choice(fidelity_tables.on_all([result["rows"] for result in sets])))
            for put_back in load("compensation-presets.json"):
                sections["put-back"] = put_back_section(sets, put_back)
    for last in load("presets.json"):
        sections["promise"] = promise_section(last)
    for others in load("unseen.json"):
        sections["unseen"] = unseen_section(others)
    for by_length in load("lengths.json"):
        sections["lengths"] = lengths_section(by_length, folder / "lengths.png", f"{seen}/lengths.png")
    if longest := load("long-*.json"):
        sections["longer"] = longer_section(longest, load("unseen-*.json"))
    for name in ("field", "field-16"):
        for beside in load(f"{name}.json"):
            sections[name] = field_section(beside, folder / f"{name}.png", f"{seen}/{name}.png")
    return sections


def rewrite(page: Path, name: str, section: str) -> None:
    """Put a section into a page."""
    page.write_text(markdown.replaced(page.read_text(), name, section))


def rewrite_users_pages(arguments: argparse.Namespace, load: Callable[[str], list[Json]]) -> None:
    """Put sections into the pages that do not explain the library."""
    arguments.plugins.write_text(plugins_page(arguments.plugins.read_text(), load))
    if (schedules := arguments.tuning.parent / "demo_model" / "few_steps.json").exists():
        rewrite(arguments.tuning, "few-steps", few_steps_section(json.loads(schedules.read_text())))
    for result in load("compensation.json"):
        rewrite(arguments.tuning, "compensation", compensation_section(result))
    for result, lasting in zip(load("field-errors.json"), load("lasting.json"), strict=True):
        rewrite(arguments.explained, "errors", errors_section(result, lasting))
    if offloaded := load("offload*.json"):
        rewrite(arguments.models, "offload", offload_section(offloaded))
    if (resumptions := arguments.spot.with_suffix(".json")).exists():
        rewrite(arguments.spot, "resumed", resumed.table(json.loads(resumptions.read_text())))
    if (copies := arguments.api.parent / "damage.json").exists():
        rewrite(arguments.api, "damage", damage.section(json.loads(copies.read_text())))


def asked() -> argparse.Namespace:
    """Read the command line: the pages to write, and the folder of the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--readme", type=Path, default=Path("kernels/README.md"))
    parser.add_argument("--explained", type=Path, default=Path("docs/how-it-works.md"))
    parser.add_argument("--plugins", type=Path, default=Path("docs/plugins.md"))
    parser.add_argument("--tuning", type=Path, default=Path("docs/tuning.md"), help="demo_model/ lies beside it")
    parser.add_argument("--models", type=Path, default=Path("docs/models.md"))
    parser.add_argument("--spot", type=Path, default=Path("docs/spot.md"), help="its figures lie beside it")
    parser.add_argument("--api", type=Path, default=Path("docs/api.md"), help="damage.json lies beside it")
    parser.add_argument("--results", type=Path, default=Path("docs/kernels"), help="folder of the JSON files and plots")
    return parser.parse_args()


def main() -> None:
    arguments = asked()
    folder, text = arguments.results, arguments.readme.read_text()

    def load(pattern: str) -> list[Json]:
        return [json.loads(path.read_text()) for path in sorted(folder.glob(pattern))]

    names = ("eight", "changes", "models", "compiled", "denoise", "blocks", "parallel", "peaks")
    measured = {name: load(f"{name}*.json") for name in names} | {"kernels": load("kernels.json")}
    clips = [*load("fidelity.json"), *load("long-*.json")]
    tokens, densities = fidelity_tables.longest_densities(clips)
    seen_from_readme = Path(os.path.relpath(folder, arguments.readme.parent)).as_posix()
    sections = {}
    if measured["kernels"]:
        picture = f"{seen_from_readme}/kernels.png"
        sections["kernels"] = kernels_section(measured["kernels"][0], folder / "kernels.png", picture)
        seen = Path(os.path.relpath(folder, arguments.explained.parent)).as_posix()
        rewrite(arguments.explained, "passes", passes_section(measured["kernels"][0], seen))
    of_one_file = {
        "eight": eight_section,
        "blocks": blocks_section,
        "parallel": parallel_section,
        "peaks": peaks_section,
    }
    sections |= {name: make(measured[name][0]) for name, make in of_one_file.items() if measured[name]}
    if measured["changes"]:
        newest_first = sorted(measured["changes"], key=lambda result: str(result["date"]), reverse=True)
        sections["changes"] = "\n".join(changes_section(result) for result in newest_first)
    if measured["eight"] and "routes" in measured["eight"][0]:
        sections["eight-routes"] = eight.routes_table(measured["eight"][0]["routes"]) + "\n"
    for videos_in_eight in load("videos-eight.json"):
        sections["videos-eight"] = videos_eight_section(videos_in_eight)
    for name, make in (("low_density", low_density_section), ("short", short_section)):
        if found := load(f"{name}.json"):
            sections[name.replace("_", "-")] = make(found[0])
    if measured["models"]:
        sections["models"] = models_section(
            measured["models"], measured["compiled"], measured["denoise"], densities, tokens
        )
    if found := load("linears.json"):
        _, own = fidelity_tables.longest_densities(clips, priced=False)
        files = {"videos": "linears-videos", "cached": "caches-presets", "whole": "whole-step", "paper": "paper-steps"}
        beside = {name: next(iter(load(f"{file}.json")), None) for name, file in files.items()}
        sections["linears"] = linears_section(found[0], own, **beside)
    sections |= quality_sections(load, folder, seen_from_readme)
    many, missed = load("field-16.json"), load("missed.json")
    if many and missed:
        seen = Path(os.path.relpath(folder, arguments.explained.parent)).as_posix()
        rewrite(arguments.explained, "picture", picture_section(many[0], missed[0], folder, seen))
    if in_parts := [result for result in clips if parts.parts_of(result["rows"])]:
        rewrite(arguments.explained, "parts", parts_section(in_parts))
    rewrite_users_pages(arguments, load)
    for name, section in sections.items():
        text = markdown.replaced(text, name, section)
    arguments.readme.write_text(text)
    print("wrote", *sections, "into", arguments.readme)


if __name__ == "__main__":
    main()
