"""Types that a loaded model keeps its weights in, read from the weights themselves."""

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from adaspa_worker.hub import first_line
from adaspa_worker.source import ModelUnavailable


def by_type(module: nn.Module) -> dict[str, int]:
    """Bytes of a module's weights by the type that they are kept in, the most first.

    A type is PyTorch's, such as ``bfloat16``, or GGUF's, such as ``Q8_0``. Weights in int8 have scales beside them,
    which count by their own type.
    """
    found: Counter[str] = Counter()
    for weight in module.parameters():
        for kind, size in kept(weight):
            found[kind] += size
    return dict(found.most_common())


def kept(weight: Tensor) -> Iterator[tuple[str, int]]:
    """Return the tensors behind a weight: type and bytes of each."""
    if (packed := getattr(weight, "quant_type", None)) is not None:
        yield packed.name, weight.nbytes
    elif is_traceable_wrapper_subclass(weight):  # its own dtype is the one that it computes in
        names, _ = weight.__tensor_flatten__()
        for name in names:
            yield from kept(getattr(weight, name))
    else:
        yield str(weight.dtype).removeprefix("torch."), weight.nbytes


def check_moves(module: nn.Module, device: torch.device) -> None:
    """Send one weight of each type to a device and back, as an offload does.

    Raises:
        ModelUnavailable: it does not come back as it was.
    """
    for kind, weight in {next(kept(weight))[0]: weight for weight in module.parameters()}.items():
        try:
            same = torch.equal(whole(weight.detach().to(device).to(weight.device)), whole(weight.detach()))
            why = "it comes back as another one"
        except Exception as error:  # of whatever library the type is
            same, why = False, first_line(error)
        if not same:
            raise ModelUnavailable(f"memory.cpu_offload: a weight in {kind} cannot be moved ({why}); allowed: false")


def whole(weight: Tensor) -> Tensor:
    """A weight's values, where they are kept in parts that only its own layer puts together."""
    return weight.dequantize() if is_traceable_wrapper_subclass(weight) else weight
