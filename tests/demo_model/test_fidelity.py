"""The fidelity of the demo model by settings: a run of it at a small size, on some of the variants."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch

from demo_model import evaluation, fidelity
from demo_model.perceptual import CONVOLUTIONS, Lpips
from demo_model.variants import variants

SOME = ["every block kept", "no LSE reuse", "sliding window, sparsity 0.5"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Two captions of 9 frames, 64x64: 3 x 8 x 8 tokens."""
    monkeypatch.setattr(evaluation, "SIDE", 64)
    monkeypatch.setattr(evaluation, "FRAMES", 9)
    output = tmp_path / "fidelity.json"

    def call(*names, steps=4):
        where = ["--output", str(output), "--device", "cpu", "--dtype", "float32"]
        sizes = ["--captions", "2", "--guidance", "1", "--steps", str(steps)]
        monkeypatch.setattr(sys, "argv", ["fidelity", *where, *sizes, "--variants", *names])
        fidelity.main()
        return json.loads(output.read_text())

    return call


def test_rows_are_measured_once_each(run):
    rows = {row["name"]: row for row in run(*SOME[:2])["rows"]}
    assert list(rows) == ["dense", *SOME[:2]]
    assert rows["every block kept"]["psnr"] > 60
    assert rows["every block kept"]["density"] == rows["every block kept"]["recall"] == 1
    assert rows["no LSE reuse"]["psnr"] < rows["every block kept"]["psnr"]
    assert 0 < rows["no LSE reuse"]["recall"] < 1
    assert len(rows["no LSE reuse"]["density_by_search"]) == 2
    more = {row["name"]: row for row in run(*SOME)["rows"]}
    assert list(more) == ["dense", *SOME]
    assert more["no LSE reuse"] == rows["no LSE reuse"]
    with pytest.raises(ValueError, match="was measured with other settings"):
        run(*SOME, steps=5)


def test_every_variant_has_its_name_and_a_line():
    known = variants()
    assert all(variant.name == name for name, variant in known.items())
    curves = [v for v in known.values() if {"curves", "patterns"} & set(v.groups)]
    points = {method: sum(v.method == method for v in curves) for method in {v.method for v in curves}}
    assert set(points.values()) == {5}


def test_lpips_of_weights_from_a_pickle_of_arrays(tmp_path):
    generator = np.random.default_rng(0)
    sizes = [(3, 4, 11), (4, 6, 5), (6, 8, 3), (8, 8, 3), (8, 8, 3)]

    def array(*shape):
        return generator.normal(size=shape).astype(np.float32)

    layers = {f"Conv_{i}": {"kernel": array(n, n, a, b), "bias": array(b)} for i, (a, b, n) in enumerate(sizes)}
    linear = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": abs(array(1, 1, b, 1))}} for i, (_, b, _) in enumerate(sizes)}
    path = tmp_path / "alexnet.ckpt"
    # The module's old name, as the archive has it.
    data = pickle.dumps({"AlexNet_0": layers, **linear}, protocol=3)
    path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert len(CONVOLUTIONS) == len(sizes)
    lpips = Lpips(path, torch.device("cpu"))
    video = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert lpips(video, video) == 0
    assert 0 < lpips(video, video // 2 + 64) < lpips(video, video.flip(1))


def test_a_pickle_of_anything_else_is_refused(tmp_path):
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps({"AlexNet_0": print}))
    with pytest.raises(pickle.UnpicklingError, match="NumPy arrays only"):
        Lpips(path, torch.device("cpu"))
