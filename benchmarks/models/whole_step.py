"""`python -m benchmarks.models.whole_step --output whole-step.json`: where a compiled sparse step in e4m3 goes.

`benchmarks.models.linears` waits for the device behind each block. Here as many blocks follow each other as the model
has, as in earnest: one block of each kind, which runs again and again. A row has the seconds of the step, and of its
kernels by what they do, and the time between kernels. Beside the layers as they are, those with torchao's own rounding
are measured (`adaspa_worker.engines.rounding` and `.merging` left out), in turns, so that both meet the same clock and
power, which nvidia-smi tells meanwhile.
"""

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from statistics import mean
from typing import Any, ClassVar
from unittest.mock import patch

import diffusers
import torch
from adaspa_worker.engines import linears
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.models import command_line
from benchmarks.models.block_models import BLOCK_MODELS
from benchmarks.models.blocks import layers_of
from benchmarks.models.full_models import MODELS, FullModel, Inputs
from benchmarks.models.linears import Compiled, free, subject_of
from benchmarks.models.steps import Subject, sparse_steps
from benchmarks.results import add, ran_on, write

NAME = "hunyuan-video-13b-720p-129f"
DENSITY = 0.2
ROUNDS = 2
ROUNDINGS = ("own", "torchao")
GROUPS = {
    "activation and rounding": ("round_rows",),
    "rotary embedding": ("rotary_kernel",),
    "attention": (
        "attention_kernel",
        "attention_with_block_mass",
        "flash",
        "attend",
        "block_sparse",
        "paired",
        "prepare_kernel",
        "look_kernel",
    ),
    "scoring and selection": ("block_mass", "keep_blocks", "pair_lists"),
    "linear layers": ("nvjet", "gemm", "cutlass", "cublas", "splitk"),
    "copies": ("CatArray", "elementwise", "Memcpy", "Memset"),
    "Inductor's, with a norm": ("norm",),
    "Inductor's, other": ("triton_",),
}
"""Parts of the names of kernels; the first group with one has the kernel."""
SHOWN = 16


@dataclass(frozen=True)
class InARow(Compiled):
    """Compiled blocks, each of which runs as often as the model has it, without a wait in between."""

    profiled: list[bool] = field(default_factory=list)
    """Whether the steps in a row are profiled; empty outside of `in_a_row`."""
    long: ClassVar[float] = 0.0

    def run(self, kind: str, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        if not self.profiled:
            return super().run(kind, call, *given, **named)
        for _ in range(self.layers[kind]):
            out = call(*given, **named)
        return out

    @contextmanager
    def in_a_row(self, *, profiled: bool) -> Iterator[None]:
        """Within the block, a forward has all blocks of the model, and its row says at which clock; profiled, what its
        kernels do."""
        self.profiled.append(profiled)
        try:
            yield
        finally:
            self.profiled.clear()

    def forward_row(self, timestep: float) -> dict[str, Any]:
        if not self.profiled:
            return super().forward_row(timestep)
        return seen_row(partial(Subject.forward_row, self, timestep), self.inputs, profiled=self.profiled[-1])


def seen_row(forward: Callable[[], dict[str, Any]], inputs: Inputs, *, profiled: bool) -> dict[str, Any]:
    """Seconds of a forward, its clock and power, and if it is profiled what its kernels do."""
    device = inputs["hidden_states"].device
    profiler: Any = profile(activities=[ProfilerActivity.CUDA]) if profiled and device.type == "cuda" else nullcontext()
    with profiler as found, clocks(device) as told:
        row = {"seconds": forward()["seconds"]}
    return row | (by_group(found.events()) if found is not None else {}) | told


def by_group(events: Sequence[Any]) -> dict[str, Any]:
    """Seconds of kernels by group, of the longest by name with their calls, and between kernels."""
    kernels = sorted(
        (event.time_range.start / 1e6, event.time_range.end / 1e6, event.name)
        for event in events
        if event.device_type == DeviceType.CUDA
    )
    groups, names, calls = Counter[str](), Counter[str](), Counter[str]()
    for start, end, name in kernels:
        groups[group_of(name)] += end - start
        names[name] += end - start
        calls[name] += 1
    between = sum(max(0.0, later[0] - earlier[1]) for earlier, later in pairwise(kernels))
    return {
        "groups": {group: round(seconds, 4) for group, seconds in groups.most_common()},
        "between": round(between, 4),
        "kernels": [[name[:100], round(seconds, 4), calls[name]] for name, seconds in names.most_common(SHOWN)],
    }


def group_of(kernel: str) -> str:
    """Return what a kernel does."""
    return next((group for group, parts in GROUPS.items() if any(part in kernel for part in parts)), "other")


@contextmanager
def clocks(device: torch.device) -> Iterator[dict[str, Any]]:
    """Mean clock in GHz and power in watts of the GPU within the block, in what is given."""
    told: dict[str, Any] = {}
    if device.type != "cuda":
        yield told
        return
    card = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"  # without it, nvidia-smi tells of all cards
    told_of = "--query-gpu=clocks.sm,power.draw"
    command = ["nvidia-smi", card, told_of, "--format=csv,noheader,nounits", "-lms", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        yield told
        reader.terminate()
        lines = [line.split(",") for line in reader.communicate()[0].splitlines() if line.count(",") == 1]
    if lines:
        told["ghz"], told["watts"] = (round(mean(float(line[at]) for line in lines), 3) for at in range(2))
        told["ghz"] = round(told["ghz"] / 1000, 3)


def rows(model: FullModel, roundings: Sequence[str], device: torch.device) -> Iterator[dict[str, Any]]:
    """Steps with each way to round, in turns."""
    layers = layers_of(model)
    kind = "float8" if device.type == "cuda" else "bfloat16"
    subjects = {}
    for rounding in roundings:
        with ExitStack() as changes:
            if rounding == ROUNDINGS[1]:
                changes.enter_context(patch.object(linears, "round_alone"))
                changes.enter_context(patch.object(linears, "compile_options", return_value=None))
            subjects[rounding] = subject_of(model, kind, layers, device, as_kind=InARow)
    for turn in range(ROUNDS + 1):
        for rounding, subject in subjects.items():
            assert isinstance(subject, InARow)
            with sparse_steps(subject, DENSITY, "scattered"):
                with subject.in_a_row(profiled=False):
                    subject.forward_row(997.0)  # the other's step went before
                with subject.in_a_row(profiled=turn == ROUNDS):
                    row = subject.forward_row(997.0)
            yield {"rounding": rounding, "profiled": turn == ROUNDS} | row


def main() -> None:
    parser = command_line.parser("whole_step", __doc__)
    models = MODELS | BLOCK_MODELS
    parser.add_argument("--models", nargs="+", choices=list(models), default=[NAME])
    parser.add_argument("--roundings", nargs="+", choices=ROUNDINGS, default=ROUNDINGS)
    arguments, device = command_line.read(parser)
    result: dict[str, Any] = {**ran_on(quick=arguments.quick), "diffusers": diffusers.__version__}
    result |= {"density": DENSITY, "quick": arguments.quick, "complete": False, "rows": []}
    with torch.no_grad():
        for name in arguments.models:
            model = models[name].quick() if arguments.quick else models[name]
            for row in rows(model, arguments.roundings, device):
                add(result, {"model": name} | row, arguments.output)
            free()
    write(result | {"complete": True}, arguments.output)


if __name__ == "__main__":
    main()
