"""Functional core: self-attention of one layer in one denoising step."""

from typing import Any, NamedTuple

import torch

from adaspa import ops
from adaspa.cache import CacheEntry, CacheKey
from adaspa.heads import ALL_HEADS, Heads
from adaspa.index import BlockIndex
from adaspa.ledger import SCORING, query_key_pairs
from adaspa.ops import backends
from adaspa.ops.check import check_qkv
from adaspa.probe import Probe, probe
from adaspa.record import PatternRecord, pattern_map
from adaspa.residual import mean_residual
from adaspa.schedule import StepKind
from adaspa.selection import Geometry, Search, Selected, index_recall
from adaspa.state import Action, AdaSpaState

QKV = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    state: AdaSpaState,
    *,
    layer: int = 0,
    text: tuple[int, int] | None = None,
    sample: int | None = None,
    scale: float | None = None,
    grid: tuple[int, int, int] | None = None,
    heads: Heads = ALL_HEADS,
) -> torch.Tensor:
    """Self-attention of ``layer`` as the schedule of ``state`` has it for the current step (section 4.2).

    Dense, dense with LSE, first or fused search, LSE-cached search or sparse; the caches in ``state`` are updated.

    Args:
        q, k, v: ``[B, H, S, D]``, any strides.
        state: the request, after ``state.begin_step``.
        layer: index of the layer; each has a pattern of its own.
        text: ``(start, stop)`` token range of the text in a joint sequence: all its blocks are kept (text sink).
        sample: which sample of the batch this is, where samples of different lengths are called one by one.
        scale: factor of q.k; ``D ** -0.5`` by default.
        grid: frames, rows and columns of the video tokens, for selection policies that look at places; None where the
            video is not such a grid.
        heads: which heads of the layer these are, where ranks share them; all by default.

    Returns:
        out ``[B, H, S, D]`` in the dtype of q.

    Raises:
        ValueError: when shapes, dtypes or devices do not match, or differ from those of the request's earlier steps.
    """
    check_qkv(q, k, v)
    if q.shape != k.shape:
        raise ValueError(f"k must have the shape of q in self-attention, {tuple(q.shape)}, got {tuple(k.shape)}")
    plan = state.plan
    geometry = Geometry(q.shape[2], plan.query_block, plan.key_block, _checked_text(text, q.shape[2]))
    state.for_sequence(layer, sample, (geometry, q.shape[0]))
    sequences = q.shape[0] * heads.total(q.shape[1])
    site = _Site(state, state.key(layer, sample), geometry, sequences, scale, grid, heads)
    action = state.action(layer, sample)
    with backends.counted(state.record.ledger.kernels[action.kind]):
        return _act(action, q, k, v, site)


def attention_by_pattern(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, state: AdaSpaState, selected: Selected, *, layer: int = 0
) -> torch.Tensor:
    """Self-attention of ``layer`` by a pattern of the model's own for this call, whatever the schedule has.

    Args:
        q, k, v: ``[B, H, S, D]``, any strides.
        state: the request, after ``state.begin_step``.
        selected: the pattern, with its recall as the model estimates it.
        layer: index of the layer.

    Returns:
        out ``[B, H, S, D]`` in the dtype of q.

    Raises:
        ValueError: when shapes, dtypes or devices do not match.
    """
    assert state.step is not None, "begin_step comes first"
    index = selected.index
    pairs = query_key_pairs(q.shape[0] * q.shape[1], q.shape[2])
    state.ran(state.key(layer), StepKind.SPARSE, pairs, 0)
    with backends.counted(state.record.ledger.kernels[StepKind.SPARSE]):
        out, _ = ops.block_sparse_attention(q, k, v, index)
    small_map = pattern_map(index) if state.plan.record_maps else None
    pattern = PatternRecord.of(index, layer, state.step, selected.recall)
    pattern.map, pattern.estimated = small_map, True
    pattern.used(StepKind.SPARSE, pairs)
    state.record.patterns.append(pattern)
    return out


