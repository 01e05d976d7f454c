"""Equal computations in a graph are done once."""

from collections.abc import Callable

import pytest
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


def cats(work: Callable[..., tuple[Tensor, ...]], *given: Tensor, dynamic: bool = False) -> int:
    """Concatenations that are left of those in a graph, which gives what it gave before."""
    graph = make_fx(work, tracing_mode="symbolic" if dynamic else "fake")(*given)
    MergeEqual()(graph.graph)
    graph.recompile()
    for one, other in zip(graph(*given), work(*given), strict=True):
        assert torch.equal(one, other)
    return sum(node.target is torch.ops.aten.cat.default for node in graph.graph.nodes)


@pytest.mark.parametrize("dynamic", [False, True])
def test_all_parts_of_a_tensor_together_are_the_tensor(*, dynamic: bool) -> None:
    def sliced(x: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat((x[:, :-2], x[:, -2:]), dim=1) * 2,)

    def split(x: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat(x.split((3, x.shape[1] - 3), dim=-2), dim=1) * 2,)

    x = torch.randn(1, 8, 4)
    assert [cats(work, x, dynamic=dynamic) for work in (sliced, split)] == [0, 0]


def test_parts_in_another_order_or_not_all_of_them_stay_a_concatenation() -> None:
    def turned(x: Tensor) -> tuple[Tensor, ...]:
        return torch.cat((x[:, 2:], x[:, :2]), dim=1), torch.cat(x.split((3, 5), dim=1)[::-1], dim=1)

    def left_out(x: Tensor) -> tuple[Tensor, ...]:
        return torch.cat((x[:, :2], x[:, 3:]), dim=1), torch.cat((x[:, :2], x[:, 2:7]), dim=1)

    def other(x: Tensor) -> tuple[Tensor, ...]:
        double = torch.cat((x[:, :4], x[:, 4:]), dim=2), torch.cat((x[:, :2], x[:, 1:]), dim=1)
        return *double, torch.cat((x[:, :2], (x + 1)[:, 2:]), dim=1), torch.cat((x[:, ::2], x[:, 1:]), dim=1)

    x = torch.randn(1, 8, 4)
    assert [cats(work, x) for work in (turned, left_out, other)] == [2, 2, 4]


def test_what_a_graph_returns_shares_no_memory_with_what_it_was_given() -> None:
    def whole(x: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat((x[:, :3], x[:, 3:]), dim=1),)

    def view(x: Tensor) -> tuple[Tensor, ...]:
        double = x * 2
        return double, torch.cat(double.split((3, 5), dim=1), dim=1)[:, 1:]

    x = torch.randn(1, 8, 4)
    assert [cats(work, x) for work in (whole, view)] == [1, 1]


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
