"""`python -m benchmarks.models.linears --output linears.json`: a compiled step, and what products in e4m3 make of it.

Models of full size with random weights, of which one block of each kind is built, compiled and run
(`benchmarks.models.blocks`): dense by FlashAttention-3 in bfloat16, and AdaSpa's kinds of step with the linear layers
in bfloat16, not compiled and compiled, and in e4m3 (`memory.quantization` of a catalog), there also with dense and with
all attention in eight bits. For some steps, the time of the blocks' kernels is divided among attention, linears and the
rest. Each block's output is compared with float32 at one frame. Each model has a process: all compile at once, then
they measure one after another. The table, with totals of 50 steps, is the work of `benchmarks.readme`.
"""

import copy
import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain, product
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final, TypeVar

import adaspa
import diffusers
import torch
from adaspa.config import AdaSpaConfig
from adaspa.ops.call import Precision
from adaspa_worker.engines import linears
from adaspa_worker.engines.compiling import compile_blocks
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.models import command_line
from benchmarks.models.block_models import BLOCK_MODELS
from benchmarks.models.blocks import FewBlocks, layers_of, video_tokens
from benchmarks.models.full_models import MODELS, FullModel
from benchmarks.models.steps import WALK, Subject, attempt, dense_by, failed, median_row, sparse_steps, walk_rows
from benchmarks.results import add, ran_on, write

ALL_MODELS = MODELS | BLOCK_MODELS
NAMES = (
    "hunyuan-video-13b-720p-129f",
    "minimax-h3-33b-768p-10s",
    "wan2.1-14b-720p-81f",
    "minimax-h3-33b-768p-15s",
)
SPARSE = ((0.2, 128), (0.2, 64), (0.4, 64))
"""Density and query block of the random patterns: those of the totals, and those of the presets."""
LINEARS = ("bfloat16", "float8")
EIGHT: Final = "int8_fp8"
PARTS = {
    "attention": (
        "flash",
        "attend",
        "attention",
        "block_sparse",
        "paired",
        "prepare_kernel",
        "look_kernel",
        "block_mass",
    ),
    "linears": ("gemm", "nvjet", "xmma", "cutlass", "cublas", "splitk"),
}
"""Parts of the names of kernels; what has none of them is the rest."""
SHOWN = 12
"""Kernels to list."""


