"""The picture of a request."""

import sys
from dataclasses import replace

import adaspa
import pytest
import torch
from PIL import Image
from tiny_pipelines import SPARSE, generate, make_pipeline


@pytest.fixture
def handle():
    pipe = make_pipeline("wan")
    handle = adaspa.apply(pipe.transformer, replace(SPARSE, record_maps=True))
    generate(pipe)
    return handle


def test_maps_show_which_blocks_were_kept(handle):
    assert len(handle.record.patterns) == 2 * 2 * 2, "two layers, two searches, two branches"
    for pattern in handle.record.patterns:
        assert pattern.map.shape == (2, 5, 5)
        torch.testing.assert_close(pattern.map.float().mean((1, 2)), pattern.density[0], rtol=1e-3, atol=1e-3)


def test_a_plot_has_the_maps_beneath_the_heads(handle, tmp_path):
    adaspa.plot(handle.record, tmp_path / "with.png")
    for pattern in handle.record.patterns:
        pattern.map = None
    adaspa.plot(handle.record, tmp_path / "without.png")
    sizes = {name: Image.open(tmp_path / f"{name}.png").size for name in ("with", "without")}
    assert sizes["with"][1] > sizes["without"][1]
    colours = Image.open(tmp_path / "without.png").convert("RGB").getcolors(maxcolors=10**6)
    assert len(colours) > 50, "heat maps, not an empty page"


def test_a_dense_request_has_nothing_to_plot(tmp_path):
    with pytest.raises(ValueError, match=r"^record must be of a request with a sparse step"):
        adaspa.plot(adaspa.RequestRecord(), tmp_path / "none.png")


def test_without_matplotlib_the_error_says_so(handle, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"^adaspa.plot needs matplotlib"):
        adaspa.plot(handle.record, tmp_path / "none.png")
