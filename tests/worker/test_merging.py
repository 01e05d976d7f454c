"""Equal computations in a graph are done once."""

import torch
from adaspa_worker.engines.merging import MergeEqual
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx


def rounded(x: Tensor) -> Tensor:
    scale = x.abs().amax(dim=1, keepdim=True) / 448
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


def test_what_is_equal_is_computed_once_and_nothing_else_is_merged() -> None:
    def work(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        drawn = torch.rand_like(x), torch.rand_like(x)
        return rounded(x) @ y, rounded(x) @ x, rounded(y), torch.sum(x, 1), torch.sum(x, 0), x * 1, x * 1.0, *drawn

    x, y = torch.randn(4, 4), torch.randn(4, 4)
    graph = make_fx(work)(x, y)
    torch.manual_seed(0)
    before, wanted = len(graph.graph.nodes), graph(x, y)
    one_rounding = len(make_fx(rounded)(x).graph.nodes) - 2  # but for what goes in and out
    MergeEqual()(graph.graph)
    graph.recompile()
    assert before - len(graph.graph.nodes) == one_rounding
    torch.manual_seed(0)
    for one, other in zip(graph(x, y), wanted, strict=True):
        assert torch.equal(one, other)


def test_memory_that_is_written_to_is_nobody_elses() -> None:
    def work(x: Tensor) -> tuple[Tensor, Tensor]:
        one, other = torch.empty_like(x), torch.empty_like(x)
        return one.copy_(x), other.copy_(-x)

    x = torch.randn(3)
    graph = make_fx(work)(x)
    MergeEqual()(graph.graph)
    graph.recompile()
    one, other = graph(x)
    assert torch.equal(one, x) and torch.equal(other, -x)
