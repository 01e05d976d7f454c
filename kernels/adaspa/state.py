"""State of one request: where it stands in its schedule, its caches and its record."""

from dataclasses import replace
from enum import Enum, auto

import torch

from adaspa.cache import CacheKey, RequestCache
from adaspa.deal import Deal
from adaspa.ledger import query_key_pairs
from adaspa.ops import backends
from adaspa.ops.call import Call
from adaspa.plan import Plan
from adaspa.record import PatternRecord, RequestRecord
from adaspa.residual import fading
from adaspa.schedule import Schedule, StepKind
from adaspa.selection import Policy


class Action(Enum):
    """Action of one layer in the current denoising step."""

    DENSE = auto()
    DENSE_WITH_LSE = auto()
    DENSE_WITH_RESIDUAL = auto()
    """Dense, to see what the output of another branch's lists lacks: it counts as a search."""
    FIRST_SEARCH = auto()
    """Search with dense output that takes its own LSE: no step has left one, or no fused pass has the precision."""
    FUSED_SEARCH = auto()
    CACHED_SEARCH = auto()
    SPARSE = auto()

    @property
    def kind(self) -> StepKind:
        """Kind that a call of the attention counts as."""
        if self in (Action.DENSE, Action.DENSE_WITH_LSE):
            return StepKind.DENSE
        return StepKind.SPARSE if self is Action.SPARSE else StepKind.SEARCH


