"""Videos of the demo model with its linear layers in e4m3, beside those in bfloat16."""

import json
import sys

import torch
from adaspa_worker.engines.linears import in_blocks

from demo_model import evaluation, linears


def test_videos_in_e4m3_are_compared_with_dense_ones_and_with_their_own_in_bfloat16(tmp_path, monkeypatch):
    """Only the weights are rounded: torchao is in a folder of its own."""

    def rounded(transformer, device):
        for layer in in_blocks(transformer).values():
            layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn).to(layer.weight.dtype)

    monkeypatch.setattr(linears, "in_e4m3", rounded)
    monkeypatch.setattr(evaluation, "SIDE", 64)
    monkeypatch.setattr(evaluation, "FRAMES", 9)
    output = tmp_path / "linears.json"
    options = {"output": output, "device": "cpu", "captions": 1, "steps": 4, "guidance": 1, "settings": "paper"}
    monkeypatch.setattr(sys, "argv", ["linears", *(f"--{name}={value}" for name, value in options.items())])
    linears.main()
    result = json.loads(output.read_text())
    rows = {(row["setting"], row["linears"]): row for row in result["rows"]}
    assert result["complete"] and list(rows) == [
        ("dense", "bfloat16"), ("dense", "float32"), ("paper", "bfloat16"), ("paper", "float8")
    ]  # fmt: skip
    dense, whole, plain, small = rows.values()
    assert "to_dense" not in dense and whole["to_dense"]["psnr"] > plain["to_dense"]["psnr"]
    assert plain["to_dense"]["psnr"] != small["to_dense"]["psnr"] and 20 < small["to_own"]["psnr"] < 60
