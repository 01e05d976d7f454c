"""Watch over what others may do to a transformer: noticed before each forward, or in its account."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from adaspa.forward import Forward
    from adaspa.models.family import Family


class Guard:
    """Layers of one transformer, their processors, and the hooks of others before them.

    Args:
        transformer: with AdaSpa's processors.
        family: of the transformer.
    """

    def __init__(self, transformer: torch.nn.Module, family: "Family") -> None:
        self.family = family
        self.layers = family.layers(transformer)
        names = {id(module): name for name, module in transformer.named_modules()}
        self.names = [names[id(attn)] for attn in self.layers]
        # Each layer's own module and those around it, up to the transformer, whose hooks are around ours.
        self._paths = [
            [transformer.get_submodule(name.rsplit(".", above)[0]) for above in range(name.count(".") + 1)]
            for name in self.names
        ]

    @torch.compiler.disable
    def check_processors(self) -> None:
        """Raise RuntimeError if another attention processor was installed over one of AdaSpa's."""
        for attn, name in zip(self.layers, self.names, strict=True):
            if not isinstance(attn.processor, self.family.processor):
                raise RuntimeError(
                    f"{name} has another attention processor since adaspa.apply, {type(attn.processor).__name__}: "
                    "call adaspa.apply again to run AdaSpa in its place, or adaspa.remove to go without"
                )

    @torch.compiler.disable
    def close(self, forward: "Forward", given: dict[str, Any]) -> None:
        """Compare the calls of a forward that has ended well with the schedule."""
        passed_on: Collection[int] = self.family.passed_on(given)
        state = forward.state
        expected = [state.expected(layer) for layer in range(len(self.layers))]
        layout = forward.layout
        own = range(len(self.layers)) if layout.masked or layout.pattern is not None else ()
        state.record.ledger.end_forward(
            state.step or 0,
            state.lists_of,
            expected,
            lambda layer: layer in passed_on or self._may_be_skipped(layer),
            own,
        )

    def _may_be_skipped(self, layer: int) -> bool:
        """Tell whether another's hook stands before the attention of ``layer`` and may answer in its place."""
        return any(
            hasattr(hook, "new_forward")
            for module in self._paths[layer]
            if (registry := getattr(module, "_diffusers_hook", None)) is not None
            for hook in registry.hooks.values()
        )
