"""The README's tables and plots, from made-up results."""

import json
import sys
from pathlib import Path

import pytest
from adaspa import AdaSpaConfig
from diffusers import FlowMatchEulerDiscreteScheduler

from benchmarks import markdown, readme
from benchmarks.fidelity import compensation, field, parts, unseen
from benchmarks.fidelity.tables import (
    APART,
    apart,
    attention_work,
    choose_presets,
    cost,
    longest_densities,
    on_all,
    preset_densities,
    promise_table,
    sets_table,
)
from demo_model.long_clips import LENGTHS

ROOT = Path(__file__).parents[2]
KERNELS = {
    "device": "H100",
    "dtype": "bfloat16",
    "torch": "2.11",
    "triton": "3.6",
    "rows": [
        {"shape": "8k", "op": "fa3", "density": 1.0, "ms": 2.5, "tflops": 600.0},
        {"shape": "8k", "op": "block_sparse_attention", "block": [128, 64], "density": 0.2, "ms": 0.6, "tflops": 580.5},
        *(
            {"shape": shape, "op": op, "ms": ms}
            for shape, ms in (("8k", 2.4), ("4k", 0.7))
            for op in readme.PASSES.values()
        ),
    ],
    "not_installed": ["fa4"],
}

EIGHT = [
    {"op": "full", "error": 0.002},
    {"op": "int8_fp8", "error": 0.038},
    {"op": "full", "ms": 40.0},
    {"op": "int8_fp8", "ms": 20.0},
]


def model_rows(model, calls):
    seconds = {"dense_with_lse": 21.0, "search_at_once": 30.0, "fused_search": 22.0, "cached_search": 16.0}
    rows = [
        {"step": "dense", "attention": "fa3", "density": 1.0, "seconds": 20.0, "peak_bytes": 40 * 2**30},
        {"step": "dense", "attention": "sdpa-cudnn", "density": 1.0, "error": "RuntimeError: no"},
        *(
            {"step": step, "density": 0.2, "pattern": "searched", "seconds": value, "cache_bytes": 2 * 10**9}
            | {"peak_bytes": 42 * 2**30}
            for step, value in seconds.items()
        ),
        *(
            {
                "step": "sparse",
                "pattern": "scattered",
                "asked": density,
                "density": density,
                "seconds": 4 + 20 * density,
            }
            for density in (0.1, 0.2, 0.3)
        ),
    ]
    return [{"model": model, "calls": calls} | row for row in rows]


def fidelity_row(name, density, psnr, right, *groups, **more):
    figures = {"psnr": psnr, "psnr_error": 0.2, "psnr_worst": psnr - 9, "ssim": 0.9, "lpips": 0.1, "recall": 0.9}
    figures["clips"] = [psnr, psnr]
    row = {"name": name, "method": more.pop("method", name), "groups": list(groups), "density": density, **figures}
    steps = {"dense_steps": 5, "search_steps": 2, "sparse_steps": 18, "density_by_search": [density, density]}
    steps |= {"work": {"dense": 0.2, "search": 0.05, "sparse": 0.7 * density}}
    config = {"selection": "retained_mass", "mass": 0.9, "warmup": 5, "searches": [5, 15]}
    config |= {"token_order": "tile", "query_stride": 1, "query_block_size": 64, "block_size": 64, "share_lists": True}
    return row | steps | {"right": {"all_attributes": right}, "config": config} | more


FIDELITY_ROWS = [
    {"name": "dense", "method": "dense", "groups": ["paper"], "density": 1.0, "right": {"all_attributes": 0.9}},
    fidelity_row("paper", 0.2, 30.0, 0.9, "paper", "curves", method="top-k"),
    fidelity_row("preset quality", 0.5, 36.0, 0.9, "presets"),
    fidelity_row("sliding window, sparsity 0.8", 0.2, 20.0, 0.7, "patterns", method="sliding window"),
    fidelity_row("no LSE reuse", 0.2, 31.0, 0.9, "ablations"),
    fidelity_row("a", 0.4, 51.0, 0.89, "grid"),
    fidelity_row("b", 0.3, 51.0, 0.8, "grid"),
    fidelity_row("c", 0.15, 41.0, 0.9, "grid"),
    fidelity_row("d", 0.1, 31.0, 0.9, "grid"),
]
FIDELITY = {
    "device": "H100",
    "settings": {"captions": 64, "steps": 25, "dtype": "bfloat16"},
    "rows": FIDELITY_ROWS,
}


