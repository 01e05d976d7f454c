"""Gluon on the CPU, as far as the Hopper kernels go: warps, barriers and copies in a random order, on PyTorch tensors.

Triton's interpreter has no Gluon. Here the partitions of `gl.warp_specialize` are threads of which one runs at a time.
Which one, and when a copy arrives, is drawn at every barrier, so that what a kernel does not wait for comes too late or
too early now and then. Products are computed when they are waited for. Layouts mean nothing.
"""

import ast
import random
import re
import sys
import threading
from collections import deque
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace

import adaspa
import torch
import triton.experimental.gluon
from adaspa.ops.triton import launch
from triton.language import core

MODULES = {
    "tiles": "hopper.tiles",
    "program": "hopper.program",
    "lists": "hopper.lists",
    "walk": "hopper.walk",
    "tiled": "hopper.attention",
    "turns": "hopper.turns",
    "rounds": "hopper.rounds",
    "paired": "hopper.paired",
    "scoring": "hopper.block_mass",
    "exponentials": "hopper_eight.exponentials",
    "eight_program": "hopper_eight.program",
    "eight": "hopper_eight.attention",
    "eight_paired": "hopper_eight.paired",
    "eight_scoring": "hopper_eight.block_mass",
}
"""In the order of their imports."""
HERE = threading.local()
"""Of a warp: its machine, number and products; of a program: its number and how many there are."""


class Stuck(Exception):
    """Every warp waits, and no copy is under way."""


class Machine:
    """One program: its warps, and the copies that have not arrived yet."""

    def __init__(self, drawn):
        self.random, self.copies, self.ready, self.failure = drawn, [], {}, None
        self.turn, self.changed = None, threading.Condition()

    def run(self, parts):
        """Run each warp's function with its arguments, and wait for all."""
        program = HERE.program
        threads = [
            threading.Thread(target=self._warp, args=(i, program, *part), daemon=True) for i, part in enumerate(parts)
        ]
        self.ready = {i: lambda: True for i in range(len(parts))}
        for thread in threads:
            thread.start()
        with self.changed:
            self._go_on()
        for thread in threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def wait(self, ready):
        """Let others run until it is this warp's turn and it is ready."""
        with self.changed:
            self.ready[HERE.warp] = ready
            self._go_on()
        self._take_turn()

    def _warp(self, i, program, function, arguments):
        HERE.machine, HERE.warp, HERE.program, HERE.products = self, i, program, deque()
        try:
            self._take_turn()
            function(*arguments)
        except Exception as error:  # raised again by `run`
            self.failure = self.failure or error
        with self.changed:
            del self.ready[i]
            self._go_on()

    def _take_turn(self):
        with self.changed:
            self.changed.wait_for(lambda: self.turn == HERE.warp)
        if self.failure is not None:
            raise self.failure

    def _go_on(self):
        """Let copies arrive, and draw the warp that runs next."""
        able = [i for i, ready in self.ready.items() if ready()]
        while self.copies and (not able or self.random.random() < 0.4):
            self.copies.pop(self.random.randrange(len(self.copies)))()
            able = [i for i, ready in self.ready.items() if ready()]
        if self.ready and not able:
            self.failure = self.failure or Stuck(f"warps {sorted(self.ready)} wait for each other")
        if self.failure is not None:
            able = list(self.ready)
        self.turn = self.random.choice(able) if able else None
        self.changed.notify_all()


class Barrier:
    """A barrier in shared memory; a phase ends with its last arrival and the last byte that it expects."""

    def start(self, count):
        self.count, self.missing, self.bytes, self.phase = count, count, 0, 0

    def arrive(self, count=1, pred=True):
        if pred:
            self.missing -= count
            assert self.missing >= 0, "more arrivals than the phase has"
            self.end()

    def expect(self, size):
        self.bytes += size
        self.arrive()

    def end(self):
        if self.missing == 0 and self.bytes == 0:
            self.missing, self.phase = self.count, self.phase + 1

    def wait(self, phase, pred=True):
        if pred:
            HERE.machine.wait(lambda: self.phase & 1 != int(phase))


