"""AdaSpa in compiled transformers."""

from dataclasses import replace

import adaspa
import pytest
import torch
from tiny_pipelines import SPARSE, generate, make_pipeline


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.parametrize("compensation", ["none", "residual"])
def test_one_compiled_graph_serves_every_block_and_step(compensation, compiler):
    pipe = make_pipeline("wan")
    adaspa.apply(pipe, replace(SPARSE, compensation=compensation))
    wanted = generate(pipe)
    pipe.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)
    torch.testing.assert_close(generate(pipe), wanted)
    torch.testing.assert_close(generate(pipe), wanted)
    assert compiler["stats"]["unique_graphs"] == 1


# In raster order a model only lacks what tile order adds, which is the same for all of them.
@pytest.mark.parametrize(
    ("family", "order"), [("wan", "raster"), ("wan", "tile"), ("cogvideox", "tile"), ("hunyuan-video", "tile")]
)
def test_a_compiled_transformer(family, order, compiler):
    pipe = make_pipeline(family)
    adaspa.apply(pipe, replace(SPARSE, token_order=order))
    wanted = generate(pipe, family)
    pipe.transformer.compile(backend="eager")
    torch.testing.assert_close(generate(pipe, family), wanted, rtol=1e-4, atol=1e-4)
    breaks = "".join(compiler["graph_break"])
    assert "adaspa" not in breaks.replace("StepHook.new_forward", ""), breaks
