"""Options that benchmarks of models share: the file to write, and ``--quick``, to try the benchmark without a GPU."""

import argparse
from pathlib import Path

import torch


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """Return a parser of ``--output`` and ``--quick``, to which a benchmark adds options of its own.

    Args:
        module: name of the benchmark in this package.
        description: its docstring, whose first line the help shows.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.models.{module}", description=description.splitlines()[0]
    )
    made.add_argument("--output", type=Path, required=True, help="the JSON file, written as it grows")
    made.add_argument("--quick", action="store_true", help="tiny models on the CPU: to try the benchmark itself")
    return made


def read(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, torch.device]:
    """Return the options and the device to measure on: the CPU with ``--quick``, else a GPU, which there must be."""
    arguments = parser.parse_args()
    if not arguments.quick and not torch.cuda.is_available():
        parser.error("a GPU is needed, or --quick")
    return arguments, torch.device("cpu" if arguments.quick else "cuda")
