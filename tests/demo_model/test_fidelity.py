"""The fidelity of the demo model by settings: a run of it at a small size, on some of the variants."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from demo_model import evaluation, fidelity
from demo_model.long_clips import Length
from demo_model.perceptual import CONVOLUTIONS, Lpips
from demo_model.variants import variants

ROOT = Path(__file__).parents[2]
SOME = ["every block kept", "no LSE reuse", "sliding window, sparsity 0.8"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Two captions of 9 frames, 64x64: 3 x 8 x 8 tokens."""
    monkeypatch.setattr(evaluation, "SIDE", 64)
    monkeypatch.setattr(evaluation, "FRAMES", 9)
    output = tmp_path / "fidelity.json"

    def call(*names, steps=4, guidance=1, part="0/1", more=()):
        where = ["--output", str(output), "--device", "cpu", "--dtype", "float32", "--part", part, *more]
        sizes = ["--captions", "2", "--guidance", str(guidance), "--steps", str(steps)]
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


def test_processes_side_by_side_fill_one_file_in_the_order_of_the_variants(run):
    assert [row["name"] for row in run(*SOME, part="1/2")["rows"]] == SOME[1:2]
    assert [row["name"] for row in run(*SOME, part="0/2")["rows"]] == ["dense", *SOME]
    with pytest.raises(SystemExit):
        run(*SOME, part="2/2")


def test_the_long_model_draws_clips_of_a_length_under_the_same_settings(run, monkeypatch):
    monkeypatch.setitem(fidelity.LENGTHS, "middle", Length(5, 96))
    name = "price 0.9, warm-up 3, one search, blocks of 64 x 64, shared lists, tile order"
    found = run(name, guidance=4, more=["--length", "middle"])
    assert [found["settings"][key] for key in ("frames", "side", "tokens")] == [5, 96, 288]
    measured = json.loads((ROOT / "docs" / "kernels" / "lengths.json").read_text())
    assert found["settings"]["weights"] == measured["weights"]
    row = found["rows"][1]
    assert len(row["clip_densities"]) == len(row["clips"]) == 2
    assert sum(row["clip_densities"]) / 2 == pytest.approx(row["density"], abs=1e-4)
    assert "recall" in row and "ssim" not in row
    with pytest.raises(ValueError, match="was measured with other settings"):
        run(name, guidance=4)


def test_the_work_is_counted_and_guidance_branches_share_tiles_and_lists(run):
    names = ("price 0.9, warm-up 3, blocks of 64 x 64", "price 0.9, warm-up 3, blocks of 64 x 64, shared lists")
    rows = {row["name"]: row for row in run(*names, guidance=4, steps=8)["rows"]}
    own, shared = (rows[name] for name in names)
    for row in (own, shared):
        assert row["density"] < sum(row["work"].values()) < 1
        assert 0.5 < row["shared_tiles"] <= 1
        assert len(row["clips"]) == 2 and row["psnr"] == pytest.approx(sum(row["clips"]) / 2, abs=0.01)
    # Behind the search of the first branch the second one is dense as well.
    assert [own["work"]["dense"], shared["work"]["dense"]] == [pytest.approx(1 / 8), pytest.approx(1.5 / 8)]
    assert shared["work"]["search"] < own["work"]["search"] - 0.5 / 8


def test_neighbouring_query_blocks_share_what_both_keep():
    keeps = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]])
    assert fidelity.shared_tiles(keeps[None]) == pytest.approx((2 + 8) / (4 + 8))
    assert fidelity.shared_tiles(keeps[None, :3]) == pytest.approx(0.5), "the last has no neighbour"


def test_every_variant_has_its_name_and_a_line():
    known = variants()
    assert all(variant.name == name for name, variant in known.items())
    for group, points in (("curves", 4), ("patterns", 2)):
        methods = [variant.method for variant in known.values() if group in variant.groups]
        assert {methods.count(method) for method in methods} == {points}


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