@dataclass(frozen=True)
class Compiled(FewBlocks):
    """Compiled blocks, whose kernels can be told apart."""

    kernels: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Seconds of each kernel in a block, by the block's class."""
    profiling: list[bool] = field(default_factory=list)

    def run(self, kind: str, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        told = profile(activities=[ProfilerActivity.CUDA]) if self.profiling else nullcontext()
        with told as found:
            out = super().run(kind, call, *given, **named)
        for event in found.events() if found is not None else ():
            if event.device_type == DeviceType.CUDA:
                self.kernels[kind, event.name] += event.self_device_time_total / 1e6
        return out

    def shares(self) -> dict[str, Any]:
        """Seconds that the kernels of all blocks take in one more forward like the last, by their part in it."""
        if self.inputs["hidden_states"].device.type != "cuda":
            return {}
        self.kernels.clear()
        self.profiling.append(True)
        try:
            self.forward_row(990.0)
        finally:
            self.profiling.clear()
        found: Counter[str] = Counter()
        for (kind, name), seconds in self.kernels.items():
            found[name] += self.layers[kind] * seconds
        parts = dict.fromkeys((*PARTS, "rest"), 0.0)
        for name, seconds in found.items():
            parts[part_of(name)] += seconds
        longest = {name[:100]: round(seconds, 4) for name, seconds in found.most_common(SHOWN)}
        return {"shares": {part: round(seconds, 4) for part, seconds in parts.items()}, "kernels": longest}


CompiledKind = TypeVar("CompiledKind", bound=Compiled)


def part_of(kernel: str) -> str:
    """Return the part of a step that a kernel belongs to."""
    if kernel.startswith("triton_"):  # Inductor's, named after all that they do
        return "rest"
    return next((part for part, names in PARTS.items() if any(name in kernel for name in names)), "rest")


def built(model: FullModel, kind: str, device: torch.device) -> Any:
    """The transformer, from a fixed seed, its linear layers in ``kind``."""
    torch.manual_seed(0)
    transformer = model.build(device, torch.bfloat16)
    if kind == "float8":
        linears.compute_in_float8(transformer, device)
    return transformer


def subject_of(
    model: FullModel,
    kind: str,
    layers: Counter[str],
    device: torch.device,
    as_kind: type[CompiledKind],
    *,
    compiled: bool = True,
) -> CompiledKind:
    """One block of each kind in a transformer with AdaSpa, warm."""
    few = model.few_blocks(1)
    transformer = built(few, kind, device)
    adaspa.apply(transformer, WALK)
    if not compiled:
        list(walk_rows(Subject(transformer, few.one_frame().inputs(device, torch.bfloat16))))  # compiles the kernels
    else:
        options = linears.compile_options() if kind == "float8" else None
        on_gpu = {"options": options} if device.type == "cuda" else {"backend": "eager"}
        compile_blocks(transformer, dynamic=False, **on_gpu)
    subject = as_kind(transformer, few.inputs(device, torch.bfloat16), layers)
    list(walk_rows(subject))  # compiles the blocks; the first time memory is laid out
    return subject


def dense_row(subject: Compiled, attention: str, config: AdaSpaConfig) -> dict[str, Any]:
    """A dense step, and the shares of its kernels."""
    adaspa.apply(subject.transformer, config).begin(WALK.steps, branches=1)
    with dense_by(attention):
        return median_row(subject) | subject.shares()


def sparse_row(subject: Compiled, density: float, query_block: int, precision: Precision = "full") -> dict[str, Any]:
    """A sparse step with one random pattern, and the shares of its kernels."""
    with sparse_steps(subject, density, "scattered", query_block, precision) as index:
        return {"density": round(index.density(), 4)} | median_row(subject) | subject.shares()


def kind_rows(subject: Compiled, kind: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """All rows of a model with its linear layers in ``kind``, compiled, the size first and then the most telling."""
    told: dict[str, Any] = {"linears": kind, "dense_precision": "full", "compiled": True}
    if kind == LINEARS[0]:
        yield {"step": "size", "layers": sum(subject.layers.values()), "video_tokens": video_tokens(subject)}
        attention = "fa3" if device.type == "cuda" else "diffusers"
        row = told | {"step": "dense", "attention": attention, "density": 1.0}
        yield attempt(row, partial(dense_row, subject, attention, AdaSpaConfig.preset("exact")))
    for density, query_block in SPARSE if kind == LINEARS[1] else SPARSE[:1]:
        row = told | {"step": "sparse", "pattern": "scattered", "asked": density, "query_block": query_block}
        yield attempt(row, partial(sparse_row, subject, density, query_block))
    for walked in walk_rows(subject):
        yield told | walked
    if kind == LINEARS[0]:
        yield attempt({"step": "projections"}, partial(projection_row, subject, device))
        return
    told["dense_precision"] = EIGHT
    eight = AdaSpaConfig.preset("exact", dense_precision=EIGHT)
    row = told | {"step": "dense", "attention": "adaspa", "density": 1.0}
    yield attempt(row, partial(dense_row, subject, "adaspa", eight))
    config = replace(WALK, dense_precision=EIGHT)
    yield from (told | walked for walked in walk_rows(subject, config))
    told["sparse_precision"] = EIGHT
    for density, query_block in SPARSE:
        row = told | {"step": "sparse", "pattern": "scattered", "asked": density, "query_block": query_block}
        yield attempt(row, partial(sparse_row, subject, density, query_block, EIGHT))
    yield from (told | walked for walked in walk_rows(subject, replace(config, sparse_precision=EIGHT)))


def error_rows(model: FullModel, device: torch.device) -> Iterator[dict[str, Any]]:
    """Errors of each kind of block's output at one frame, against float32, the weights and what comes in being equal:
    relative to the output, and to what the block adds to its input."""
    few = model.few_blocks(1)
    inputs = few.one_frame().inputs(device, torch.bfloat16)
    given: list[tuple[Any, ...]] = []
    plain, small = (built(few, kind, device) for kind in LINEARS)
    hooks = [
        block.register_forward_pre_hook(lambda _, *call: given.append(call), with_kwargs=True)
        for block in linears.blocks_of(plain)
    ]
    Subject(plain, inputs).forward_row(500.0)
    for hook in hooks:
        hook.remove()
    for block, other, (row, named) in zip(linears.blocks_of(plain), linears.blocks_of(small), given, strict=True):
        begin = (row[0] if row else next(iter(named.values()))).float()
        whole = copy.deepcopy(block).float()
        right = first(whole(*map(in_float, row), **{name: in_float(x) for name, x in named.items()})).float()
        off = [(first(each(*row, **named)).float() - right).norm() for each in (block, other)]
        for name, norm in (("of_output", right.norm()), ("of_added", (right - begin).norm())):
            errors = {kind: round(float(error / norm), 6) for kind, error in zip(LINEARS, off, strict=True)}
            yield {"step": "error", "block": type(block).__name__, "relative": name, "errors": errors}


def in_float(x: Any) -> Any:
    """Tensors of floating point numbers in float32, alone or in tuples; anything else as it is."""
    if isinstance(x, tuple):
        return tuple(map(in_float, x))
    return x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def first(out: Any) -> torch.Tensor:
    """The video of a block's output."""
    video: torch.Tensor = out[0] if isinstance(out, tuple) else out
    return video


def projection_row(subject: Compiled, device: torch.device) -> dict[str, Any]:
    """Milliseconds of the products of query, key and value, in three launches and in one."""
    layer = next(x for name, x in linears.in_blocks(subject.transformer).items() if name.endswith("to_q"))
    tokens = video_tokens(subject)
    found = {kind: projections(kind, layer, tokens, device) for kind in LINEARS}
    return {"tokens": tokens, "apart_and_together_ms": found}


def projections(kind: str, layer: torch.nn.Linear, tokens: int, device: torch.device) -> list[float]:
    """Milliseconds of three products like a layer's, in three launches and in one."""
    from triton.testing import do_bench  # noqa: PLC0415  only where Triton is

    dtype = torch.bfloat16 if kind == LINEARS[0] else torch.float8_e4m3fn
    rows, width = layer.out_features, layer.in_features
    x, weight = (torch.randn(size, width, device=device).to(dtype) for size in (tokens, 3 * rows))
    scales, columns = torch.ones(tokens, 1, device=device), torch.ones(1, 3 * rows, device=device)

    def multiply(begin: int, end: int) -> torch.Tensor:
        right = weight[begin:end].t()
        if kind == LINEARS[0]:
            return x @ right
        scaled: torch.Tensor = torch._scaled_mm(
            x, right, scales, columns[:, begin:end], out_dtype=torch.bfloat16, use_fast_accum=True
        )
        return scaled

    def apart() -> list[torch.Tensor]:
        return [multiply(begin, begin + rows) for begin in range(0, 3 * rows, rows)]

    calls: tuple[Callable[[], Any], ...] = (apart, partial(multiply, 0, 3 * rows))
    return [round(do_bench(call, return_mode="median"), 4) for call in calls]


def compiled_rows(model: FullModel, device: torch.device) -> Iterator[dict[str, Any]]:
    """Rows of a model's compiled blocks."""
    layers = layers_of(model)
    kinds = LINEARS if device.type == "cuda" else LINEARS[:1]
    subjects = {kind: subject_of(model, kind, layers, device, Compiled) for kind in kinds}
    for kind, subject in subjects.items():
        warm_up(subject, kind, device)
    for kind, subject in subjects.items():
        yield from kind_rows(subject, kind, device)


def warm_up(subject: Compiled, kind: str, device: torch.device) -> None:
    """Run all that `kind_rows` measures once, which compiles its kernels."""
    precisions: tuple[Precision, ...] = ("full",) if kind == LINEARS[0] else ("full", EIGHT)
    for precision, (density, query_block) in product(precisions, SPARSE):
        with sparse_steps(subject, density, "scattered", query_block, precision):
            subject.forward_row(998.0)
    if kind == LINEARS[0]:
        adaspa.apply(subject.transformer, AdaSpaConfig.preset("exact")).begin(WALK.steps, branches=1)
        with dense_by("fa3" if device.type == "cuda" else "diffusers"):
            subject.forward_row(998.0)
    else:
        list(walk_rows(subject, replace(WALK, dense_precision=EIGHT)))


def uncompiled_rows(model: FullModel, device: torch.device) -> Iterator[dict[str, Any]]:
    """Rows of a model's blocks without compilation."""
    subject = subject_of(model, LINEARS[0], layers_of(model), device, Compiled, compiled=False)
    told = {"linears": LINEARS[0], "dense_precision": "full", "compiled": False}
    yield from (told | walked for walked in walk_rows(subject))
    adaspa.remove(subject.transformer)


ROWS = {"compiled": compiled_rows, "uncompiled": uncompiled_rows, "error": error_rows}
"""By name, the most telling first."""


def rows_of(part: str, model: FullModel, device: torch.device) -> Iterator[dict[str, Any]]:
    """Rows of a part for a model, and at the end why there are no more."""
    try:
        yield from ROWS[part](model, device)
    except Exception as error:
        yield failed({"step": "stopped", "part": part}, error)
    free()


def free() -> None:
    gc.collect()  # a patched transformer is part of a cycle
    torch._dynamo.reset()
    torch.cuda.empty_cache()


def measure(pipe: Connection, name: str, parts: Sequence[str], *, quick: bool) -> None:
    """Send the rows of a model: the first, before which all is compiled, then the others, once an answer has come.

    None is sent behind the last one.
    """
    model = ALL_MODELS[name].quick() if quick else ALL_MODELS[name]
    device = torch.device("cpu" if quick else "cuda")
    with torch.no_grad():
        for at, row in enumerate(chain.from_iterable(rows_of(part, model, device) for part in parts)):
            pipe.send({"model": name, "calls": model.calls} | row)
            if not at:
                pipe.recv()
    pipe.send(None)


def rows_in_turn(names: Sequence[str], parts: Sequence[str], *, quick: bool) -> Iterator[dict[str, Any]]:
    """Rows of one model after another, each measured by a process of its own when all have compiled.

    Raises:
        EOFError: a process ended before its rows did.
    """
    context = get_context("spawn")
    pipes = {}
    for name in names:
        pipes[name], theirs = context.Pipe()
        context.Process(target=measure, args=(theirs, name, parts), kwargs={"quick": quick}).start()
        theirs.close()
    first = {name: pipe.recv() for name, pipe in pipes.items()}
    for name, pipe in pipes.items():
        yield first[name]
        pipe.send("your turn")
        yield from iter(pipe.recv, None)


def main() -> None:
    parser = command_line.parser("linears", __doc__)
    parser.add_argument("--models", nargs="+", choices=list(ALL_MODELS), default=list(NAMES))
    parser.add_argument("--parts", nargs="+", choices=list(ROWS), default=list(ROWS))
    arguments, _ = command_line.read(parser)
    result: dict[str, Any] = {
        **ran_on(quick=arguments.quick),
        "diffusers": diffusers.__version__,
        "torchao": version("torchao") if find_spec("torchao") else None,
        "quick": arguments.quick,
        "complete": False,
        "rows": [],
    }
    for row in rows_in_turn(arguments.models, arguments.parts, quick=arguments.quick):
        add(result, row, arguments.output)
    result["complete"] = not any(row["step"] == "stopped" for row in result["rows"])
    write(result, arguments.output)


if __name__ == "__main__":
    main()
