"""Merging of equal computations in a compiled graph.

Inductor leaves them as they are without gradients: where query, key and value each round the same tokens, as torchao's
layers do, it would compute and write them three times.
"""

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node
from torch.utils._pytree import tree_flatten

from adaspa_worker.engines import rejoining
from adaspa_worker.engines.rejoining import rejoin


class MergeEqual(CustomGraphPass):
    """A pass of Inductor (``post_grad_custom_pre_pass``): it computes equal things once and rejoins parts uncopied."""

    def __call__(self, graph: Graph) -> None:
        rejoin(graph)
        found: dict[object, Node] = {}
        for node in list(graph.nodes):
            if not _is_pure(node):
                continue
            given, shape = tree_flatten((node.args, node.kwargs))
            equal = found.setdefault((node.target, repr(shape), *((type(x), x) for x in given)), node)
            if equal is not node:
                node.replace_all_uses_with(equal)
                graph.erase_node(node)

    def uuid(self) -> object:
        return get_hash_for_files((__file__, rejoining.__file__))


def _is_pure(node: Node) -> bool:
    """Tell whether a node is a function of what it is given: PyTorch's own, neither random nor memory to be written."""
    target = node.target
    return (
        isinstance(target, torch._ops.OpOverload)
        and target.namespace in {"aten", "prims"}
        and not target._schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in target.tags
        and "empty" not in target.name()
    )