def _act(action: Action, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: "_Site") -> torch.Tensor:
    if action is Action.FIRST_SEARCH:
        return _first_search(q, k, v, site)
    if action is Action.FUSED_SEARCH:
        return _fused_search(q, k, v, site)
    if action is Action.CACHED_SEARCH:
        return _cached_search(q, k, v, site)
    if action is Action.SPARSE:
        site.ran(StepKind.SPARSE, 0)
        return _sparse(q, k, v, site, StepKind.SPARSE)
    site.ran(action.kind, 1)
    if action is Action.DENSE_WITH_LSE:
        out, lse = ops.dense_attention(q, k, v, **site.dense)
        site.state.cache.put(site.key, CacheEntry(lse=lse))
        return out
    out = ops.attention(q, k, v, **site.dense)
    return out if action is Action.DENSE else _compensated((q, k, v), out, site)


class _Site(NamedTuple):
    """Place of an attention call: the request, its layer and its sequence."""

    state: AdaSpaState
    key: CacheKey
    geometry: Geometry
    sequences: int
    """Over batch and heads, those of other ranks included."""
    scale: float | None
    grid: tuple[int, int, int] | None
    heads: Heads

    @property
    def pairs(self) -> int:
        """Query-key pairs of a dense call."""
        return query_key_pairs(self.sequences, self.geometry.tokens)

    def ran(self, kind: StepKind, cost: float) -> None:
        """Account for what runs here now, by its cost in dense calls but for its sparse part."""
        self.state.ran(self.key, kind, self.pairs, cost)

    @property
    def scoring(self) -> float:
        """Cost of an LSE-cached scoring, in dense calls."""
        return SCORING / self.state.plan.query_stride

    @property
    def lse(self) -> torch.Tensor | None:
        """LSE that an earlier step left."""
        return self.state.cache.lse(self.key)

    @property
    def dense(self) -> dict[str, Any]:
        """Scale and precision as dense attention and scoring take them."""
        return {"scale": self.scale, "precision": self.state.plan.dense_precision}

    @property
    def blocks(self) -> dict[str, Any]:
        """Sizes and text of the blocks as the scoring operations take them."""
        return {"key_block": self.geometry.key_block, "query_block": self.geometry.query_block}


def _fused_search(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: _Site) -> torch.Tensor:
    """Dense output and a pattern from one pass, by the LSE of the dense step before."""
    cached = site.lse
    assert cached is not None, "the action was chosen because there is an LSE"
    site.ran(StepKind.SEARCH, 1)
    out, mass, lse = ops.attention_with_block_mass(q, k, v, cached, scale=site.scale, **site.blocks)
    _probe((q, k, v), lse, _select(q, k, mass, lse, site), site)
    return _compensated((q, k, v), out, site)


def _first_search(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: _Site) -> torch.Tensor:
    """Dense output, and a pattern by the LSE that its pass leaves.

    Where no earlier step has left an LSE, scoring costs less than a second dense pass for a fused search, and with a
    ``query_stride`` next to nothing. In eight bits, both passes together cost less than a fused one in full precision.
    """
    site.ran(StepKind.SEARCH, 1 + site.scoring)
    out, lse = ops.dense_attention(q, k, v, **site.dense)
    _probe((q, k, v), lse, _select_by_scoring(q, k, lse, site), site)
    return _compensated((q, k, v), out, site)


def _cached_search(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: _Site) -> torch.Tensor:
    """A new pattern from the LSE of the earlier search, and the output by it; dense if it does not fit the budget."""
    lse = site.lse
    assert lse is not None, "the action was chosen because there is an LSE"
    _select_by_scoring(q, k, lse, site)
    refused = site.key in site.state.cache.refused
    site.ran(StepKind.SEARCH, site.scoring + refused)
    return ops.attention(q, k, v, **site.dense) if refused else _sparse(q, k, v, site, StepKind.SEARCH)


def _select_by_scoring(q: torch.Tensor, k: torch.Tensor, lse: torch.Tensor, site: _Site) -> BlockIndex:
    stride = site.state.plan.query_stride
    mass = ops.block_mass(q, k, lse, query_stride=stride, **site.dense, **site.blocks)
    return _select(q, k, mass, lse, site, estimated=stride > 1)


