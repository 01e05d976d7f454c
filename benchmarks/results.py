"""The JSON file of a benchmark: what it ran on, and rows that are written as soon as they are known."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import torch

Result = dict[str, Any]


def ran_on(*, quick: bool = False) -> Result:
    """Date, device and PyTorch; ``quick``: on the CPU, to try the benchmark itself."""
    device = "CPU" if quick else torch.cuda.get_device_name()
    return {"date": date.today().isoformat(), "device": device, "torch": torch.__version__}


def write(result: Result, path: Path) -> None:
    """Write a result as it stands."""
    path.write_text(json.dumps(result, indent=1) + "\n")


def add(result: Result, row: dict[str, Any], path: Path) -> None:
    """Add a row to a result, write it and print the row."""
    result["rows"].append(row)
    write(result, path)
    print(json.dumps(row), flush=True)