@pytest.fixture
def written(tmp_path, monkeypatch, capsys):
    """Run the command on a copy of the project's README: the text then, and what it printed."""
    folder = tmp_path / "docs"
    folder.mkdir()
    copy = tmp_path / "README.md"
    copy.write_text((ROOT / "kernels" / "README.md").read_text())
    explained = folder / "how-it-works.md"
    marks = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in ("passes", "picture", "parts", "errors"))
    explained.write_text(f"before\n{marks}")
    models = folder / "models.md"
    models.write_text("<!-- offload -->\n<!-- /offload -->\n")
    plugins = folder / "plugins.md"
    plugins.write_text(
        "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in ("layers", "layers-vllm-omni", "servers"))
    )
    tuning = folder / "tuning.md"
    tuning.write_text("<!-- few-steps -->\n<!-- /few-steps -->\n")
    (folder / "demo_model").mkdir()

    def call(**results):
        for name, result in results.items():
            (folder / f"{name}.json").write_text(json.dumps(result))
        where = [
            "--readme",
            str(copy),
            "--explained",
            str(explained),
            "--models",
            str(models),
            "--plugins",
            str(plugins),
            "--tuning",
            str(tuning),
            "--spot",
            str(folder / "spot.md"),
            "--api",
            str(folder / "api.md"),
            "--results",
            str(folder),
        ]
        monkeypatch.setattr(sys, "argv", ["readme", *where])
        readme.main()
        return copy.read_text(), capsys.readouterr().out, folder

    return call


