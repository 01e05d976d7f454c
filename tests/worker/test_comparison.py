"""PSNR and SSIM against what is known of them."""

import math

import pytest
import torch
from adaspa_worker.comparison import IDENTICAL, psnr, ssim


def noise(seed: int) -> torch.Tensor:
    return torch.randint(20, 235, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_a_video_is_identical_to_itself() -> None:
    assert psnr(noise(0), noise(0)) == IDENTICAL
    assert ssim(noise(0), noise(0)) == 1.0


def test_psnr_of_a_constant_error() -> None:
    assert psnr(noise(0), noise(0) + 5) == pytest.approx(20 * math.log10(255 / 5), abs=1e-3)


def test_ssim_of_two_grey_levels_is_the_luminance_term() -> None:
    a, b = torch.full((2, 32, 32, 3), 51, dtype=torch.uint8), torch.full((2, 32, 32, 3), 102, dtype=torch.uint8)
    assert ssim(a, b) == pytest.approx((2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4), abs=1e-4)


def test_ssim_falls_with_the_structure_that_is_lost() -> None:
    slight = (noise(0).int() + noise(1).int() // 16).clamp(0, 255).to(torch.uint8)
    assert 0.9 < ssim(noise(0), slight) < 1.0
    assert ssim(noise(0), 255 - noise(0)) < ssim(noise(0), noise(1)) < 0.1
