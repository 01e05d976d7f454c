"""Videos of the demo model with attention in eight bits, at the lists of bfloat16."""

import json
import sys

import torch
from adaspa import ops

from demo_model import eight, evaluation


def test_videos_in_eight_bits_attend_to_the_blocks_that_bfloat16_chose(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "SIDE", 64)
    monkeypatch.setattr(evaluation, "FRAMES", 9)
    monkeypatch.setattr(eight, "SETTINGS", {"small": "block 32"})
    calls, attend = [], ops.block_sparse_attention

    def noted(q, k, v, index, *, precision="full", **options):
        if q.shape == k.shape:  # not the probe of a search
            calls.append((precision, index.to_mask()))
        return attend(q, k, v, index, precision=precision, **options)

    monkeypatch.setattr(ops, "block_sparse_attention", noted)
    output = tmp_path / "videos.json"
    options = {"output": output, "device": "cpu", "captions": 1, "steps": 6, "guidance": 1}
    given = [*(f"--{name}={value}" for name, value in options.items()), "--settings", "small"]
    monkeypatch.setattr(sys, "argv", ["eight", *given])
    eight.main()
    count = len(calls) // 4
    assert [precision for precision, _ in calls] == ["full"] * count + ["int8_fp8"] * 3 * count
    masks = [mask for _, mask in calls]
    for later in (masks[count : 2 * count], masks[2 * count : 3 * count]):
        assert count and all(torch.equal(*pair) for pair in zip(later, masks, strict=False))
    result = json.loads(output.read_text())
    rows = {row["eight_bits"]: row for row in result["rows"]}
    assert result["complete"] and list(rows) == ["none", "sparse", "sparse and dense", "searches, too"]
    assert len({row["to_dense"]["psnr"] for row in rows.values()}) == 4
    assert "to_own" not in rows["none"] and rows["sparse"]["to_own"]["psnr"] > rows["sparse"]["to_dense"]["psnr"]
