"""Time on a device that works by itself."""

import torch


def synchronize(device: torch.device | str) -> None:
    """Wait until a GPU has done what it was given; a CPU has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
