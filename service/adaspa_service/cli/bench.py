"""``adaspa bench``: the library's own check of its kernels, as a table or JSON."""

import json
import subprocess
import sys
from enum import StrEnum
from typing import Annotated

import typer

from adaspa_service.cli.local import need
from adaspa_service.cli.terminal import Json, fail, last_words, print_json, print_table, say

COLUMNS = ("OPERATION", "DENSITY", "MS", "TFLOP/S")


class Dtype(StrEnum):
    """Data types for timing the kernels."""

    bfloat16 = "bfloat16"
    float16 = "float16"


def bench(
    *,
    dtype: Annotated[Dtype, typer.Option(help="Data type of the tensors.")] = Dtype.bfloat16,
    as_json: Json = False,
) -> None:
    """Check the kernels against reference implementations on this GPU, and time them beside PyTorch's attention."""
    need(("adaspa", "torch", "triton"), "bench")
    command = [sys.executable, "-m", "adaspa.self_check", "--dtype", dtype.value]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        fail(f"bench: {last_words(ran).rpartition('error: ')[2]}")
    found = json.loads(ran.stdout)
    if as_json:
        return print_json(found)
    print_table(COLUMNS, [[row["op"], row["density"], row["ms"], row["tflops"]] for row in found["rows"]])
    worst = max(max(row["max_abs_difference"]) for row in found["deviations"])
    shape = found["shape"]
    say(f"{found['device']}, {shape['heads']} heads, {shape['tokens']} tokens, head dimension {shape['dim']}")
    return say(f"Largest difference from the references over {len(found['deviations'])} kernels: {worst:.3g}")
