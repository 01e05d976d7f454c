"""Processes among which context parallelism spreads one sequence."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

Landing = Callable[[], None]
"""Waits for what is on its way; until then what was sent is kept."""


class Ranks:
    """A process group, and what AdaSpa asks of it.

    Args:
        group: of torch.distributed.
        uneven: whether they may hold tokens of different number (``ulysses_anything``).
    """

    def __init__(self, group: Any, *, uneven: bool = False) -> None:
        self.group = group
        self.uneven = uneven
        self.size = dist.get_world_size(group)
        self.rank = dist.get_rank(group)

    def trade(self, sent: Mapping[int, list[torch.Tensor]], received: Mapping[int, list[torch.Tensor]]) -> Landing:
        """Send tensors to other ranks and receive as many from them, all at once and without copying any.

        Args:
            sent, received: by rank; contiguous.

        Returns:
            what to call before those received are read, and those sent are written.
        """
        operations = [
            dist.P2POp(call, x, group=self.group, group_peer=peer)
            for call, parts in ((dist.isend, sent), (dist.irecv, received))
            for peer, tensors in parts.items()
            for x in tensors
            if x.numel()
        ]
        works = dist.batch_isend_irecv(operations)

        def land() -> None:
            for work in works:
                work.wait()
            operations.clear()

        return land

    def exchange(
        self, sent: torch.Tensor, sizes: list[int], received_sizes: list[int], out: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, Any]:
        """Send a part to every rank and receive one from each, in their order.

        Args:
            sent: ``[elements]``, contiguous.
            sizes, received_sizes: elements of the parts.
            out: where to receive; new by default.

        Returns:
            what is received, ``[elements]``, and what to wait for before it is read.
        """
        out = sent.new_empty(sum(received_sizes)) if out is None else out
        width = sent.element_size()
        if not sent.is_floating_point():  # of int16 and bool NCCL knows nothing
            sizes, received_sizes = ([size * width for size in all_sizes] for all_sizes in (sizes, received_sizes))
            sent, bytes_out = sent.view(torch.uint8), out.view(torch.uint8)
        else:
            bytes_out = out
        work = dist.all_to_all_single(bytes_out, sent, received_sizes, sizes, group=self.group, async_op=True)
        return out, work

    def gather(self, rows: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """Gather the rows of every rank, in their order.

        Args:
            rows: ``[own rows, ...]``, contiguous.
            counts: the rows of each rank.
        """
        each = rows[0].numel()
        received, work = self.exchange(
            rows.flatten().repeat(self.size), [rows.numel()] * self.size, [each * count for count in counts]
        )
        work.wait()
        return received.view(-1, *rows.shape[1:])

    def integers(self, value: int, device: torch.device) -> list[int]:
        """Gather the number that each rank gives. Waits for the device."""
        numbers: list[int] = self.gather(torch.tensor([value], device=device), [1] * self.size).tolist()
        return numbers


def check_kind(config: Any) -> None:
    """Raise ValueError for a context parallelism that leaves a rank parts of the keys: block mass needs them all."""
    if config.ring_degree > 1:
        raise ValueError(
            f"ring_degree must be 1 while AdaSpa is applied, got {config.ring_degree}: a pattern is found from whole "
            "rows of attention, which ulysses_degree leaves whole"
        )


def check_degree(degree: int, heads: int, *, uneven: bool) -> None:
    """Raise ValueError unless every rank gets heads: as many each, or at least one where they may be ``uneven``."""
    if degree > heads or (heads % degree and not uneven):
        largest = heads if uneven else max(n for n in range(1, min(degree, heads) + 1) if heads % n == 0)
        wanted = "be at most" if uneven else "divide"
        raise ValueError(
            f"ulysses_degree must {wanted} the {heads} heads of each layer, got {degree}: the largest that can be used "
            f"is {largest}"
        )
