"""An operation that torch.compile, autograd and fake tensors see as one, and that costs eager calls nothing."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


class Operation:
    """A function on tensors that is a custom op of PyTorch where something looks on, and a plain call elsewhere.

    Going through PyTorch's dispatcher to a custom op in Python and back takes longer than launching a kernel.

    Args:
        function: on tensors and numbers, with annotations.
        name: of the custom op.
        tags: of the custom op.
        changes: names of the arguments that it changes in place.
    """

    def __init__(
        self, function: Callable[..., Any], name: str, tags: Sequence[torch.Tag] = (), changes: Sequence[str] = ()
    ) -> None:
        self._function = function
        self._op = torch.library.custom_op(name, function, mutates_args=changes, tags=tags)

    def __call__(self, *args: Any) -> Any:
        return self._op(*args) if is_watched(*args) else self._function(*args)

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Register what the operation returns, by shape and dtype."""
        return self._op.register_fake(function)


def operation(
    name: str, tags: Sequence[torch.Tag] = (), changes: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Operation]:
    """Make an `Operation` of the function that follows."""
    return lambda function: Operation(function, name, tags, changes)


def is_watched(*args: Any) -> bool:
    """Tell whether torch.compile, fake tensors or autograd have to see what is done with these."""
    if torch.compiler.is_compiling():
        return True
    gradients = torch.is_grad_enabled()
    for x in args:
        if type(x) is torch.Tensor:
            if gradients and x.requires_grad:
                return True
        elif isinstance(x, torch.Tensor) or (isinstance(x, list) and is_watched(*x)):
            return True
    return False