class Shared:
    """Tiles in shared memory: panels of some columns one behind the other, as wide as the swizzle."""

    def __init__(self, data, width):
        self.data, self.width = data, width
        if isinstance(data, torch.Tensor):
            self.dtype, self.shape = data.dtype, data.shape

    def index(self, i):
        found = self.data[int(i)]
        return found if isinstance(found, Barrier) else Shared(found, self.width)

    def slice(self, first, size):
        return Shared(self.data[int(first) : int(first) + size], self.width)

    def load(self, _):
        return self.data.clone()

    def store(self, x):
        self.data.copy_(x)

    def permute(self, _):
        return SimpleNamespace(read=lambda: self.read().T)

    def read(self):
        rows, columns = self.data.shape
        return self.data.reshape(-1, rows, self.width).transpose(0, 1).reshape(rows, columns).float()

    def _reinterpret(self, _, shape, __):
        return Shared(self.data.view(shape), self.width)


class Pointer:
    """A pointer into a flat tensor, or a tensor of them."""

    def __init__(self, data, at=0):
        self.data, self.at, self.dtype = data, at, SimpleNamespace(element_ty=data.dtype)

    def __add__(self, other):
        return Pointer(self.data, self.at + other)


def _elements(pointer, mask, *others):
    """Return the places of a load or store, which lie in the tensor where the mask says so."""
    at, mask, *others = torch.broadcast_tensors(*(torch.as_tensor(x) for x in (pointer.at, mask, *others)))
    assert (((at >= 0) & (at < pointer.data.numel())) | ~mask).all(), "beyond the tensor"
    return at, mask, *others


def _load(pointer, mask=True, other=0):
    at, mask = _elements(pointer, mask)
    found = pointer.data[torch.where(mask, at, 0)]
    return torch.where(mask, found, torch.as_tensor(other, dtype=found.dtype))


def _store(pointer, x, mask=True):
    at, mask, x = _elements(pointer, mask, x)
    pointer.data[at[mask]] = x[mask].to(pointer.data.dtype)


def _atomic_add(pointer, x, sem):
    found = _load(pointer)
    _store(pointer, found + x)
    return found


def _copy(desc, at, bar, tile):
    b, h, first, column = (int(x) for x in at)
    rows, columns = tile.data.shape[-2:]

    def arrive():
        part = desc.base[b, h, first : first + rows, column : column + columns]
        tile.data.zero_()
        tile.data[0, 0, : part.shape[0]] = part
        bar.bytes -= rows * columns * desc.base.element_size()
        bar.end()

    HERE.machine.copies.append(arrive)


class Product:
    """A matrix product that is computed when it is waited for."""

    def __init__(self, a, b, acc):
        self.a, self.b, self.acc = a, b, acc

    def end(self):
        a = self.a.read() if isinstance(self.a, Shared) else self.a.float()
        self.found = self.acc + a @ self.b.read()


def _multiply(a, b, acc, use_acc=True, is_async=False):
    product = Product(a, b, acc if use_acc else torch.zeros_like(acc))
    HERE.products.append(product)
    return product if is_async else _multiplied(0, [product])


def _multiplied(left, deps):
    HERE.machine.wait(lambda: True)
    while len(HERE.products) > left:
        HERE.products.popleft().end()
    return deps[0].found if len(deps) == 1 else tuple(product.found for product in deps)


