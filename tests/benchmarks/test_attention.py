"""What the benchmark makes of its rows, and what it says without a GPU or a peer."""

import json
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from adaspa.self_check import Shape

from benchmarks.attention import eight, low_density, servers
from benchmarks.attention.inputs import DEMO_PATTERN, demo_index

ROOT = Path(__file__).parents[2]
ROWS = [
    {"shape": "8k", "op": "fa3", "density": 1.0, "error": "ModuleNotFoundError: No module named 'fa3_fwd_interface'"},
    {"shape": "8k", "op": "sdpa-cudnn", "density": 1.0, "ms": 2.5, "tflops": 600.0},
    {"shape": "8k", "op": "block_sparse_attention", "block": [128, 64], "density": 0.2, "ms": 0.6125, "tflops": 580.5},
]


def run(module, *arguments):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_table_and_a_plot_of_the_rows(tmp_path):
    result = tmp_path / "bench.json"
    result.write_text(json.dumps({"rows": ROWS}))
    done = run("benchmarks.attention.report", result, "--plot", tmp_path / "bench.png")
    assert done.returncode == 0, done.stderr
    assert "| 8k | block_sparse_attention |  | 128 x 64 | 0.2 |  | 0.613 | 580.5 | 0 |" in done.stdout
    assert "No module named 'fa3_fwd_interface'" in done.stdout
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_share_of_the_ideal_in_time_and_at_one_clock():
    dense = {"slots": [(200.0, 1500), (210.0, 1500), (190.0, 1500)]}
    row = {"density": 0.1, "slots": [(25.0, 1200), (20.0, 1300), (30.0, 1100)]}
    assert low_density.shares(row, dense) == {"share": 80.0, "share_at_one_clock": 100.0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    done = run("benchmarks.attention", "--output", tmp_path / "bench.json")
    assert done.returncode == 2
    assert "a GPU is needed" in done.stderr


def test_a_request_beside_sub_block_is_timed_step_by_step(tmp_path, monkeypatch):
    """By a clock by which each call takes longer than the one before: a stall makes some figures too small to round."""
    looks = count(1)
    monkeypatch.setattr(servers, "time", SimpleNamespace(perf_counter=lambda: next(looks) ** 2 / 1e3))
    monkeypatch.setattr(servers, "QUICK", Shape("tiny", 1, 140, 16))
    output = tmp_path / "servers.json"
    monkeypatch.setattr(sys, "argv", ["servers", "--quick", "--rounds", "1", "--output", str(output)])
    servers.main()
    (row,) = json.loads(output.read_text())["rows"]
    assert row["steps"] == {"dense": 10, "search": 2, "sparse": 38}
    ours = row["search_ms"] + 38 * row["sparse_ms"]
    theirs = 40 * (row["router_ms"] + row["kernel_ms"])
    assert row["ratio_without_dense_steps"] == pytest.approx(ours / theirs, rel=0.01)
    assert row["sub_block_s"] == pytest.approx((10 * row["dense_ms"] + theirs) / 1e3, rel=0.01, abs=0.001)


def test_the_demo_models_pattern_is_as_large_as_the_shape():
    recorded = json.loads(DEMO_PATTERN.read_text())["heads"]
    kept = torch.tensor([[list(map(int, row)) for row in head] for head in recorded], dtype=torch.bool)
    twice_as_long = Shape("twice the demo", 41, 4608, 64)
    mask = demo_index(twice_as_long, (128, 64), device="cpu").to_mask()[0]
    for row, column in ((0, 0), (1, 1)):
        assert torch.equal(mask[:40, row::2, column::2], kept)
    assert torch.equal(mask[40], mask[0])


def test_eight_bits_are_measured_on_every_kind_of_data(tmp_path, monkeypatch):
    monkeypatch.setattr(eight, "QUICK", Shape("tiny", 1, 200, 64))
    output = tmp_path / "eight.json"
    monkeypatch.setattr(sys, "argv", ["eight", "--quick", "--rounds", "1", "--output", str(output)])
    eight.main()
    rows = json.loads(output.read_text())["rows"]
    calls = [str(row["block"]) if "block" in row else f"scored {row['scored']}" for row in rows]
    errors = {
        (row["data"], call, row["op"]): row["error"] for row, call in zip(rows, calls, strict=True) if "error" in row
    }
    kinds = ("None", "[128, 64]", "scored 1", "scored 4")
    assert set(errors) == {(d, kind, op) for d in eight.DATA for kind in kinds for op in eight.PRECISIONS}
    assert all((error < 5e-5) == (op == "full") for (_, _, op), error in errors.items())
    assert sum("ms" in row for row in rows) == 28
    assert "| 64 x 64, the demo model's pattern, density" in eight.time_table(rows)
