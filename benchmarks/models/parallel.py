"""`torchrun --nproc-per-node 8 -m benchmarks.models.parallel --output parallel.json`: one video on several GPUs.

Models of full size but with few of their blocks, and random weights: seconds of a forward, reckoned from these blocks,
by kind of step on one GPU, on two, on four and so on up to all of them in the same run, with the exchange by itself,
the balance of the ranks and peak memory above the weights. Random weights give nearly uniform attention: the searches
keep the top 20 % of the blocks. Heads that keep from half to one and a half times that (``skewed``) show what dealing
them by cost is worth. Behind the rows stands what one and two GPUs let expect of more, and how far off that was
(`parallel_plan`).
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.models import command_line, parallel_plan
from benchmarks.models.parallel_bench import Bench
from benchmarks.models.parallel_parts import PARTS, Part
from benchmarks.results import add, ran_on, write

Row = dict[str, Any]
PATIENCE = timedelta(hours=1)
"""How long ranks that have no part in a group wait for the next one, which they have a part in."""


@dataclass
class Machine:
    """The processes of one machine, one for each GPU, and where they meet."""

    rank: int
    world: int
    store: Any
    device: torch.device
    _groups: int = 0

    def sizes(self) -> list[int]:
        """How many GPUs a video is made on: powers of two, and all."""
        powers = (2**power for power in range(1, self.world.bit_length()))
        return sorted({size for size in powers if size <= self.world} | {self.world} - {1})

    def gather(self, size: int) -> bool:
        """Make the first so many processes all that there are. All call it; whether this one is among them."""
        if dist.is_initialized():
            if dist.get_world_size() == size:
                return True
            dist.destroy_process_group()
        self._groups += 1
        if self.rank < size:
            on_gpu = self.device.type == "cuda"
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                store=dist.PrefixStore(str(self._groups), self.store),
                rank=self.rank,
                world_size=size,
                timeout=PATIENCE,  # without a device_id: PyTorch 2.11 crashed where such a group came after another
            )
        return self.rank < size


def rows(part: Part, machine: Machine) -> Iterator[Row]:
    """All rows of a model. Of a group, its processes yield them together; of the first one they are those to keep."""
    bench = Bench(part, machine.device)
    built, of = part.blocks
    yield {"model": bench.model.name, "step": "blocks", "blocks": built, "of": of, "calls": part.model.calls}
    machine.gather(machine.world)  # as many GPUs are busy as later
    yield from bench.walk("one")
    for size in machine.sizes():
        if machine.gather(size):
            for mode in part.modes if size % 2 == 0 else ("ulysses",):
                yield from bench.walk(mode)
            yield bench.exchange()
            yield from bench.skewed()


def measure(machine: Machine, parts: list[Part], output: Path) -> None:
    """Measure all rows; the first process writes them, and behind the last one the plan."""
    quick = machine.device.type == "cpu"
    result: Row = {**ran_on(quick=quick), "gpus": machine.world, "rows": []}
    keep: Callable[[Row], None] = (lambda row: add(result, row, output)) if machine.rank == 0 else (lambda _: None)
    with torch.no_grad():
        for part in parts:
            for row in rows(part.quick(heads=2 * machine.world) if quick else part, machine):
                keep(row)
            if not quick:
                torch.cuda.empty_cache()
    if dist.is_initialized():
        dist.destroy_process_group()
    if machine.rank == 0:
        result["plan"] = parallel_plan.rows(result["rows"])
        write(result, output)


def main() -> None:
    parser = command_line.parser("parallel", __doc__)
    parser.add_argument("--models", nargs="+", choices=list(PARTS), default=list(PARTS), help="all by default")
    arguments = parser.parse_args()
    if "LOCAL_RANK" not in os.environ:
        parser.error("torchrun must start it, a process for each GPU")
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device("cpu") if arguments.quick else torch.device("cuda", local)
    if not arguments.quick:
        torch.cuda.set_device(device)
    store, rank, world = next(dist.rendezvous("env://", timeout=PATIENCE))
    measure(Machine(rank, world, store, device), [PARTS[name] for name in arguments.models], arguments.output)


if __name__ == "__main__":
    main()
