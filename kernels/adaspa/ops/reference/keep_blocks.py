"""Selection of the heaviest blocks of each row, in PyTorch."""

import torch

LEAST_MASS = 1e-30
"""A row of block mass sums to about its number of query rows; from less than this no shares can be told."""


def keep_blocks(
    block_mass: torch.Tensor, limits: torch.Tensor, rule: str, text: list[int], width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`adaspa.ops.keep_blocks`, by sorting every row."""
    text_start, text_stop, rows_start, rows_stop = text
    nk = block_mass.shape[-1]
    mass = block_mass.sum(-1)
    shares = block_mass / mass.unsqueeze(-1)
    ranking = shares.clone()
    ranking[..., text_start:text_stop] = torch.inf
    ranked = ranking.argsort(dim=-1, descending=True, stable=True)
    limits = limits[..., None]
    ordered = shares.gather(-1, ranked)
    before = ordered.cumsum(-1) - ordered
    least = max(1, text_stop - text_start)
    if rule == "mass":
        counts = (before < limits[..., None]).sum(-1).clamp(min=least)
    elif rule == "gain":
        enough = ordered >= limits[..., None] * before
        enough[..., :least] = True
        counts = enough.cumprod(-1).sum(-1)
    else:
        counts = limits.long().expand(block_mass.shape[:3]).clone()
    counts[..., rows_start:rows_stop] = nk
    counts.masked_fill_(~((mass > LEAST_MASS) & (mass < torch.inf)), nk)
    kept = torch.arange(nk, device=block_mass.device) < counts.unsqueeze(-1)
    share = torch.where(counts == nk, 1.0, (ordered * kept).sum(-1))
    ids = torch.where(kept & (counts < nk).unsqueeze(-1), ranked, nk).sort(dim=-1).values[..., :width]
    return ids.masked_fill(ids == nk, 0).to(torch.int16), counts.int(), share