class AdaSpaState:
    """One request, used from one thread.

    Args:
        plan: what it does in which step: ``config.resolve(steps)``.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.cache = RequestCache(plan.cache_budget, spill=plan.spill)
        self.record = RequestRecord()
        self.step: int | None = None
        self.branch = ""
        self.kind = StepKind.DENSE
        self.deals: dict[CacheKey, Deal] = {}
        """Deal of each layer's heads to the ranks that share the sequence; see `adaspa.parallel.redeal`."""
        self.dealt_for: dict[CacheKey, tuple[int, ...]] = {}
        self._in_use: dict[CacheKey, PatternRecord] = {}
        self._residual_of: dict[CacheKey, PatternRecord] = {}
        self._searched: dict[str, int] = {}
        self._first_branch: str | None = None
        self._sequences: dict[tuple[int, int | None], object] = {}
        self._apart: set[str] = set()
        self._shapes: dict[str, torch.Size] = {}
        self._before = 0
        self._length_is_known = False

    def go_on_from(self, window: "AdaSpaState") -> None:
        """Continue the record of an earlier window of the same request, which is dropped."""
        self.record = window.record
        self._before = 1 + max(self.record.step_kinds, default=-1)

    def fall_back(self, reason: str) -> None:
        """Stay dense from the next step on, and say in the record why. A dense plan has nothing to fall back from."""
        if not self.plan.selection.is_dense:
            self.plan = replace(self.plan, schedule=Schedule())
            self.record.ledger.fall_back(reason)

    def skip_if_short(self, q: torch.Tensor, heads: int) -> None:
        """Stay dense from this call on if sparse attention of such a sequence does not pay; the first call decides.

        Args:
            q: ``[B, H, S, D]``, of the call that comes now.
            heads: of the layer, of which this process may have some.
        """
        if self._length_is_known or not self.plan.skip_short:
            return
        self._length_is_known = True
        call = Call("block_sparse_attention", (q, q, q), self.plan.query_block, self.plan.key_block)
        tokens, least = q.shape[2], backends.least_tokens(call, heads)
        if tokens < least and self.step is not None:
            self.fall_back(
                f"stayed dense: {tokens} tokens are too few for sparse attention to be faster; "
                f"on this GPU it needs {least}"
            )
            self.kind = self.record.step_kinds[self._before + self.step] = StepKind.DENSE

    def begin_step(self, step: int, branch: str = "") -> StepKind:
        """Move to denoising step ``step`` (0 is the first) of CFG branch ``branch``; to be called before its forward.

        A sparse step of a branch that has not searched yet becomes a search: a second expert that takes over in the
        middle, or a guidance branch that starts late. So does that of a branch which uses these lists, if sparse steps
        are compensated: it has to see what it lacks by them.
        """
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        kind = self.plan.schedule.kind(step)
        self.step, self.branch = step, branch
        if self._first_branch is None:
            self._first_branch = branch
        if kind is StepKind.SPARSE:
            searched = self._searched.get(self.lists_of)
            if searched is None or (searched == step and self.plan.compensates and self.follows):
                kind = StepKind.SEARCH
        if kind is StepKind.SEARCH:
            self._searched[self.lists_of] = step
        self.kind = kind
        self.record.step_kinds.setdefault(self._before + step, kind)
        self.record.ledger.begin_forward()
        return kind

    def action(self, layer: int, sample: int | None = None) -> Action:
        """Say what ``layer`` does now (for one sample of the batch, if its samples differ in length).

        It searches once in a step, however often it is called.
        """
        if self.step is None or layer in self.plan.dense_layers:
            return Action.DENSE
        if self.kind is StepKind.DENSE:
            leaves_lse = self.plan.fuses_searches and self.plan.schedule.leaves_lse(self.step)
            leaves_lse = leaves_lse and self.policy.reuses_lse and not self.follows
            return Action.DENSE_WITH_LSE if leaves_lse else Action.DENSE
        key = self.key(layer, sample)
        has_lse, has_index = self.cache.has(key)
        # Behind a first search the other branches are dense as well: otherwise their errors would differ.
        searched = has_index and self.follows and self.step == self.plan.schedule.searches[0]
        if key in self.cache.refused or (searched and not self.plan.compensates):
            return Action.DENSE
        if not has_index:
            return Action.FUSED_SEARCH if has_lse else Action.FIRST_SEARCH
        return self._action_by_lists(key, has_lse)

    def _action_by_lists(self, key: CacheKey, has_lse: bool) -> Action:
        """Say what a layer does that has lists."""
        assert self.step is not None, "begin_step comes first"
        # A search whose step a step cache skipped is made up for in the next one that runs.
        if self._in_use[key].step < self.plan.schedule.last_search(self.step):
            if self.plan.compensates:
                return Action.FUSED_SEARCH if has_lse and self.plan.fuses_searches else Action.FIRST_SEARCH
            # Where the budget had no room for the LSE, the search takes its own again.
            return Action.CACHED_SEARCH if has_lse else Action.FIRST_SEARCH
        # A branch that uses another's lists has a residual of its own, anew with every search.
        if self.plan.compensates and self._residual_of.get(self._own(key)) is not self._in_use[key]:
            return Action.DENSE_WITH_RESIDUAL
        return Action.SPARSE

    @property
    def policy(self) -> Policy:
        """Policy that chooses the blocks of a search in the current step."""
        assert self.step is not None, "begin_step comes first"
        return self.plan.policy(self.step)

    def expected(self, layer: int) -> StepKind:
        """Say what the schedule has ``layer`` do in the current step."""
        if layer in self.plan.dense_layers:
            return StepKind.DENSE
        if self.kind is StepKind.SEARCH and self.follows and not self.plan.compensates:
            return StepKind.DENSE if self.step == self.plan.schedule.searches[0] else StepKind.SPARSE
        return self.kind

    def for_latents(self, shape: torch.Size) -> None:
        """Take the forward that begins for one of another branch, if its latents do not have the branch's shape.

        FasterCache leaves out the unconditional half of a batch in some steps, ChronoEdit frames behind some: what
        remains has patterns of its own.
        """
        if self.step is not None and self._shapes.setdefault(self.branch, shape) != shape:
            self.begin_step(self.step, f"{self.branch}, {tuple(shape)}")

    def ran(self, key: CacheKey, kind: StepKind, pairs: int, cost: float) -> None:
        """Account for a call of the attention of ``key`` with this number of query-key pairs: see `Ledger.ran`."""
        why = (
            "stayed dense: block lists or residuals do not fit into cache_budget" if key in self.cache.refused else None
        )
        self.record.ledger.ran(key.layer, kind, pairs, cost, why)

    def ran_elsewhere(self, q: torch.Tensor, by: str, layer: int, heads: int, sample: int | None = None) -> None:
        """Account for a dense call of ``layer`` that no operation of ours computes.

        Args:
            q: ``[B, S, H, D]``.
            by: what computes it, for the record.
            heads: of the layer, of which q may have some.
        """
        self.ran(self.key(layer, sample), StepKind.DENSE, query_key_pairs(q.shape[0] * heads, q.shape[1]), 1)
        self.record.ledger.kernels[StepKind.DENSE][backends.Ran("attention", by, backends.dtype_name(q))] += 1

    def key(self, layer: int, sample: int | None = None) -> CacheKey:
        """Return the key of the entry of ``layer`` that the current branch uses."""
        return CacheKey(self.lists_of, layer, sample)

    @property
    def follows(self) -> bool:
        """True if the current branch uses the lists of another one."""
        return self.plan.share_lists and self.branch != self._first_branch and self.branch not in self._apart

    @property
    def lists_of(self) -> str:
        """Guidance branch whose lists the current one uses: itself, or the one that it follows."""
        return self._first_branch if self._first_branch is not None and self.follows else self.branch

    def for_sequence(self, layer: int, sample: int | None, sequence: object) -> None:
        """Have the current branch keep lists of its own if its sequence is not that of the branch that it follows."""
        if not self.plan.share_lists or self.branch in self._apart:
            return
        if self._sequences.setdefault((layer, sample), sequence) != sequence and self.follows:
            self._apart.add(self.branch)
            self._searched[self.branch] = self.step or 0
            self.record.ledger.fall_back("guidance branches keep lists of their own: their sequences differ")
            if self.kind is StepKind.SPARSE:
                self.kind = StepKind.SEARCH

    @property
    def keeps_lse(self) -> bool:
        """True while a later step of this request will search with it."""
        return self.step is not None and self.policy.reuses_lse and self.plan.schedule.searches_after(self.step)

    @property
    def searches_next(self) -> bool:
        """True if the next step searches by the cached LSE."""
        if self.step is None or self.follows:
            return False
        return self.policy.reuses_lse and self.plan.schedule.searches_next(self.step)

    def add_pattern(self, key: CacheKey, pattern: PatternRecord) -> None:
        """Record the new pattern of ``key``."""
        self.record.patterns.append(pattern)
        self._in_use[key] = pattern

    def pattern(self, key: CacheKey) -> PatternRecord:
        """Return the record of the pattern in use at ``key``."""
        return self._in_use[key]

    def keep_residual(self, key: CacheKey, residual: torch.Tensor) -> None:
        """Keep what the output of the pattern in use at ``key`` lacks in the current branch, or refuse its layer."""
        if self.cache.put_residual(self._own(key), residual):
            self._residual_of[self._own(key)] = self._in_use[key]
        else:
            self.cache.refused.add(key)

    def refuse(self, key: CacheKey) -> None:
        """Let go of the entry of ``key``, and of what the branches that use it lack: the layer stays dense."""
        self.cache.refuse(key)
        for other, pattern in self._residual_of.items():
            if pattern is self._in_use[key]:
                self.cache.drop_residual(other)

    def residual(self, key: CacheKey) -> tuple[torch.Tensor, float]:
        """Return what the output of the pattern in use at ``key`` lacks in the current branch, and its weight now."""
        residual = self.cache.residual(self._own(key))
        assert residual is not None and self.step is not None, "the action was chosen because there is one"
        return residual, fading((self.step - self._in_use[key].step) / self.plan.steps)

    def _own(self, key: CacheKey) -> CacheKey:
        """Key of what the current branch does not share."""
        return key._replace(branch=self.branch)

    def patterns_of(self, layer: int) -> dict[CacheKey, PatternRecord]:
        """Return the patterns in use of ``layer`` in the current branch; none if a key of it was refused."""
        keys = [key for key in self._in_use if (key.branch, key.layer) == (self.lists_of, layer)]
        return {} if any(key in self.cache.refused for key in keys) else {key: self._in_use[key] for key in keys}

    def drop(self) -> RequestRecord:
        """Let go of the caches; the record that remains. It says where the schedule was for another number of steps."""
        self.note_cache()
        plan = self.plan
        if not plan.knows_steps and plan.schedule.searches and len(self.record.step_kinds) != plan.steps:
            self.record.ledger.fall_back(
                f"the number of steps is unknown: warm-up and searches follow the config, for {plan.steps} steps"
            )
        self.cache.drop()
        return self.record

    def note_cache(self) -> None:
        """Bring the record's figures of the cache up to date."""
        record, refused = self.record, {key.layer for key in self.cache.refused}
        record.cache_bytes = max(record.cache_bytes, self.cache.peak_nbytes)
        record.host_bytes = max(record.host_bytes, self.cache.peak_host_nbytes)
        record.refused_layers = sorted({*record.refused_layers, *refused})
