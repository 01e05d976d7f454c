"""The benchmark of the demo model's clip on CPU cores: a run of it at a small size."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.models import demo_clip


def test_each_request_is_timed_on_as_many_cores_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, cores, threads = tmp_path / "cpu.json", os.sched_getaffinity(0), torch.get_num_threads()
    wanted = ["--output", str(output), "--cores", "1", "--rounds", "1", "--quick"]
    monkeypatch.setattr(sys, "argv", ["demo_clip", *wanted])
    try:
        demo_clip.main()
        assert len(os.sched_getaffinity(0)) == 1
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
    result = json.loads(output.read_text())
    assert result["cores"] == 1 and result["processor"]
    assert [row["adapter"] for row in result["rows"]] == ["four-steps", "eight-steps", "no adapter"]
    assert all(0 < row["seconds"]["denoising"] < row["seconds"]["all"] for row in result["rows"])


def test_the_demo_models_page_tells_what_was_measured() -> None:
    folder = Path(__file__).parents[2] / "docs" / "demo_model"
    found = json.loads((folder / "cpu.json").read_text())
    assert found["cores"] == 2
    four, eight, own = (row["seconds"]["denoising"] for row in found["rows"])
    told = f"It takes {four:.1f} s of denoising in four steps, {eight:.1f} s in eight and {own:.1f} s in 24"
    assert told in (folder / "README.md").read_text()
