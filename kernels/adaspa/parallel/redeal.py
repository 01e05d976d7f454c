"""New deal of a layer's heads by what its last search kept of them; their caches move along."""

import torch
import torch.nn.functional as F

from adaspa.cache import CacheEntry, CacheKey
from adaspa.deal import Deal
from adaspa.index import BlockIndex
from adaspa.parallel.ranks import Ranks
from adaspa.state import AdaSpaState

EXCHANGE = 0.03
"""Cost of exchanging a head, as a share of its dense attention (a 24-head layer of 115,200 tokens)."""
WORTH = 1.01
"""A deal is kept while it is dearer than the best by less than this: moving the caches has its price too."""


def redealt(state: AdaSpaState, layer: int, ranks: Ranks, heads: int, device: torch.device) -> Deal:
    """Return the deal of ``layer`` for the call that comes now: even until the layer has a pattern.

    Every rank comes to the same one, from the densities of all heads. Reading them waits for the device, once a search.
    Where caches may be refused (``cache_budget`` with ``over_budget="dense"``) the heads stay where they are.
    """
    site = state.key(layer)
    deal = state.deals.setdefault(site, Deal.even(heads, ranks.size))
    patterns = state.patterns_of(layer)
    now = tuple(id(pattern) for pattern in patterns.values())
    if not patterns or state.dealt_for.get(site) == now:
        return deal
    state.dealt_for[site] = now
    density = torch.stack([pattern.density.double().sum(0) for pattern in patterns.values()]).sum(0)
    costs = (density + EXCHANGE * sum(pattern.density.shape[0] for pattern in patterns.values())).tolist()
    even, best = Deal.even(heads, ranks.size), Deal.by_cost(costs, ranks.size)
    can_move = state.plan.cache_budget is None or state.plan.spill
    if can_move and deal.imbalance(costs) > WORTH * best.imbalance(costs):
        for key in patterns:
            _move(state, key, deal, best, ranks)
        deal = state.deals[site] = best
    kept = density.tolist()
    state.record.imbalances.append((even.imbalance(kept), deal.imbalance(kept)))
    return deal


def _move(state: AdaSpaState, key: CacheKey, old: Deal, new: Deal, ranks: Ranks) -> None:
    """Send the entry of every head to the rank that has it from now on."""
    lse, index = state.cache.lse(key), state.cache.index(key)
    assert index is not None, "a key with a pattern has its lists"
    width = max(ranks.integers(index.ids.shape[-1], index.ids.device))
    ids = _moved(F.pad(index.ids, (0, width - index.ids.shape[-1])), old, new, ranks)
    counts = _moved(index.counts, old, new, ranks)
    moved = BlockIndex(ids, counts, index.query_block, index.key_block, index.query_tokens, index.key_tokens)
    state.cache.put(key, CacheEntry(None if lse is None else _moved(lse, old, new, ranks), moved))
    # Branches that share these lists have not seen yet what they lose.
    if (residual := state.cache.residual(key)) is not None:
        state.cache.put_residual(key, _moved(residual, old, new, ranks))


def _moved(x: torch.Tensor, old: Deal, new: Deal, ranks: Ranks) -> torch.Tensor:
    """``[B, heads of the old hand, ...]`` to ``[B, heads of the new hand, ...]``."""
    mine, next_mine = old.hands[ranks.rank], new.hands[ranks.rank]
    to = [[head for head in mine if head in hand] for hand in new.hands]
    come = [[head for head in hand if head in next_mine] for hand in old.hands]
    rows = x.transpose(0, 1)
    each = rows[0].numel()
    sent = rows[[mine.index(head) for heads in to for head in heads]].contiguous()
    received, work = ranks.exchange(
        sent.flatten(), [each * len(heads) for heads in to], [each * len(heads) for heads in come]
    )
    work.wait()
    arrived = [head for heads in come for head in heads]
    rows = received.view(-1, *rows.shape[1:])[[arrived.index(head) for head in next_mine]]
    return rows.transpose(0, 1).contiguous()
