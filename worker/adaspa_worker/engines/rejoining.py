"""Concatenations in a compiled graph of all parts of a tensor, replaced by that tensor.

HunyuanVideo's single-stream blocks split the rows of video and text, and attention projects them together again.
Inductor would copy them, and could not see that the MLP beside it rounds the same rows.
"""

import operator
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch._inductor.fx_utils import get_node_storage
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

aten = torch.ops.aten


class Part(NamedTuple):
    """A slice of a tensor along ``dim``, from ``start`` up to ``stop``."""

    source: Node
    dim: int
    start: Any
    stop: Any


def rejoin(graph: Graph) -> None:
    """Replace what concatenates all parts of a tensor, in their order, by the tensor.

    What the graph returns stays a copy: else its caller would write to an input, or to two outputs at once.
    """
    returned = {get_node_storage(node) for node in graph.output_node().all_input_nodes}
    for node in list(graph.nodes):
        if node.target is not aten.cat.default or get_node_storage(node) in returned:
            continue
        pieces: Sequence[Node] = node.args[0]
        source = _whole([_part(piece) for piece in pieces], _dim(node, *node.args[1:]))
        if source is not None and _value(source).stride() == _value(node).stride():
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _whole(parts: Sequence[Part | None], dim: int) -> Node | None:
    """Return the tensor of which these are all parts along ``dim``, in their order; else None."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts) or {(part.source, part.dim) for part in known} != {(known[0].source, dim)}:
        return None
    source = known[0].source
    ends = [(0, known[0].start), *((one.stop, other.start) for one, other in pairwise(known))]
    ends.append((known[-1].stop, _value(source).shape[dim]))
    return source if all(statically_known_true(one == other) for one, other in ends) else None


def _part(node: Any) -> Part | None:
    """Return the part of another tensor that a node is; None if it is no slice or split of one."""
    if node.target is aten.slice.Tensor:
        given = list(node.args)
        source, at, start, stop, step = given + [0, None, None, 1][len(given) - 1 :]
        if step != 1 or any(isinstance(end, Node) for end in (start, stop)):
            return None
        dim = _dim(node, at)
        size = _value(source).shape[dim]
        start, stop = start or 0, sys.maxsize if stop is None else stop
        stop = size if stop == sys.maxsize else stop
        return Part(source, dim, *(end + size if isinstance(end, int) and end < 0 else end for end in (start, stop)))
    if node.target is operator.getitem and node.args[0].target is aten.split_with_sizes.default:
        split, place = node.args
        source, sizes, *at = split.args
        sizes = [_value(size) if isinstance(size, Node) else size for size in sizes]
        return Part(source, _dim(node, *at), sum(sizes[:place]), sum(sizes[: place + 1]))
    return None


def _dim(node: Node, dim: int = 0) -> int:
    return dim % _value(node).ndim


def _value(node: Any) -> Any:
    return node.meta["val"]
