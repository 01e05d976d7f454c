"""Numbers of e4m3, eight bits with four of exponent."""

import torch

E4M3 = torch.float8_e4m3fn
MOST = float(torch.finfo(E4M3).max)
LEAST_SCALE = 1e-30
"""Scale of a row of zeros, which then stay zeros."""