def test_sections_are_written_from_their_files(written):
    models = {"device": "H100", "torch": "2.11", "diffusers": "0.42", "rows": model_rows("m", 1) + model_rows("n", 2)}
    run = {"model": "m", "config": "paper", "density": None, "attention": "fa3", "complete": True, "steps": 50}
    run |= {"seconds": 536.5, "device": "H100", "rows": [], "compile": False}
    kinds = {"dense": [20.0, 20.0], "search": [21.0, 14.0], "sparse": [8.0]}
    rows = [{"kind": kind, "seconds": s} for kind, seconds in kinds.items() for s in seconds]
    fast = run | {"config": "fast", "density": 0.2, "seconds": 500.0, "rows": rows}
    fast |= {"step_cache": 0.06, "rows": [*rows, *3 * [{"kind": "sparse", "seconds": 0.1, "reused": True}]]}
    fast["report"] = {"dense_steps": 2, "search_steps": 2, "sparse_steps": 46, "cache_bytes": 2 * 10**9}
    run["report"] = {"dense_steps": 10, "search_steps": 2, "sparse_steps": 38, "cache_bytes": 2 * 10**9}
    compiled = {"rows": [row | {"seconds": row.get("seconds", 0) / 2} for row in model_rows("m", 1)]}
    runs = {"denoise": run, "denoise_fast": fast | {"compile": True}}
    text, out, folder = written(
        kernels=KERNELS, models=models, compiled=compiled, fidelity=FIDELITY, **{"candidates-2": FIDELITY}, **runs
    )
    assert "| 8k | block_sparse_attention |  | 128 x 64 | 0.2 |  | 0.600 | 580.5 | 0 |" in text
    assert "Not installed there: fa4." in text
    assert "| dense with W | 2.4 |" in (folder / "how-it-works.md").read_text()
    assert "| dense, FlashAttention-3 | 20.00 | 20.00 |" in text
    assert "| dense, cuDNN | RuntimeError | RuntimeError |" in text
    assert "| sparse, scattered, density 0.1 | 6.00 | 6.00 |" in text
    # 10 * 21 + 22 + 38 * 8 + 16 = 552 seconds of 1000, once and for two guidance branches.
    assert "| the paper's schedule and sparsity, blocks of 128 x 64 | 552 (1.81x) | 1104 (1.81x) |" in text
    assert "| dense, FlashAttention-3 | 1000 (1.00x) | 2000 (1.00x) |" in text
    assert "| preset exact | 1050 (0.95x) | 2100 (0.95x) |" in text and "| preset quality |" in text
    assert "With compiled blocks" in text and "| dense, FlashAttention-3 | 10.00 |" in text
    assert "dense steps with FlashAttention-3: 536 s on one H100" in text
    assert "fast at density 0.2, compiled blocks, dense steps with FlashAttention-3: 500 s on one H100" in text
    assert "MagCache 0.06 skipped 3 of the steps.\nIts dense steps took 20.0 s each, its sparse steps 8.0 s." in text
    # 10 * 20 + 21 + 14 + 38 * 8 = 539 seconds of 1000.
    assert "50 dense steps take 1000 s, 2.00 times as long" in text and "539 s (1.86x)" in text
    assert "| difference | +5.0 % | +5.0 % |" in text
    assert "| paper | 0.200 | 0.900 |" in text
    assert (folder / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert "wrote kernels models fidelity" in out
    again, _, _ = written(fidelity=FIDELITY, **{"candidates-2": FIDELITY})
    assert again == text
    changed, _, _ = written(kernels=KERNELS | {"device": "H200"})
    assert "H200, bfloat16" in changed and "H100, bfloat16, PyTorch" not in changed
    row = {"what": "a call", "before": 201.19, "now": 87.0, "unit": "us"}
    versions = {"device": "H200", "torch": "2.11", "triton": "3.6", "date": "2026-11-28", "before": "abc"}
    text, _, _ = written(changes=versions | {"rows": [row]})
    assert "2026-11-28. Before: commit abc." in text and "| a call | 201.19 | 87 | us |" in text
    rows = [{"shape": "8k", "data": "normal", "block": None} | row for row in EIGHT]
    text, _, _ = written(eight=versions | {"rows": rows})
    assert "| 8k | normal | dense | 0.20 % | 3.80 % |" in text
    assert "| 8k | normal | dense | 40.0 (1.00x) | 20.0 (0.50x) |" in text


def field_row(method, work, psnr):
    lost = {"recall": 0.7, "uneven": 40 / psnr**2, "error": 0.1, "shared_error": 0.09, "private_error": 0.04}
    row = {"name": f"{method}, {work}", "method": method, "setting": f"{work}", "group": "field", "router": 0.01}
    row |= {"psnr": [psnr - 1, psnr + 1], "density": [0.2, 0.2], "work": [work, work]}
    row |= {"by_layer": {"private_error": [0.1] * 8 + [0.3, 0.1]}, "lost": lost}
    by_clip = {name: [value, value] for name, value in lost.items()}
    return row | {"by_clip": by_clip, "spectrum": {"error": [0.6, 0.3, 0.1], "dense": [0.5, 0.3, 0.2]}}


def test_other_methods_are_set_beside_ours(written):
    rows = [field_row(field.OURS[0], work, 80 * work) for work in (0.3, 0.4, 0.5)]
    rows += [field_row("peer", 0.35, 20.0), field_row("LoSA", "mass 0.8", 30.0) | {"work": [0.4, 0.4]}]
    settings = {"captions": 2, "steps": 25, "dtype": "bfloat16"}
    missed = {"by_head": {"exact": [{"layer": 8, "head": 2, "starved": 0.1}]}, "density": 0.2}
    place = {"step": 5, "branch": 0, "layer": 8, "clip": 0, "head": 2, "query": 0, "key": 0}
    missed["example"] = {"place": place, "query_mass": [0.9], "row_mass": [0.5], "row_score": [0.1], "tokens": [[1.0]]}
    missed |= {"settings": settings | {"captions": 1}, "lost": {row["name"]: row.pop("lost") for row in rows}}
    measured = {"device": "H200", "settings": settings, "rows": rows}
    text, _, folder = written(**{"field": measured, "field-16": measured, "missed": missed})
    assert "| peer, 0.35 | 0.20 | 0.700 | 0.010 | 0.35 | 20.0 | 19.0 | +8.0 (+8.0 to +8.0) | +8.0 | 100 % |" in text
    explained = (folder / "how-it-works.md").read_text()
    assert "| how unevenly a head's queries lose mass | 1.00 |" in explained
    assert "| LoSA, mass 0.8 | 0.30 | 0.10 | 30.0 |" in explained
    for name in ("field", "missed", "unevenness", "errors"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_long_models_rows_are_compared_at_the_same_cost(written):
    def row(name, density, clips, *groups, **config):
        settings = {"selection": "marginal_mass", "warmup": 3, "warmup_mass": None, "token_order": "raster"} | config
        more = {"config": {"query_block_size": 64, "share_lists": True} | settings, "density_by_search": [density]}
        found = fidelity_row(name, density, sum(clips) / 2, 0.9, *groups, clips=clips, **more)
        return found | {"clip_densities": [density - 0.01, density + 0.01]}

    rows = [
        FIDELITY_ROWS[0],
        row("paper", 0.2, [30.0, 34.0], "paper", warmup=10),
        row("cheap", 0.1, [30.0, 34.0], "grid"),
        row("preset balanced", 0.3, [40.0, 44.0], "presets"),
        row("tiles", 0.2, [34.0, 40.0], "grid", token_order="tile"),
        row("put back", 0.2, [36.0, 42.0], "residual", compensation="residual"),
    ]
    settings = {"captions": 2, "steps": 25, "dtype": "bfloat16", "tokens": 21504, "seed": 7}
    result = {"device": "H200", "settings": settings, "rows": rows}
    text, _, _ = written(**{"long-21504": result, "unseen-21504": result})
    assert text.count("| preset balanced | 0.300 ± 0.014 |") == 2
    assert "Nothing was chosen on these captions and their noise (`--seed 7`)" in text
    assert (
        "| put back | 0.200 ± 0.014 | 0.39 | 0.39 | 39.0 (36.0 to 42.0) | 90.0 % | +1.9 dB (+0.9 to +2.9) |  |" in text
    ), "beside what costs as much with the adding of residuals"
    assert "| tiles | 0.200 ± 0.014 | 0.39 | 0.39 | 37.0 (34.0 to 40.0) | 90.0 % | +0.0 dB (-1.0 to +1.0) |  |" in text
    assert "| preset balanced | 0.300 ± 0.014 | 0.46 | 0.46 | 42.0 (40.0 to 44.0) | 90.0 % |  | `balanced` |" in text


def test_where_in_the_denoising_picture_is_lost_stands_beside_the_noise_of_those_steps(written):
    row = fidelity_row("sparse in steps 40 to 49 alone", 0.2, 35.0, 0.9, "parts", clips=[34.0, 36.0])
    short = FIDELITY | {"rows": [*FIDELITY_ROWS, row]}
    _, _, folder = written(fidelity=short)
    told = (folder / "how-it-works.md").read_text()
    assert "| 40 to 49 | 0.38 | 35.0 (34.0 to 36.0) |" in told and "25 denoising steps, bfloat16, on one H100" in told
    long = FIDELITY | {"rows": [row | {"psnr": 30.0}], "settings": FIDELITY["settings"] | {"tokens": 9216}}
    assert "| 40 to 49 | 0.38 | 35.0 (34.0 to 36.0) | 0.55 | 30.0 (34.0 to 36.0) |" in parts.table([long, short])


def test_the_noise_that_the_demo_models_take_away_is_their_schedulers():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=LENGTHS["middle"].shift)
    scheduler.set_timesteps(25)
    assert parts.noise(LENGTHS["middle"].tokens, 25) == pytest.approx(scheduler.sigmas.tolist(), abs=1e-5)


def test_schedules_of_few_steps_stand_side_by_side(written):
    _, _, folder = written()
    row = {"name": "a search in the first step alone", "mass": 0.9, "work": 0.5, "psnr": 43.2, "psnr_worst": 30.4}
    head = {"date": "2026-11-29", "device": "H200", "settings": {"captions": 2, "mass": [0.9, 0.8]}}
    results = {steps: head | {"rows": rows} for steps, rows in (("8", [row, row | {"mass": 0.8}]), ("4", []))}
    (folder / "demo_model" / "few_steps.json").write_text(json.dumps(results))
    written()
    assert (
        "| **a search in the first step alone (`few_steps`)** | 0.50 | 43.2 (30) |  |  |"
        in (folder / "tuning.md").read_text()
    )


def test_nothing_is_changed_without_files(written):
    text, out, _ = written()
    assert text == (ROOT / "kernels" / "README.md").read_text()
    assert "wrote" in out


def chosen_of(*sets):
    return {preset: row["name"] for preset, row in choose_presets(on_all(list(sets))).items()}


def test_presets_have_the_least_work_that_keeps_their_promise():
    # b does less than a, but loses too many right answers.
    assert chosen_of(FIDELITY_ROWS) == {"quality": "a", "balanced": "c", "fast": "d"}
    assert attention_work(FIDELITY_ROWS[0]) == 1
    assert attention_work(FIDELITY_ROWS[-1]) == pytest.approx(0.32)


def test_a_promise_holds_on_all_sets_of_captions_and_beyond_the_spread_of_clips():
    def cheap(psnr, clips):
        return fidelity_row("cheap", 0.05, psnr, 0.9, "grid", clips=clips)

    def with_cheap(*sets):
        return chosen_of(*([*FIDELITY_ROWS, cheap(41.0, clips)] for clips in sets))

    assert with_cheap([41.0, 41.0], [41.0, 41.0])["balanced"] == "cheap"
    assert with_cheap([41.0, 41.0], [38.0, 38.0])["balanced"] == "c", "the second set has less"
    assert with_cheap([41.0, 41.0], [41.0, 41.0], [36.0, 36.0])["balanced"] == "c", "the third set has less"
    assert with_cheap([60.0, 22.0], [60.0, 22.0])["balanced"] == "c", "other clips may have a lower mean"
    assert chosen_of([*FIDELITY_ROWS, cheap(41.0, [41.0, 41.0])], FIDELITY_ROWS)["balanced"] == "c", "never tried there"
    changed = cheap(41.0, [41.0, 41.0]) | {"config": {"mass": 0.8}}
    both = [*FIDELITY_ROWS, cheap(41.0, [41.0, 41.0])], [*FIDELITY_ROWS, changed]
    assert chosen_of(*both)["balanced"] == "c", "measured there with other settings"


def test_whether_a_promise_holds_on_captions_that_nothing_was_chosen_on_is_told():
    rows = [
        FIDELITY_ROWS[0],
        fidelity_row("paper", 0.2, 30.0, 0.9, "paper", clips=[20.0, 40.0]),
        fidelity_row("preset balanced", 0.4, 39.0, 0.9, "presets", clips=[36.0, 42.0]),
        fidelity_row("preset fast", 0.1, 31.0, 0.9, "presets", clips=[21.0, 41.0]),
    ]
    told = promise_table(rows)
    assert "| `balanced` | 40 dB | 0.40 | 0.53 | 39.0 (36.0 to 42.0) | -1.0 (-4.0 to +2.0) | 36.0 | 90.0 % |" in told
    assert "the paper's | 0.10 | 0.32 | 31.0 (21.0 to 41.0) | +1.0 (+1.0 to +1.0) | 21.0 |" in told
    assert "| paper |  | 0.20 |" in told and "quality" not in told


def test_densities_are_those_of_the_longest_clips_that_have_all_presets():
    def result(density, *names, **settings):
        return {"settings": settings, "rows": [fidelity_row(f"preset {n}", density, 0, 1, "presets") for n in names]}

    results = [
        result(0.4, "fast", "quality"),
        result(0.3, "fast", "quality", tokens=9216),
        result(0.2, "fast", tokens=9),
    ]
    assert longest_densities(results) == (9216, {"fast": [0.3, 0.3], "quality": [0.3, 0.3]})
    assert longest_densities(results[:1])[0] == 2304
    assert longest_densities([]) == (2304, {})


def test_fast_is_compared_with_the_papers_settings_clip_by_clip():
    paper = fidelity_row("paper", 0.2, 30.0, 0.9, "paper", clips=[20.0, 40.0])
    rows = [FIDELITY_ROWS[0], paper, fidelity_row("dear", 0.3, 45.0, 0.9, "grid")]
    closer = fidelity_row("closer", 0.1, 30.5, 0.9, "grid", clips=[20.5, 40.5])
    uneven = fidelity_row("uneven", 0.1, 33.0, 0.9, "grid", clips=[50.0, 16.0])
    assert chosen_of([*rows, closer])["fast"] == "closer"
    assert chosen_of([*rows, uneven])["fast"] == "dear"


def test_all_sets_and_the_interval_are_told():
    again = [row | {"psnr": 32.0, "clips": [31.0, 33.0]} if row["name"] == "d" else row for row in FIDELITY_ROWS]
    line = next(line for line in sets_table(on_all([FIDELITY_ROWS, again])).splitlines() if line.startswith("| d "))
    assert line == "| d | 0.100 | 0.32 | 0.32 | 31.5 (31.0 to 32.5) | 31.0, 32.0 | 31.0 | 90.0 % |"


def test_blocks_of_64_queries_cost_what_their_neighbours_do_not_keep():
    wide = fidelity_row("wide", 0.21, 31.0, 0.9, "grid")
    alone = fidelity_row("alone", 0.2, 31.0, 0.9, "grid", shared_tiles=0.5)
    alike = alone | {"name": "alike", "shared_tiles": 1.0}
    assert attention_work(alone) == attention_work(alike) < attention_work(wide)
    for row, best in ((alone, "wide"), (alike, "alike")):
        assert chosen_of([*FIDELITY_ROWS[:2], wide, row])["fast"] == best
    preset = alone | {"name": "preset fast", "groups": ["presets"]}
    assert preset_densities([preset]) == {"fast": [pytest.approx(0.2 * (1 + APART / 2))] * 2}
    measured = json.loads((ROOT / "docs" / "kernels" / "changes-pairs.json").read_text())
    assert apart(measured["pairs"]) == pytest.approx(APART, abs=0.01)


def test_unseen_clips_are_compared_one_by_one_with_a_line_at_the_same_work():
    def row(name, method, density, clips, *groups, **more):
        return fidelity_row(name, density, 0.0, 0.9, *groups, method=method, clips=clips, **more)

    line = [row("low", unseen.OURS, 0.2, [30.0, 40.0], "equal work"), row("high", unseen.OURS, 0.4, [40.0, 42.0])]
    # Half-way between them the line has 35 and 41 dB.
    other = row("other", "top-k", 0.3, [34.0, 43.0], "equal work")
    assert unseen.gains(other, line) == pytest.approx([-1.0, 2.0])
    assert unseen.gains(row("dense", "top-k", 0.5, [1.0, 1.0]), line) is None
    told = unseen.table([*line, other])
    assert (
        "| other | 0.30 | 0.46 | 0.46 | 38.5 (34.0 to 43.0) | 34.0 | 90.0 % | +0.5 dB (-1.0 to +2.0) | 35.0 | 50 % |"
        in told
    )


def test_compensation_is_compared_at_equal_work_and_with_the_same_setting():
    def row(value, density, clips, ending=""):
        method = f"mass{ending}"
        return fidelity_row(f"mass {value}{ending}", density, 0.0, 0.9, "compensation", method=method, clips=clips)

    plain = [row(0.8, 0.2, [30.0, 40.0]), row(0.9, 0.4, [40.0, 42.0])]
    told = compensation.table([*plain, row(0.8, 0.3, [39.0, 43.0], ", residual")])
    assert (
        "| mass 0.8 | 0.30 | 0.46 | 41.0 (39.0 to 43.0) | 39.0 | 90.0 % | 0.39, 35.0 dB | +3.0 dB (+2.0 to +4.0) "
        "| 35.0 | 100 % |" in told
    )
    assert "| mass 0.8 | 0.60 |" in (told := compensation.table([*plain, row(0.8, 0.6, [50.0, 50.0], ", residual")]))
    assert "beyond its points" in told and told.count("\n") == 2


def test_what_the_rule_would_choose_with_compensation_is_told_and_chosen_by_nobody(written):
    def of_set(seed, rows):
        return FIDELITY | {"settings": FIDELITY["settings"] | {"seed": seed}, "rows": rows}

    config = FIDELITY_ROWS[1]["config"] | {"compensation": "residual"}
    put_back = [
        fidelity_row("cheaper", 0.1, 45.0, 0.9, "compensation", config=config),
        fidelity_row("too far", 0.05, 35.0, 0.9, "compensation", config=config),
    ]
    sets = [{"settings": {"seed": seed}, "rows": put_back} for seed in (1, 2)]
    files = {"fidelity": of_set(1, FIDELITY_ROWS), "candidates-2": of_set(2, FIDELITY_ROWS)}
    text, _, _ = written(**files, **{"compensation-presets": {"sets": sets}})
    _, told = text.split("get back what their search saw them lose:")
    # Of dense attention 0.2 + 0.05 + 0.07, and 0.0025 in 18 of 25 steps.
    assert "| cheaper | 0.100 | 0.32 | 0.32 | 45.0 (45.0 to 45.0) | 45.0, 45.0 | 45.0 | 90.0 % |" in told
    assert "- `balanced`: cheaper, at a cost of 0.32" in told
    assert cost(put_back[0]) == pytest.approx(0.32 + 0.0025 * 18 / 25)
    assert choose_presets(on_all([FIDELITY_ROWS, FIDELITY_ROWS]))["balanced"]["name"] == "c"


def test_errors_and_how_long_they_last_are_tables_of_the_explanation(written):
    by_clip = {"error": [0.2, 0.1], "shared_error": [0.1, 0.1], "private_error": [0.1, 0.1], "stretch": [0.02, 0.04]}
    row = {"name": "plain", "group": "field", "work": [0.4, 0.5], "psnr": [30.0, 32.0], "by_clip": by_clip}
    lasts = {"lasts": [1 - 0.05 * step for step in range(13)]}
    kept = {"setting": "mass 0.9", "search": 5, "shared by 64": lasts, "private": lasts}
    head = {key: FIDELITY[key] for key in ("device", "settings")} | {"date": "2026-11-29"}
    _, _, folder = written(**{"field-errors": head | {"rows": [row]}, "lasting": head | {"rows": [kept]}})
    told = (folder / "how-it-works.md").read_text()
    assert "| plain | 0.45 | 0.150 | 0.100 | 0.100 | +3.0 % | 31.0 |" in told
    assert "| 5 | 75 % | 75 % |\n| 10 | 50 % | 50 % |\n| 12 | 40 % | 40 % |" in told and "in step 5:" in told


def test_the_presets_are_those_that_were_measured_to_be_best():
    folder = ROOT / "docs" / "kernels"
    files = folder / "fidelity.json", *sorted(folder.glob("candidates-*.json"))
    chosen = choose_presets(on_all([json.loads(file.read_text())["rows"] for file in files]))
    assert list(chosen) == ["quality", "balanced", "fast"]
    usual = AdaSpaConfig().to_dict()
    for preset, row in chosen.items():
        # All of the demo model's sequences are short ones.
        config = json.loads(json.dumps(AdaSpaConfig.preset(preset, skip_short=False).to_dict()))
        # Rows from before policies had settings of their own hold those of the others, too; a field that came later
        # was then as it is by default.
        assert config == {name: row["config"].get(name, usual.get(name)) for name in config}, row["name"]


def test_a_request_beside_sub_block_is_a_table_of_the_plugins_page(written):
    names = ("dense_ms", "search_ms", "sparse_ms", "router_ms", "kernel_ms", "all_dense_s", "ours_s", "sub_block_s")
    row = dict.fromkeys(names, 2.0) | {"shape": "5s", "router_of": "SGLang 1", "ratio_without_dense_steps": 0.741}
    _, _, folder = written(servers={"device": "GPU", "torch": "2", "rows": [row]})
    told = (folder / "plugins.md").read_text()
    assert "Router: SGLang 1." in told and "| 5s |" + " 2 |" * 8 + " 0.74 |" in told


def test_a_servers_own_layers_are_a_table_of_the_plugins_page(written):
    ms = dict.fromkeys(("dense", "first_search", "later_search", "sparse", "library"), 2.0)
    row = {"shape": "5s", "ms": ms, "all_dense_s": 3, "ours_s": 4}
    beside = row | {"ms": ms | {"sub_block": 5.0, "router": 6.0}, "sub_block_s": 7, "ratio_without_dense_steps": 0.741}
    result = {"device": "GPU", "torch": "2", "dense": "cudnn"}
    results = {
        "layers": {**result, "server": "SGLang 1", "rows": [beside]},
        "layers-vllm-omni": {**result, "server": "vLLM-Omni 1", "rows": [row]},
    }
    _, _, folder = written(**results)
    told = (folder / "plugins.md").read_text()
    assert "One GPU, SGLang 1" in told and "| 5s |" + " 2 |" * 5 + " 5 | 6 | 3 | 4 | 7 | 0.74 |" in told
    assert "One GPU, vLLM-Omni 1" in told and "| 5s |" + " 2 |" * 5 + " 3 | 4 |\n" in told


def test_jobs_by_group_offload_are_a_table_of_the_models_page(written):
    steps = [("dense", 8.0), ("search", 7.0), ("sparse", 4.24), ("sparse", 4.16)]
    rows = [
        {"part": "load", "weights_bytes": 28.6e9, "host_peak_bytes": 30.6e9},
        {"part": "preflight", "predicted_bytes": {"denoising": 6.8e9, "decoding": 9.9e9, "tiled": 2.7e9}},
        *({"part": "step", "kind": kind, "seconds": took, "peak_bytes": 6.7e9} for kind, took in steps),
        {"part": "denoised", "host_peak_bytes": 30.9e9},
        {"part": "decode", "tiled": True, "predicted_bytes": 2.7e9, "peak_bytes": 2.8e9, "seconds": 5.1},
        {"part": "decode", "tiled": False, "predicted_bytes": 9.9e9, "peak_bytes": 10e9, "seconds": 3.2},
    ]
    result = {"device": "GPU", "torch": "2", "limit_bytes": 24 * 2**30, "model": "wan", "size": "832x480, 81 frames"}
    other = {**result, "rows": rows, "model": "hunyuan", "note": "Not alone."}
    _, _, folder = written(offload={**result, "rows": rows}, **{"offload-other": other})
    told = (folder / "models.md").read_text()
    assert "One GPU, PyTorch 2 limited to 24 GiB" in told and "|  | hunyuan | wan |" in told
    assert "hunyuan: Not alone." in told
    for name, cell in {
        "the process's host memory at most, GB": "30.9",
        "GPU memory, denoising, GB": "6.7 (6.8)",
        "GPU memory, decoding in tiles, GB": "2.8 (2.7)",
        "GPU memory, decoding as a whole, GB": "10.0 (9.9)",
        "sparse step, seconds": "4.2",
        "decoding in tiles, as a whole, seconds": "5.1, 3.2",
    }.items():
        assert f"| {name} | {cell} | {cell} |" in told


def test_videos_in_eight_bits_stand_beside_those_in_bfloat16():
    rows = [
        {"setting": "30 dB", "eight_bits": kind, "variant": "price 2", "density": 0.23, "to_dense": {"psnr": psnr}}
        for kind, psnr in (("none", 30.301), ("sparse", 30.296), ("sparse and dense", 30.1))
    ]
    section = readme.videos_eight_section({"captions": 64, "steps": 25, "device": "H200", "date": "now", "rows": rows})
    assert "| setting | density | nothing | sparse | sparse and dense |" in section
    assert section.endswith("| price 2 | 0.23 | 30.30 | 30.30 | 30.10 |\n")


def test_steps_of_short_videos_stand_beside_their_bound(written):
    ms = {"dense_ms": 100.0, "sparse_ms": 70.4, "free_ms": 60.0}
    row = {"tokens": 6144, "density": 0.198} | ms | {name.replace("ms", "host_ms"): 50.2 for name in ms}
    head = {"date": "2026-11-29", "device": "H200", "torch": "2.11", "diffusers": "0.42", "rows": [row]}
    text, _, _ = written(short=head)
    assert "| 6,144 | 0.20 | 100 (50) | 70 (50) | 60 (50) | 0.70 | 0.60 |" in text


def test_a_readme_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="must have the lines <!-- models -->"):
        markdown.replaced("nothing", "models", "")
