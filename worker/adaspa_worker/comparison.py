"""Similarity of two videos: PSNR and SSIM."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

IDENTICAL = 100.0  # decibels reported for equal videos, whose PSNR is infinite


def psnr(video: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio of two uint8 videos of the same shape, in decibels."""
    error = float((video.double() - reference.double()).square().mean())
    return round(min(IDENTICAL, 10.0 * math.log10(255.0**2 / error)), 3) if error else IDENTICAL


def ssim(video: Tensor, reference: Tensor) -> float:
    """Structural similarity of two uint8 videos [frames, height, width, 3], mean over frames and channels.

    A Gaussian window of 11 pixels with a deviation of 1.5, as in Wang et al. (2004).
    """
    a, b = (v.double().permute(0, 3, 1, 2).flatten(0, 1)[:, None] / 255.0 for v in (video, reference))
    offsets = torch.arange(11, dtype=torch.float64, device=video.device) - 5.0
    window = torch.exp(-(offsets**2) / (2.0 * 1.5**2))
    window = window / window.sum()

    def blur(image: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(image, window.view(1, 1, 11, 1)), window.view(1, 1, 1, 11))

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return round(float((value / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean()), 5)