def _select(
    q: torch.Tensor, k: torch.Tensor, mass: torch.Tensor, lse: torch.Tensor, site: _Site, *, estimated: bool = False
) -> BlockIndex:
    state = site.state
    assert state.step is not None, "a search happens within a step"
    heads, plan = site.heads, state.plan
    selected = state.policy.select(Search(q, k, mass, site.geometry, site.grid, heads))
    state.cache.put(site.key, CacheEntry(lse=lse if state.keeps_lse else None, index=selected.index))
    small_map = heads.gather(pattern_map(selected.index).unsqueeze(0))[0] if plan.record_maps else None
    pattern = PatternRecord.of(selected.index, site.key.layer, state.step, selected.recall, heads=heads)
    pattern.map, pattern.estimated = small_map, estimated
    state.add_pattern(site.key, pattern)
    _agree(site)
    return selected.index


def _agree(site: _Site) -> None:
    """Have a layer whose cache a rank refused dense in all ranks: they search together."""
    state = site.state
    may_refuse = state.plan.cache_budget is not None and not state.plan.spill
    if may_refuse and site.heads.any(site.key in state.cache.refused):
        state.refuse(site.key)


def _probe(qkv: QKV, lse: torch.Tensor, index: BlockIndex, site: _Site) -> None:
    """Enter into the record how unevenly the queries of a search with dense output lose mass to its pattern."""
    seen = probe(qkv, lse, index, site.geometry, site.scale)
    if seen is not None:
        unevenness, share = site.heads.gather(torch.stack([seen.unevenness, seen.share], dim=-1)).unbind(-1)
        pairs = seen.pairs // lse.shape[1] * site.heads.total(lse.shape[1])
        site.state.pattern(site.key).probe = Probe(unevenness, pairs, share)


def _compensated(qkv: QKV, out: torch.Tensor, site: _Site) -> torch.Tensor:
    """Keep what the dense output has beside that of the pattern in use, if sparse steps are to be compensated by it."""
    state, index = site.state, site.state.cache.index(site.key)
    if state.plan.compensates and index is not None:
        state.keep_residual(site.key, mean_residual(qkv, out, index, site.scale, state.plan.sparse_precision))
        state.pattern(site.key).compared(StepKind.SEARCH, site.pairs)
        _agree(site)
    return out


def _sparse(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: _Site, kind: StepKind) -> torch.Tensor:
    index = site.state.cache.index(site.key)
    assert index is not None, "the action was chosen because there is an index"
    precision = site.state.plan.sparse_precision
    out, lse = ops.block_sparse_attention(q, k, v, index, scale=site.scale, precision=precision)
    if site.state.searches_next and (cached := site.lse) is not None:
        site.state.cache.replace_lse(site.key, followed(cached, lse))
    if site.state.plan.compensates:
        residual, weight = site.state.residual(site.key)
        ops.add_residual(out, residual, index.key_block, weight)
        site.state.record.ledger.compensated += 1
    site.state.record.ledger.shared += site.state.follows
    pattern = site.state.pattern(site.key)
    pattern.used(kind, site.pairs)
    if site.state.plan.measure_recall:
        pattern.measured.append(site.heads.gather(_recall_now(q, k, v, index, site.scale)))
    return out


def followed(cached: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """LSE for a later search to score by: between that of the search before and that of the blocks kept now.

    A query that lost much of its mass has a low LSE of what is kept, so that it counts for more in the block mass: the
    blocks that it misses are found. The mean of both keeps it from counting for too much. One whose LSE has risen since
    the search counts for no more than its own.
    """
    return torch.maximum((cached + kept) / 2, kept)


def _recall_now(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, index: BlockIndex, scale: float | None
) -> torch.Tensor:
    """Compute the recall of a pattern in the current step, from its true LSE: fp32 ``[B, H]``."""
    _, lse = ops.dense_attention(q, k, v, scale=scale)
    return index_recall(
        ops.block_mass(q, k, lse, key_block=index.key_block, query_block=index.query_block, scale=scale), index
    )


def _checked_text(text: tuple[int, int] | None, tokens: int) -> tuple[int, int] | None:
    if text is not None and not 0 <= text[0] <= text[1] <= tokens:
        raise ValueError(f"text must be a (start, stop) range within 0 to {tokens} tokens, got {text}")
    return text