def _assembled(asm, constraints, tensors, dtypes, _, pack):
    """Run instructions of PTX on elements that are neighbours here, as many at a time as ``pack`` says."""
    tensors = torch.broadcast_tensors(*tensors)
    parts = [x.reshape(-1, pack)[:, i] for x in tensors for i in range(pack)]
    first = constraints.count("=")
    values = {f"${first + place}": x for place, x in enumerate(parts)}
    for line in asm.strip("{ }").split(";"):
        name, _, rest = line.strip().partition(" ")
        if name and name != ".reg":
            to, *given = re.findall(r"{.*}|[^, ]+", rest)
            if to[0] == "{":
                values.update(zip(to.strip("{}").split(", "), _halves(values[given[0]]), strict=True))
            else:
                values[to] = PTX[name](*[values[x] if x in values else _number(x) for x in given])
    found, registers = [], iter(range(first))
    for dtype in dtypes if isinstance(dtypes, tuple) else (dtypes,):
        count = max(1, pack * dtype.itemsize // 4)
        bits = torch.stack([values[f"${next(registers)}"] for _ in range(count)], 1)
        found.append(bits.contiguous().view(dtype).reshape(tensors[0].shape))
    return tuple(found) if isinstance(dtypes, tuple) else found[0]


def _number(x):
    """Return an integer, or a float that is written as its bits."""
    return torch.tensor(int(x[2:], 16), dtype=torch.int32).view(torch.float32) if x.startswith("0f") else int(x, 0)


def _float(x):
    return x.contiguous().view(torch.float32)


def _halves(x, dtype=torch.float16):
    """Return the two numbers of a register, the lower one first."""
    return x.contiguous().view(dtype).reshape(-1, 2).unbind(1)


def _joined(low, high):
    return torch.stack([low, high], 1).view(torch.int32)[:, 0]


def _sums_of_two(dtype):
    return lambda x, y: _joined(*(a + b for a, b in zip(_halves(x, dtype), _halves(y, dtype), strict=True)))


def _permuted(x, y, selector):
    """Return bytes of two registers, as the selector's digits say from the last one on."""
    parts = torch.stack([x, y], 1).contiguous().view(torch.uint8)
    return parts[:, [selector >> 4 * i & 7 for i in range(4)]].contiguous().view(torch.int32)[:, 0]


PTX = {
    "cvt.rn.f32.s32": lambda x: x.float(),
    "cvt.f32.f16": lambda x: x.float(),
    "cvt.rn.relu.f16x2.f32": lambda high, low: _joined(low.half().relu(), high.half().relu()),
    "add.rn.f32": lambda x, y: _float(x) + _float(y),
    "add.rn.f16x2": _sums_of_two(torch.float16),
    "add.rn.bf16x2": _sums_of_two(torch.bfloat16),
    "and.b32": lambda x, y: x & y,
    "mul.rn.f32": lambda x, y: x * y,
    "fma.rn.f32": lambda x, y, z: (x.double() * y.double() + z.double()).float(),
    "fma.rn.sat.f32": lambda x, y, z: (x.double() * y.double() + z.double()).float().clamp(0, 1).nan_to_num(0),
    "ex2.approx.ftz.f32": torch.exp2,
    "mov.b32": lambda x: x.view(torch.int32) if x.dtype == torch.float32 else x.view(torch.float32),
    "prmt.b32": _permuted,
    "shl.b32": lambda x, n: x << n,
}
"""What instructions do; a register is moved from floats to bits and back."""


class Whole(int):
    """A constant of a kernel, which the host reads as ``value``."""

    value = property(int)


class Real(float):
    """A constant of a kernel, which the host reads as ``value``."""

    value = property(float)


def _constant(x):
    return Whole(x) if isinstance(x, int) else Real(x) if isinstance(x, float) else x


def _anything(*_, **__):
    return SimpleNamespace()


def _allocate(dtype, shape, layout):
    barriers = layout == "barriers"
    return Shared([Barrier() for _ in range(shape[0])] if barriers else torch.zeros(shape, dtype=dtype), layout)


def _language():
    gl = ModuleType("triton.experimental.gluon.language")
    tensor = torch.as_tensor
    layouts = ("SwizzledShared", "NVMMADistributed", "Blocked", "Slice")
    vars(gl).update(
        {f"{name}Layout": _anything for name in layouts},
        NVMMASharedLayout=lambda swizzle_byte_width, element_bitwidth, rank: 8 * swizzle_byte_width // element_bitwidth,
        DotOperandLayout=_anything, constexpr=_constant, tensor=object, shared_memory_descriptor=object,
        int32=torch.int32, int64=torch.int64, float32=torch.float32, float8e4nv=torch.float8_e4m3fn, static_range=range,
        program_id=lambda _: tensor(HERE.program[0]), num_programs=lambda _: tensor(HERE.program[1]),
        warp_specialize=lambda parts, *_: HERE.machine.run(parts), allocate_shared_memory=_allocate,
        load=_load, store=_store, arange=lambda first, last, layout=None: torch.arange(first, last),
        zeros=lambda shape, dtype, layout=None: torch.zeros(shape, dtype=dtype), zeros_like=torch.zeros_like,
        full=lambda shape, x, dtype, layout=None: torch.full(shape, float(x), dtype=dtype),
        atomic_add=_atomic_add,
        where=lambda condition, x, y: torch.where(tensor(condition), x, y),
        minimum=lambda x, y: torch.minimum(tensor(x), tensor(y)),
        maximum=lambda x, y: torch.maximum(tensor(x), tensor(y)),
        max=torch.Tensor.amax, sum=lambda x, axis: x.sum(axis), log2=torch.log2, floor=torch.floor,
        exp2=lambda x: tensor(x).exp2(),
        reshape=torch.Tensor.reshape, permute=torch.Tensor.permute, convert_layout=lambda x, *_, **__: x,
        inline_asm_elementwise=_assembled, split=lambda x: x.unbind(-1),
    )  # fmt: skip
    return gl


class Descriptor:
    """What Triton's own descriptor adds to ours."""

    @property
    def dtype(self):
        return self.base.dtype


def _modules(gl):
    gluon, hopper, host = ModuleType("gluon"), ModuleType("hopper"), ModuleType("host")
    gluon.jit = lambda function=None, **_: function or (lambda f: f)
    gluon.constexpr_function, gluon.language = (lambda function: function), gl
    hopper.mbarrier = SimpleNamespace(
        MBarrierLayout=lambda: "barriers", init=Barrier.start, wait=Barrier.wait, expect=Barrier.expect,
        arrive=Barrier.arrive,
    )  # fmt: skip
    hopper.tma = SimpleNamespace(async_copy_global_to_shared=_copy)
    hopper.fence_async_shared, hopper.warpgroup_mma, hopper.warpgroup_mma_wait = _anything, _multiply, _multiplied
    host.TensorDescriptor = Descriptor
    package = "triton.experimental.gluon"
    return {
        package: gluon, f"{package}.language": gl, f"{package}.language.nvidia.hopper": hopper,
        f"{package}.nvidia.hopper": host,
    }  # fmt: skip


class Launcher(launch.Launcher):
    """Runs the programs of a Gluon kernel one after the other; a Triton kernel is the interpreter's."""

    drawn = random.Random()

    def as_before(self, kind, data, new):
        if not isinstance(self.kernel, FunctionType):
            super().as_before(kind, data, new)
            return
        (programs, *_), numbers, constants = new()
        given = [Pointer(x.as_strided((x.numel(),), (1,))) if isinstance(x, torch.Tensor) else x for x in data]
        given += [torch.tensor(x) if isinstance(x, int) else x for x in numbers]
        names = self.kernel.__code__.co_varnames
        for program in range(programs):
            HERE.program, HERE.machine = (program, programs), Machine(self.drawn)
            self.kernel(*given, **{name: x for name, x in constants.items() if name in names})


class NothingInPlace(ast.NodeTransformer):
    """``x += y`` as ``x = x + y``: in a kernel no other name of a value changes with it."""

    def visit_AugAssign(self, node):
        value = ast.BinOp(ast.Name(node.target.id, ast.Load()), node.op, node.value)
        return ast.copy_location(ast.Assign([node.target], value), node)


def _loaded(name):
    """Run a module's source here."""
    path = Path(*map(str, adaspa.__path__), *name.split(".")[1:]).with_suffix(".py")
    module = sys.modules[name]
    vars(module).update(range=lambda *bounds: map(torch.tensor, range(*map(int, bounds))))
    tree = ast.parse(path.read_text().replace(".type.layout", ".layout"))
    exec(compile(ast.fix_missing_locations(NothingInPlace().visit(tree)), path, "exec"), vars(module))
    constants = {name: x.value for name, x in vars(module).items() if isinstance(x, core.constexpr)}
    vars(module).update((name, _constant(x)) for name, x in constants.items())
    return module


def emulated(patch, seed=0, processors=2):
    """Return the modules as they run here; ``patch`` is a pytest.MonkeyPatch."""
    patch.setattr(Launcher, "drawn", random.Random(seed))
    properties = SimpleNamespace(multi_processor_count=processors)
    patch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    names = {name: f"adaspa.ops.{module}" for name, module in MODULES.items()}
    with patch.context() as importing:
        for name, module in _modules(_language()).items():
            importing.setitem(sys.modules, name, module)
        importing.setattr(triton.experimental, "gluon", sys.modules["triton.experimental.gluon"])
        importing.setattr(core, "_aggregate", lambda kind: kind)
        importing.setattr(launch, "Launcher", Launcher)
        for name in names.values():
            importing.setitem(sys.modules, name, ModuleType(name))
        return SimpleNamespace(**{name: _loaded(module) for name, module in names.items()})
