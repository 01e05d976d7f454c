"""The Triton kernels without a GPU: their results in the interpreter, and their compilation for real targets."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args
from unittest.mock import patch

import numpy as np
import pytest
import torch
import triton
from adaspa.ops.hopper import attention as hopper_attention
from adaspa.ops.hopper import block_mass as hopper_block_mass
from adaspa.ops.hopper import paired as hopper_paired
from adaspa.ops.hopper_eight import attention as eight_attention
from adaspa.ops.hopper_eight import block_mass as eight_block_mass
from adaspa.ops.hopper_eight import paired as eight_paired
from adaspa.ops.hopper_eight.program import REGISTERS as EIGHT_REGISTERS
from adaspa.ops.keep_blocks import Rule
from adaspa.ops.round_rows import Activation
from adaspa.ops.triton import launch
from adaspa.ops.triton.add_residual import add_residual_kernel
from adaspa.ops.triton.attention_with_block_mass import attention_with_block_mass_kernel
from adaspa.ops.triton.block_mass import block_mass_kernel
from adaspa.ops.triton.block_sparse_attention import block_sparse_kernel
from adaspa.ops.triton.keep_blocks import keep_blocks_kernel
from adaspa.ops.triton.rotary import rotary_kernel
from adaspa.ops.triton.round_rows import round_rows_kernel
from packaging.version import Version
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.language import NVMMASharedLayout

KERNELS = {
    "sparse": (block_sparse_kernel, {"BLOCK_M": 64, "BLOCK_N": 64}),
    "with_block_mass": (attention_with_block_mass_kernel, {"BLOCK_M": 128, "BLOCK_N": 64}),
    "block_mass": (block_mass_kernel, {"BLOCK_M": 128, "BLOCK_ROWS": 64, "BLOCK_N": 64}),
}
POINTERS = {
    "ids": "*i16",
    "counts": "*i32",
    "sizes": "*i32",
    "lse": "*fp32",
    "cached_lse": "*fp32",
    "block_mass": "*fp32",
    "order": "*i32",
}
TILED = {"q", "k", "v"}
DATA = {*TILED, "out"}


@pytest.mark.skipif(
    Version(triton.__version__) < Version("3.7") and Version(np.__version__) >= Version("2.4"),
    reason="the interpreter of Triton before 3.7 makes numbers of arrays in a way that NumPy 2.4 refuses",
)
def test_results_in_the_interpreter():
    cases = Path(__file__).with_name("interpreted_kernels.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=short", "--noconftest", str(cases)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


SHARED_KIB = {80: 163, 89: 99, 90: 227}
"""Shared memory that a block may have, by compute capability: tables of the CUDA programming guide."""


def options(blocks, capability, dim):
    """Warps and stages as a GPU of this capability gets them."""
    with patch.object(launch, "_shared_memory", lambda _: SHARED_KIB[capability] * 1024):
        return launch.launch_options(blocks["BLOCK_M"], 64, torch.empty(1, dim, dtype=torch.bfloat16, device="meta"))


def compiled(name, capability, dim=128, dtype="bf16"):
    """The kernel as it is launched: strides and pointers are multiples of 16, everything else is not specialised."""
    kernel, blocks = KERNELS[name]
    width, use_tma = triton.next_power_of_2(dim), capability >= 90
    constants = {**blocks, "D": dim, "BLOCK_D": width, "PRECISION": "tf32", "USE_TMA": use_tma}
    signature, attrs = {}, {}
    for i, argument in enumerate(kernel.arg_names):
        aligned = (
            (argument in DATA and not (argument in TILED and use_tma))
            or argument in POINTERS
            or argument.startswith("stride")
        )
        signature[argument] = (
            "constexpr"
            if argument in constants
            else f"tensordesc<{dtype}[1, 1, {blocks['BLOCK_M'] if argument == 'q' else 64}, {width}]>"
            if argument in TILED and use_tma
            else f"*{dtype}"
            if argument in DATA
            else POINTERS.get(argument, "fp32" if argument == "scale" else "i32")
        )
        if aligned:
            attrs[i,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(n),): v for n, v in constants.items()}, attrs)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=options(blocks, capability, dim))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("capability", "instruction"), [(80, "mma.sync"), (89, "mma.sync"), (90, "wgmma")])
def test_compiles_to_tensor_cores(name, capability, instruction):
    kernel = compiled(name, capability)
    assert instruction in kernel.asm["ptx"]
    assert ("cp.async.bulk.tensor" in kernel.asm["ptx"]) == (capability >= 90)
    assert kernel.metadata.shared <= SHARED_KIB[capability] * 1024


@pytest.mark.parametrize("dim", [32, 96, 256])
def test_compiles_for_every_head_dim(dim):
    assert "wgmma" in compiled("sparse", 90, dim, "fp16").asm["ptx"]


SPARSE = {"SPAN": 1, "LISTED": True, "BLOCK_MASS": False, "GUARDED": False}
HOPPER_KERNELS = {
    "sparse": (hopper_attention, "attention_kernel", SPARSE),
    "sparse-guarded": (hopper_attention, "attention_kernel", SPARSE | {"GUARDED": True}),
    "sparse-pairs": (hopper_paired, "paired_kernel", {}),
    "dense": (hopper_attention, "attention_kernel", SPARSE | {"LISTED": False}),
    "with-block-mass": (hopper_attention, "attention_kernel", SPARSE | {"LISTED": False, "BLOCK_MASS": True}),
    "with-block-mass-guarded": (
        hopper_attention,
        "attention_kernel",
        SPARSE | {"LISTED": False, "BLOCK_MASS": True, "GUARDED": True},
    ),
    "block_mass": (hopper_block_mass, "block_mass_kernel", {"ROWS": 16}),
    "sampled-block-mass": (hopper_block_mass, "block_mass_kernel", {"ROWS": 4}),
}


# The variants differ by branches; what the head dimension and the dtype change is in all of a kernel's.
@pytest.mark.parametrize(
    ("name", "dim", "dtype"),
    [
        ("sparse", 128, "bf16"),
        ("sparse-guarded", 64, "fp16"),
        ("sparse-pairs", 128, "bf16"),
        ("dense", 64, "fp16"),
        ("with-block-mass", 128, "bf16"),
        ("with-block-mass-guarded", 64, "fp16"),
        ("block_mass", 128, "bf16"),
        ("sampled-block-mass", 64, "fp16"),
    ],
)
def test_hopper_kernels_compile(name, dim, dtype):
    kernel = compiled_for_hopper(name, dim, dtype)
    ptx = kernel.asm["ptx"]
    assert f"wgmma.mma_async.sync.aligned.m64n128k16.f32.{dtype.replace('fp', 'f')}" in ptx
    assert "setmaxnreg" in ptx and "cp.async.bulk.tensor" in ptx
    assert kernel.metadata.shared < 227 * 1024


def test_dense_attention_with_block_mass_spills_next_to_nothing(tmp_path):
    """What lies on the stack is what a program needs between its query tiles."""
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled_for_hopper("with-block-mass", 128, "bf16").asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    said = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    (stack,) = re.findall(r"STACK:(\d+)", said)
    assert int(stack) <= 64


def compiled_for_hopper(name, dim, dtype):
    module, kernel_name, constants = HOPPER_KERNELS[name]
    kernel = getattr(module, kernel_name)
    constants = constants | {"D": dim, "STAGES": module.STAGES[dim]}
    panel = f"tensordesc<{dtype}[1, 1, 64, 64],{NVMMASharedLayout(128, 16, rank=4)!r}>"
    types = POINTERS | {"out": f"*{dtype}", "scale": "fp32", "q_desc": panel, "k_desc": panel, "v_desc": panel}
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in kernel.arg_names}
    values = {(kernel.arg_names.index(n),): value for n, value in constants.items()}
    return triton.compile(
        GluonASTSource(kernel, signature, values), target=GPUTarget("cuda", 90, 32), options=module.REGISTERS
    )


EIGHT = {
    "sparse": (eight_attention.attention_kernel, {"STAGES": eight_attention.STAGES, "SPAN": 1, "LISTED": True}),
    "dense": (eight_attention.attention_kernel, {"STAGES": eight_attention.STAGES, "SPAN": 1, "LISTED": False}),
    "sparse-pairs": (eight_paired.paired_kernel, {"STAGES": eight_paired.STAGES}),
}


@pytest.mark.parametrize(("name", "dim"), [("sparse", 64), ("dense", 128), ("sparse-pairs", 64), ("sparse-pairs", 128)])
def test_hopper_kernels_of_eight_bits_compile(name, dim):
    kernel, constants = EIGHT[name]
    constants = constants | {"D": dim}
    rows = f"tensordesc<i8[1, 1, 64, {dim}],{NVMMASharedLayout(dim, 8, rank=4)!r}>"
    columns = f"tensordesc<fp8e4nv[1, 1, {dim}, 64],{NVMMASharedLayout(64, 8, rank=4)!r}>"
    floats = dict.fromkeys(("q_scales", "k_scales", "v_scales", "offsets"), "*fp32")
    types = POINTERS | floats | {"out": "*bf16", "q_desc": rows, "k_desc": rows, "v_desc": columns}
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in kernel.arg_names}
    values = {(kernel.arg_names.index(n),): value for n, value in constants.items()}
    compiled_kernel = triton.compile(
        GluonASTSource(kernel, signature, values), target=GPUTarget("cuda", 90, 32), options=EIGHT_REGISTERS
    )
    ptx = compiled_kernel.asm["ptx"]
    assert "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8" in ptx
    assert f"wgmma.mma_async.sync.aligned.m64n{dim}k32.f32.e4m3.e4m3" in ptx
    assert "setmaxnreg" in ptx and "cp.async.bulk.tensor" in ptx
    assert compiled_kernel.metadata.shared < 227 * 1024


@pytest.mark.parametrize(("dim", "rows"), [(64, 16), (128, 16), (128, 1)])
def test_hopper_kernel_of_scoring_in_eight_bits_compiles(dim, rows):
    kernel = eight_block_mass.block_mass_kernel
    constants = {"D": dim, "STAGES": eight_block_mass.STAGES, "ROWS": rows}
    tile = f"tensordesc<i8[1, 1, 64, {dim}],{NVMMASharedLayout(dim, 8, rank=4)!r}>"
    types = POINTERS | {"q_scales": "*fp32", "k_scales": "*fp32", "q_desc": tile, "k_desc": tile}
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in kernel.arg_names}
    values = {(kernel.arg_names.index(n),): value for n, value in constants.items()}
    compiled_kernel = triton.compile(
        GluonASTSource(kernel, signature, values), target=GPUTarget("cuda", 90, 32), options=eight_block_mass.REGISTERS
    )
    assert "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8" in compiled_kernel.asm["ptx"]
    assert compiled_kernel.metadata.shared < 227 * 1024


@pytest.mark.parametrize("capability", [89, 90])
@pytest.mark.parametrize("rule", get_args(Rule))
def test_selection_compiles(rule, capability):
    pointers = {"block_mass": "*fp32", "limits": "*fp32", "ids": "*i16", "counts": "*i32", "shares": "*fp32"}
    assert plainly_compiled(keep_blocks_kernel, pointers, {"BLOCKS": 2048, "RULE": rule}, capability).asm["cubin"]


@pytest.mark.parametrize("capability", [89, 90])
@pytest.mark.parametrize("activation", get_args(Activation))
def test_rounding_compiles(activation, capability):
    pointers = {"x": "*bf16", "before": "*bf16", "out": "*fp8e4nv", "scales": "*fp32"}
    constants = {"BEFORE": 0, "WIDTH": 5120, "ACTIVATION": activation, "BLOCK": 8192}
    ptx = plainly_compiled(round_rows_kernel, pointers, constants, capability).asm["ptx"]
    assert "cvt.rn.satfinite.e4m3x2" in ptx


@pytest.mark.parametrize("capability", [89, 90])
def test_addition_of_a_residual_compiles(capability):
    pointers = dict.fromkeys(("out", "residual"), "*bf16") | {"weight": "fp32"}
    constants = {"D": 128, "WIDTH": 128, "ROWS": 64, "BLOCK": 64}
    assert plainly_compiled(add_residual_kernel, pointers, constants, capability).asm["cubin"]


@pytest.mark.parametrize("capability", [89, 90])
def test_rotary_compiles(capability):
    pointers = dict.fromkeys(("x", "out"), "*bf16") | dict.fromkeys(("cos", "sin"), "*fp32")
    constants = {"D": 128, "PAIRS": 64, "ROWS": 16, "SHARED": True}
    assert plainly_compiled(rotary_kernel, pointers, constants, capability).asm["cubin"]


def plainly_compiled(kernel, pointers, constants, capability):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
