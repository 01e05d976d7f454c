"""The benchmark of whole models: its arithmetic, and a run of it with tiny models."""

import json
import math
import os
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from adaspa import AdaSpaConfig
from adaspa_jobs.settings import get_settings
from adaspa_worker.memory_limit import memory_limit
from torch.autograd import DeviceType

from benchmarks.models import (
    adapters,
    blocks,
    denoise,
    encoders,
    idle,
    linears,
    linears_tables,
    memory,
    offload,
    paper_steps,
    peaks,
    short,
    steps,
    whole_step,
)
from benchmarks.models.block_models import BLOCK_MODELS
from benchmarks.models.full_models import MODELS
from benchmarks.models.tables import blocks_table, denoise_line
from benchmarks.models.totals import StepSeconds, step_kinds, total_seconds

SECONDS = StepSeconds(
    dense=20.0,
    fused_search=22.0,
    cached_search=16.0,
    searched_at=0.2,
    sparse={0.1: 6.0, 0.2: 8.0, 0.4: 12.0},
    sampled_search=10.0,
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the main of a module with tiny models: what it wrote."""

    def call(module, *arguments):
        output = tmp_path / "result.json"
        monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--output", str(output), *arguments])
        module.main()
        return json.loads(output.read_text())

    return call


def test_the_kinds_of_the_papers_steps():
    kinds = step_kinds(AdaSpaConfig.paper(), 50)
    assert Counter(kinds) == {"dense": 10, "fused_search": 1, "cached_search": 1, "sparse": 38}
    assert kinds[9:12] == ["dense", "fused_search", "sparse"]
    assert kinds[30] == "cached_search"
    assert Counter(step_kinds(AdaSpaConfig.preset("exact"), 50)) == {"dense": 50}


def test_totals_by_the_schedule():
    paper = AdaSpaConfig.paper()
    assert total_seconds(AdaSpaConfig.preset("exact"), SECONDS, 1.0) == 50 * 20
    assert total_seconds(paper, SECONDS, 0.2) == 10 * 20 + 22 + 38 * 8 + 16
    # In eight bits, the first search is a dense pass and a scoring, too.
    in_two_passes = replace(SECONDS, fused_search=None)
    assert total_seconds(paper, in_two_passes, 0.2) == 10 * 20 + (20 + 8) + 38 * 8 + 16
    # 19 sparse steps after each search; the scoring pass of the second one takes 8 s, its attention 12.
    assert total_seconds(paper, SECONDS, [0.2, 0.4]) == 10 * 20 + 22 + 19 * 8 + (8 + 12) + 19 * 12
    assert total_seconds(replace(paper, query_stride=4), SECONDS, 0.2) == total_seconds(paper, SECONDS, 0.2) - 6
    at_once = replace(paper, warmup=0, searches=(0,))
    # A dense pass of 20 s, and a scoring as that of a later search: 16 - 8, or 10 - 8 with every fourth row.
    assert total_seconds(at_once, SECONDS, 0.1) == 20 + 8 + 49 * 6
    assert total_seconds(replace(at_once, query_stride=4), SECONDS, 0.1) == 20 + 2 + 49 * 6
    few = replace(paper, few_steps=8, query_stride=4, dense_tail=5)
    assert total_seconds(few, SECONDS, 0.2, steps=8) == (20 + 2) + 6 * 8 + 20
    partly = replace(paper, warmup_mass=0.99)
    assert step_kinds(partly, 50)[:11] == ["first_search", *["sparse"] * 9, "cached_search"]
    with pytest.raises(ValueError, match=r"^density must be one number, or one for each of 2 searches"):
        total_seconds(paper, SECONDS, [0.2])


def test_seconds_between_and_beyond_the_densities_measured():
    assert SECONDS.sparse_at(0.15) == pytest.approx(7)
    assert SECONDS.sparse_at(0.3) == pytest.approx(10)
    assert SECONDS.sparse_at(0.5) == pytest.approx(14)
    assert SECONDS.sparse_at(0.05) == pytest.approx(5)


def test_a_run_that_was_cut_serves_the_schedules_it_is_enough_for():
    cut = replace(SECONDS, sparse={0.2: 8.0}, sampled_search=None)
    paper = AdaSpaConfig.paper()
    assert total_seconds(paper, cut, 0.2046) == total_seconds(paper, SECONDS, 0.2)
    with pytest.raises(ValueError, match=r"^density must be 0.2, the only one measured"):
        total_seconds(paper, cut, 0.4)
    with pytest.raises(ValueError, match=r"^sampled_search must have been measured for query_stride=4"):
        total_seconds(replace(paper, query_stride=4), cut, 0.2)


def test_every_model_has_the_tokens_and_parameters_of_the_published_one():
    wanted = {
        "hunyuan-video-13b-720p-129f": (12.82, 33 * 45 * 80),
        "wan2.1-14b-720p-81f": (14.29, 21 * 45 * 80),
        "wan2.1-1.3b-480p-81f": (1.42, 21 * 30 * 52),
        "cogvideox1.5-5b-720p-81f": (5.57, 11 * 48 * 85),
    }
    meta = torch.device("meta")
    for name, model in MODELS.items():
        transformer = model.build(meta, torch.bfloat16)
        billions, tokens = wanted[name]
        assert sum(parameter.numel() for parameter in transformer.parameters()) / 1e9 == pytest.approx(billions, 0.01)
        assert torch.Size(model.latents).numel() == tokens * 16 * 4 * model.latents[0] * (2 if "cog" in name else 1)


@pytest.mark.parametrize("name", ["hunyuan-video-13b-720p-129f", "cogvideox1.5-5b-720p-81f"])
def test_a_run_with_tiny_models_gives_what_the_totals_need(run, name):
    result = run(steps, "--models", name)
    assert result["complete"]
    assert not [row for row in result["rows"] if "error" in row]
    assert {row["model"] for row in result["rows"]} == {name}
    seconds = StepSeconds.of(result["rows"])
    # The seconds of so small a model are noise, but they are all there.
    assert math.isfinite(total_seconds(AdaSpaConfig.paper(), seconds, 0.3))
    assert {row["pattern"] for row in result["rows"] if row["step"] == "sparse"} == {"searched", "scattered", "skewed"}
    assert all(row["cache_bytes"] > 0 for row in result["rows"] if row["step"] == "fused_search")


def test_every_model_measured_by_blocks_has_the_published_parameters():
    wanted = {"minimax-h3": 33.1, "wan2.2-a14b": 14.29, "wan2.2-ti2v": 5.0, "hunyuan-video1.5": 8.33, "ltx2": 18.88}
    tokens = {"minimax-h3-33b-768p-5s": 37_296, "minimax-h3-33b-768p-10s": 72_576, "minimax-h3-33b-768p-15s": 107_856}
    for name, model in BLOCK_MODELS.items():
        transformer = model.build(torch.device("meta"), torch.bfloat16)
        billions = sum(parameter.numel() for parameter in transformer.parameters()) / 1e9
        assert billions == pytest.approx(next(b for start, b in wanted.items() if name.startswith(start)), 0.01)
    for name, wanted_tokens in tokens.items():
        assert math.prod(BLOCK_MODELS[name].latents[2:]) // 4 == wanted_tokens


def test_a_forward_reckoned_from_two_blocks_has_the_seconds_of_all(run):
    """All kinds of rows of the sequence: MiniMax-H3's, packed, are those that differ most from other models'."""
    name = "minimax-h3-33b-768p-5s"
    result = run(blocks, "--models", name)
    assert result["complete"]
    size, *rows = result["rows"]
    assert (size["layers"], size["video_tokens"]) == (50, 448)
    assert not [row for row in rows if "error" in row]
    assert all(row["seconds"] > 50 * row["block_seconds"] > 0 for row in rows)
    header, _, line = blocks_table(result["rows"]).splitlines()
    assert f"| {name} | 448 |" in line
    cells = ([cell.strip() for cell in each.strip("|").split("|")] for each in (header, line))
    totals = dict(zip(*cells, strict=True))
    assert all(float(totals[f"{steps} steps, AdaSpa"]) > 0 for steps in (50, 8, 4))


def test_a_compiled_step_is_timed_by_its_linear_layers(run):
    result = run(linears, "--models", "hunyuan-video-13b-720p-129f")
    rows = [row for row in result["rows"] if row.get("linears") == "bfloat16"]
    assert {row["step"] for row in rows} == {"dense", "sparse", *steps.WALK_STEPS}
    assert all(row["seconds"] > 3 * row["block_seconds"] > 0 for row in rows), "one block stands for two of its kind"
    stopped = {row["part"]: row["error"] for row in result["rows"] if row["step"] == "stopped"}
    assert set(stopped) == {"error"}, "what comes to e4m3"
    assert all("needs a GPU that multiplies in e4m3" in error for error in stopped.values())
    assert not result["complete"]


def test_kernels_are_attention_linear_layers_or_the_rest():
    named = {
        "attention": ["void cutlass::device_kernel<flash::FlashAttnFwdSm90<...>>", "block_sparse_kernel"],
        "linears": ["nvjet_sm90_tst_128x256_64x4_v_bz_TNN", "void cutlass::device_kernel<cutlass::gemm::kernel<e4m3>>"],
        "rest": ["triton_red_fused__to_copy_addmm_adaspa_layer_attention_3", "rotary_kernel", "CatArrayBatchedCopy"],
    }
    assert {part: [linears.part_of(name) for name in names] for part, names in named.items()} == {
        part: [part] * len(names) for part, names in named.items()
    }


def test_totals_take_the_rows_of_the_way_that_they_are_of():
    def rows(kind, precision="full", compiled=True, **seconds):
        told = {"model": "one", "calls": 1, "linears": kind, "dense_precision": precision, "compiled": compiled}
        patterns = {"sparse": {"pattern": "scattered", "asked": 0.2}, "dense": {"attention": "fa3"}}
        return [
            told | {"density": 0.2, "step": step, "seconds": value} | patterns.get(step, {})
            for step, value in seconds.items()
        ]

    own = [
        *rows("bfloat16", dense=20, sparse=8, dense_with_lse=21, fused_search=22, cached_search=16),
        *rows("float8", sparse=6, dense_with_lse=19, fused_search=20, cached_search=14),
    ]
    paper = AdaSpaConfig.paper()
    ways = list(linears_tables.WAYS)
    assert linears_tables.total(own, ways[0], paper) is None, "not measured"
    assert linears_tables.total(own, ways[1], paper) == 10 * 21 + 22 + 38 * 8 + 16
    assert linears_tables.total(own, ways[2], paper) == 10 * 19 + 20 + 38 * 6 + 14
    assert linears_tables.total(own, ways[3], paper) is None, "not measured"
    own += rows("float8", "int8_fp8", dense=14, dense_with_lse=15)
    assert linears_tables.total(own, ways[3], paper) == 10 * 15 + 20 + 38 * 6 + 14
    line = linears_tables.total_table(own).splitlines()[2]
    assert line == "| one | paper | 1000 | 552 (1.81x) | 452 (2.21x) | 412 (2.43x) |", (
        "a way that nothing was measured in has no column"
    )
    eight = rows("float8", "int8_fp8", sparse=4, dense_with_lse=16, fused_search=20, cached_search=11)
    all_eight = own + [row | {"sparse_precision": "int8_fp8"} for row in eight]
    assert linears_tables.total(all_eight, ways[3], paper) == 10 * 15 + 20 + 38 * 6 + 14, "as without"
    assert linears_tables.total(own, ways[4], paper) is None, "not measured"
    assert linears_tables.total(all_eight, ways[4], paper) == 10 * 16 + 20 + 38 * 4 + 11
    two_passes = [row | {"step": "two_pass_search"} if row["step"] == "fused_search" else row for row in eight]
    two_passes = own + [row | {"sparse_precision": "int8_fp8"} for row in two_passes]
    assert linears_tables.total(two_passes, ways[4], paper) == 10 * 16 + (16 + 11 - 4) + 38 * 4 + 11
    small = {"linears": "float8", "dense_precision": "full", "compiled": True, "step": "sparse", "query_block": 64}
    small |= {"model": "one", "pattern": "scattered"}
    own += [small | {"density": density, "asked": density, "seconds": s} for density, s in ((0.2, 7), (0.4, 11))]
    assert linears_tables.total(own, ways[3], paper) == 10 * 15 + 20 + 38 * 6 + 14, "in blocks of 128"
    density = 0.2  # the preset `quality` has the paper's schedule
    cached = {"attention": "quality", "cache": "mag", "psnr": 40.0, "attention_calls": {"sparse": 75, "skipped": 25}}
    videos = [cached | {"linears": "bfloat16", "psnr": 41}, cached | {"linears": "float8"}]
    # The later search scores every fourth row at 12 - 6 seconds; a quarter of 50 steps is skipped.
    own += rows("float8", sampled_search=12)
    table = linears_tables.preset_table(own, videos, {"quality": [density, density]})
    seconds = 10 * 15 + 20 + 38 * 7 + 6 + 7 - 12.5 * 7
    assert table.splitlines()[2:] == [f"| quality | mag | 25 % | 41.0 | 40.0 | {1000 / seconds:.2f}x |"]
    eight_bits = {"dense_precision": "int8_fp8", "sparse_precision": "int8_fp8", "seconds": 1}
    in_eight = [row | eight_bits for row in own if row.get("query_block") == 64]
    assert linears_tables.preset_table(own + in_eight, videos, {"quality": [density, density]}) == table, (
        "sparse attention in eight bits is not the preset's"
    )
    paper = [cached | {"attention": "paper-128", "linears": "float8"}]
    table = linears_tables.preset_table(all_eight, paper, {})
    seconds = 10 * 16 + 20 + 38 * 4 + 11 - 12.5 * 4
    assert table.splitlines()[2:] == [f"| paper-128 | mag | 25 % |  | 40.0 | {1000 / seconds:.2f}x |"]
    assert linears_tables.preset_table(own, paper, {}).endswith("| 40.0 |  |"), "without sparse attention in eight bits"


def test_the_sentence_on_presets_says_their_precision_and_an_earlier_price():
    fast = {"attention": "fast", "linears": "float8", "sparse_precision": "full", "price": 3.3}
    paper = {"attention": "paper-128", "linears": "float8", "sparse_precision": "int8_fp8"}
    text = linears_tables.presets_sentence([fast, paper])
    assert "of `fast` the dense one alone" in text and "earlier price of 3.3, its speed of the present 2.8." in text
    text = linears_tables.presets_sentence([fast | {"sparse_precision": "int8_fp8", "price": 2.8}, paper])
    assert text == "With everything on: linear layers in e4m3 and attention in eight bits."


def test_the_papers_steps_run_between_two_dense_ones(run):
    rows = run(paper_steps)["rows"]
    kinds = ["dense_with_lse", "two_pass_search", "sparse", "cached_search", "sparse", "two_pass_search", "sparse"]
    assert [row["step"] for row in rows] == ["dense", *kinds, "sparse", "sparse", "dense"]
    eight = [row.get("sparse_precision") == "int8_fp8" for row in rows]
    assert eight == [False, *[True] * len(kinds), False, False, False]
    assert [at for at, row in enumerate(rows) if "compensation" in row] == [6, 7]
    assert all(row["seconds"] > 0 for row in rows)


def test_the_papers_total_is_of_the_rows_with_everything_on():
    eight = {"linears": "float8", "dense_precision": "int8_fp8", "sparse_precision": "int8_fp8", "pattern": "searched"}
    kinds = {"dense_with_lse": 12, "fused_search": 19, "sparse": 4, "cached_search": 13}
    fa3 = {"step": "dense", "attention": "fa3", "linears": "bfloat16", "dense_precision": "full"}
    told = {"step": "sparse", "pattern": "scattered", "linears": "bfloat16", "dense_precision": "full"}
    rows = [
        fa3 | {"seconds": 17},
        *(eight | {"step": step, "density": 0.2, "seconds": seconds} for step, seconds in kinds.items()),
        told
        | {"seconds": 6, "density": 0.2, "groups": {"attention": 3.0}, "ghz": 1.4, "watts": 690.0}
        | {"peak_bytes": 24 * 2**30},
        fa3 | {"seconds": 19},
    ]
    assert linears_tables.paper_total(rows) == (10 * 12 + 19 + 38 * 4 + 13, 50 * 18)
    compensated = eight | {"compensation": "residual", "step": "sparse", "density": 0.2, "seconds": 5}
    assert linears_tables.paper_total([*rows, compensated]) == linears_tables.paper_total(rows)
    table = linears_tables.paper_table([*rows, compensated])
    assert "| sparse, with the residual | e4m3 | eight bits | 5.00 (" in table
    lines = linears_tables.paper_table(rows).splitlines()
    assert lines[4] == "| first search | e4m3 | bf16 | 19.00 (0.95x) |  |  |  |  |", "a fused pass is not in eight bits"
    assert lines[7] == "| sparse | bf16 | bf16 | 6.00 (3.00x) | 3.00 | 1.40 | 690 | 24.0 |"


def test_kernels_of_a_whole_step_are_told_by_what_they_do_and_the_time_between_them(run):
    rows = run(whole_step)["rows"]
    assert [(row["rounding"], row["profiled"]) for row in rows] == [
        (rounding, turn == 2) for turn in range(3) for rounding in ("own", "torchao")
    ]

    def kernel(name, start, end, device=DeviceType.CUDA):
        return SimpleNamespace(name=name, device_type=device, time_range=SimpleNamespace(start=start, end=end))

    found = whole_step.by_group(
        [
            kernel("nvjet_sm90_tst", 5e6, 6e6),
            kernel("attention_kernel", 0, 3e6),
            kernel("aten::mm", 0, 9e6, DeviceType.CPU),
            kernel("void cutlass::device_kernel<flash::FlashAttnFwdSm90<...>>", 7e6, 8e6),
            kernel("triton_red_fused_native_layer_norm_4", 3e6, 4.5e6),
            kernel("nvjet_sm90_tst", 6e6, 7e6),
        ]
    )
    assert found["groups"] == {"attention": 4, "linear layers": 2, "Inductor's, with a norm": 1.5}
    assert found["between"] == 0.5 and found["kernels"][1] == ["nvjet_sm90_tst", 2, 2]


def test_clock_and_power_are_those_of_the_card_that_works(tmp_path, monkeypatch):
    """An nvidia-smi that tells of all cards, unless it is asked about one."""
    os.mkfifo(tmp_path / "told")
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        f"""#!/bin/sh
case "$*" in *--id=GPU-busy*) ;; *) echo "300, 80.0" ;; esac
echo "1400, 690.0"
echo > {tmp_path / "told"}
exec sleep 60
"""
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="busy"))
    with whole_step.clocks(torch.device("cuda")) as found:
        (tmp_path / "told").read_text()  # waits for it
    assert found == {"ghz": 1.4, "watts": 690.0}


def test_a_whole_denoising_of_a_tiny_model(run):
    arguments = ["--model", "wan2.1-1.3b-480p-81f", "--config", "balanced", "--density", "0.3", "--steps", "10"]
    result = run(denoise, *arguments)
    assert result["complete"]
    kinds = ["dense", "search", *8 * ["sparse"]]
    assert [row["kind"] for row in result["rows"]] == kinds
    assert result["report"]["density"] == pytest.approx(0.3, abs=0.05)


def test_dense_steps_come_before_a_denoising_in_eight_bits(run):
    eight = ["--dense-precision", "int8_fp8", "--sparse-precision", "int8_fp8"]
    result = run(denoise, "--config", "short", "--density", "0.3", "--steps", "10", "--dense-steps", "1", *eight)
    assert len(result["dense_rows"]) == 1 and result["complete"]
    assert list(result).index("dense_rows") < list(result).index("report"), (
        "what is cut is not what it is compared with"
    )
    kernels = result["report"]["kinds"]["sparse"]["kernels"]
    assert {kernel["dtype"] for kernel in kernels} == {"int8_fp8"}
    assert "Its dense and sparse attention was in eight bits." in denoise_line(result | {"dense_rows": []})


def test_a_whole_denoising_with_a_step_cache_tells_the_steps_that_it_skipped(run):
    densities = ["--density", "0.3", "--warmup-density", "0.6"]
    result = run(denoise, "--config", "fast", *densities, "--compile", "--step-cache", "0.06")
    skipped = [row["step"] for row in result["rows"] if "reused" in row]
    kinds = result["report"]["kinds"]
    assert kinds["search"]["patterns"] > 0 and 0.3 < result["report"]["density"] < 0.6
    assert result["complete"] and len(skipped) == result["report"]["reused_forwards"] == 22
    assert min(skipped) == 10, "a fifth of the steps is always computed"


def test_peaks_of_the_parts_of_a_job_are_told_with_the_types_of_the_weights(run):
    vaes = ("AutoencoderKLWan", "AutoencoderKLHunyuanVideo15")
    rows = run(memory, "--only", "wan2.1-1.3b-480p-81f", "mochi-10b-480p", *vaes)["rows"]
    steps = [row for row in rows if row["part"] == "transformer" and "peak_bytes" in row]
    assert {row["kept"] for row in steps} >= {"bfloat16", "float8_e4m3fn"}
    assert all(set(row["peak_bytes"]) == {"dense_with_lse", "fused_search", "sparse"} for row in steps)
    assert all(row["kept"] in row["weights"] and row["cache_bytes"] > 0 for row in steps)
    assert [row["kept"] for row in rows if "error" in row] == ["int8"], "torchao is in a folder of its own"
    decoded = [(row["model"], row["tiled"]) for row in rows if row["part"] == "vae"]
    assert decoded == [(vaes[0], False), (vaes[0], True), (vaes[1], True)]


def test_peaks_of_a_whole_model_come_from_a_few_of_its_blocks(run):
    rows = run(peaks, "--models", "hunyuan-video-13b-720p-129f")["rows"]
    walked = {
        precision: [row["step"] for row in rows if row.get("precision") == precision]
        for precision in ("full", "int8_fp8")
    }
    assert walked == {
        "full": ["dense_with_lse", "fused_search", "sparse"],
        "int8_fp8": ["dense_with_lse", "two_pass_search", "sparse"],
    }
    assert rows[0]["step"] == "dense" and all(row["peak_bytes"] is None for row in rows), "not known without a GPU"
    assert rows[-1]["cache_bytes"] > 0
    whole = peaks.peak({"peak_bytes": 20 * 2**30, "cache_bytes": 2**30}, others=10 * 2**30, share=3.0)
    assert whole == {"peak_bytes": 32 * 2**30, "cache_bytes": 3 * 2**30}
    told = {"model": "m", "cache_bytes": 0}
    found = [told | {"step": "dense", "peak_bytes": 30 * 2**30}, told | whole | {"step": "sparse", "precision": "full"}]
    found.append(told | {"step": "sparse", "precision": "int8_fp8", "peak_bytes": 33 * 2**30})
    assert peaks.table(found).splitlines()[-1] == "| m | 30.0 | 32.0 (+6.7 %) | 33.0 (+10.0 %) | 3.22 |"


def test_steps_of_a_short_video_are_timed_beside_free_attention(run):
    (row,) = run(short, "--rounds", "1")["rows"]
    assert (row["tokens"], row["density"], row["kernels"]) == (256, 0.25, ["reference"])
    assert row["sparse_of_dense"] == pytest.approx(row["sparse_ms"] / row["dense_ms"], abs=0.001)
    assert min(row["dense_ms"], row["sparse_ms"], row["free_ms"]) > 0


@pytest.fixture
def limited(monkeypatch):
    """Whatever limit the benchmark sets is forgotten after it."""
    monkeypatch.setenv("ADASPA_WORKER_MEMORY_BYTES", "1")
    caches = get_settings, memory_limit
    for known in caches:
        known.cache_clear()
    yield
    monkeypatch.undo()
    for known in caches:
        known.cache_clear()


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("model", offload.CASES)
def test_a_job_with_its_blocks_in_host_memory_is_measured_beside_what_was_predicted(run, model):
    load, predicted, *steps, denoised, tiled, whole = run(offload, "--model", model)["rows"]
    assert 0 < load["resident_bytes"] <= load["weights_bytes"]
    assert [row["kind"] for row in steps] == ["dense", "search", "sparse", "sparse"]
    assert denoised["density"] < 1 and denoised["host_peak_bytes"] >= load["host_peak_bytes"]
    peaks = predicted["predicted_bytes"]
    for row, kind in ((tiled, "tiled"), (whole, "decoding")):
        assert (row["tiled"], row["frames"]) == (kind == "tiled", offload.QUICK_FRAMES)
        assert row["predicted_bytes"] == peaks[kind]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_group_offload_is_not_measured_without_a_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["offload", "--output", str(tmp_path / "offload.json")])
    with pytest.raises(SystemExit):
        offload.main()
    assert "a GPU is needed" in capsys.readouterr().err


def test_each_text_encoder_is_timed_and_so_are_steps_with_each_step_cache(run):
    assert [row["encoder"] for row in run(encoders)["rows"]] == [each.model for each in encoders.ENCODERS]
    rows = run(memory, "--only", memory.STEP_CACHES)["rows"]
    assert [row["cache"] for row in rows] == [None, *memory.CACHES] and not any("error" in row for row in rows)


def test_adapters_are_switched_and_give_what_they_gave_before(run):
    slots, before, *rows = run(adapters, "--only", "plain")["rows"]
    assert before["forward_seconds"] > 0 and len(slots["file_bytes"]) == 2
    assert [row["adapters"] for row in rows] == list(adapters.WALK) and all(row["as_before"] for row in rows)
    assert [row["adapters"] for row in rows if row["as_without"]] == ["none"]


def test_seconds_between_two_jobs_are_those_between_their_events():
    def job(start, *phases):
        events = [(start + offset, {"phase": phase, "step": step, "steps": 2}) for offset, phase, step in phases]
        rows = [
            (b"%d-0" % when, {b"status": b"in_progress", b"progress": json.dumps(told).encode()})
            for when, told in events
        ]
        return idle.times([*rows, (b"%d-0" % (start + 4100), {b"status": b"completed", b"progress": b""})])

    course = (100, "encoding_prompt", 0), (400, "denoising", 0), (900, "denoising", 1), (1900, "denoising", 2)
    one, other = (
        job(start, (0, "loading", 0), *course, (2000, "decoding", 2), (4000, "uploading", 2)) for start in (0, 5000)
    )
    found = idle.between(one, other)
    assert found.pop("idle") == pytest.approx(3.5)
    told = {"decode_and_encode": 2.1, "store": 0.1, "claim": 1.0, "encode_prompt": 0.3, "denoise": 1.5}
    assert found == pytest.approx(told)
