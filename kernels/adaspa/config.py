"""Settings of AdaSpa: how sparse, in which blocks, at which denoising steps."""

from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any, Literal, get_args

from adaspa.index import BLOCK_SIZES, is_block_size
from adaspa.ops.call import Precision
from adaspa.plan import Plan
from adaspa.schedule import Schedule
from adaspa.selection.policy import Policy, check_share
from adaspa.selection.registry import policy
from adaspa.selection.retained_mass import RetainedMass

OverBudget = Literal["host", "dense"]
TokenOrder = Literal["raster", "tile"]
Compensation = Literal["none", "residual"]
Preset = Literal["exact", "quality", "balanced", "fast"]


@dataclass(frozen=True, init=False)
class AdaSpaConfig:
    """Settings of AdaSpa (arXiv 2502.21079, section 4).

    ``warmup``, ``searches`` and ``dense_tail`` are denoising steps of a request of ``steps`` steps. A request of
    another length keeps the same *fractions* of its trajectory: what makes the early steps need dense attention is
    their noise level, not their number. If the length of a request is unknown, they apply unchanged.

    The defaults are the paper's, except for longer query blocks: these lose 4 dB at sparsity 0.8 on the demo model.
    To change one setting of a preset: ``AdaSpaConfig.preset("balanced", dense_layers=(0,))``.

    Args:
        selection: the policy that chooses the blocks, or the name of one in `adaspa.selection.POLICIES` (``top_k``,
            ``retained_mass``, ``marginal_mass``); its own settings may be given beside the others:
            ``AdaSpaConfig(selection="retained_mass", mass=0.9)``.
        block_size: tokens in a key block: 16, 32, 64 or 128.
        query_block_size: tokens in a query block: one of the same, and a multiple of ``block_size``. None takes 128 for
            key blocks of 64 or more, which is what the kernels are fastest at, and ``block_size`` for smaller ones.
        steps: the number of denoising steps that ``warmup``, ``searches`` and ``dense_tail`` are written for.
        warmup: number of dense steps at the start.
        searches: the steps that search the pattern, in ascending order, none before ``warmup`` or in the dense tail.
            The first has dense output and is a fused search (output and block mass in one pass); where no dense step
            comes before it, it scores behind its dense pass. The later ones score from the cached LSE and already run
            sparse. All steps before the first are dense.
        dense_tail: number of dense steps at the end.
        few_steps: the most steps of a request that counts as one of a few-step model. It has no warm-up: its first step
            searches, with dense output as any first search, and all others are sparse, but for the dense tail. Its
            steps are so far apart that a later search by the cached LSE finds a worse pattern. 0 gives every request
            its warm-up.
        warmup_mass: softmax mass to keep in a warm-up that is partly sparse, in (0, 1): the first step searches, and
            the others up to the first of ``searches`` run sparse by what it found. None leaves the warm-up dense.
        share_lists: whether the guidance branches of a step use the lists of the first of them, which alone searches.
            Guidance multiplies what differs between the branches, and with it the difference of their errors: the same
            lists make nearly the same errors. Branches of unlike sequences, or in one batch or on several GPUs, keep
            lists of their own.
        query_stride: rows from one query row to the next that a search scores, unless it is a fused one; a divisor of
            ``block_size``. Above 1 scoring is cheaper by that factor, but block mass and reported recall become
            estimates.
        dense_layers: indices of the layers that stay dense.
        dense_precision: of the products in dense attention (dense steps, dense layers and first searches) and in the
            scoring of searches. ``full`` is the model's. ``int8_fp8`` multiplies queries and keys in int8, and softmax
            and values in fp8 (e4m3): faster on Hopper GPUs, and not quite the same video. Other GPUs refuse it. A first
            search is then a dense pass and a scoring by its LSE, not one fused pass.
        sparse_precision: of the products in sparse attention. On GPUs ``int8_fp8`` needs blocks of 64 x 64, 128 x 64 or
            128 x 128 tokens, which those of the presets are.
        compensation: what is put back for the blocks that are left out. ``residual``: what dense attention had beside
            the search's lists, as the mean over each ``block_size`` queries, is added in the sparse steps behind, ever
            less. What ``sparse_precision`` loses is part of it. Later searches then have dense output, too, in all
            guidance branches. The memory is that of an output over ``block_size``. *Ours*, after DiTFastAttn
            (`adaspa.residual`).
        token_order: ``raster`` leaves the video tokens as the model has them, frame by frame and row by row; ``tile``
            puts them into compact 3-D tiles of ``block_size`` tokens while the transformer runs, so that a block is a
            neighbourhood in time and space. The result is the same but for which blocks there are.
        cache_budget: most bytes of a request's caches to hold on the GPU, or None for no limit. With a limit all
            block lists are kept without padding, not only large ones, and laid out anew in every step.
        over_budget: what happens to a layer's cache that does not fit, LSEs before all else: ``host`` keeps it in host
            memory and fetches it for each use; ``dense`` lets it go: without its lists or its residual the layer stays
            dense, without its LSE it searches by a dense pass and a scoring of its own.
        record_maps: keep a small picture of every pattern in the record, for `adaspa.plot`.
        skip_short: leave a request dense whose sequence is so short that sparse attention does not pay on its GPU, as
            measured (`adaspa.ops.backends.least_tokens`), and say so in the report. The presets do.
        measure_recall: score every sparse step anew and report the recall of the pattern in use, instead of the recall
            at its search. Costs two dense passes a layer and step: for evaluation.

    Raises:
        ValueError: naming the argument and what is allowed.
        TypeError: for an argument that neither it nor the policy has.
    """

    selection: Policy
    block_size: int = 64
    query_block_size: int | None = None
    steps: int = 50
    warmup: int = 10
    searches: tuple[int, ...] = (10, 30)
    dense_tail: int = 0
    few_steps: int = 0
    warmup_mass: float | None = None
    share_lists: bool = False
    query_stride: int = 1
    dense_layers: tuple[int, ...] = ()
    dense_precision: Precision = "full"
    sparse_precision: Precision = "full"
    compensation: Compensation = "none"
    token_order: TokenOrder = "raster"
    cache_budget: int | None = None
    over_budget: OverBudget = "host"
    record_maps: bool = False
    skip_short: bool = False
    measure_recall: bool = False

    def __init__(self, selection: Policy | str = "top_k", **settings: Any) -> None:
        own = {field.name: field.default for field in fields(self) if field.name != "selection"}
        of_policy = {name: settings[name] for name in settings if name not in own}
        for name, default in own.items():
            object.__setattr__(self, name, settings.get(name, default))
        object.__setattr__(self, "selection", policy(selection, **of_policy))
        # JSON catalogs and command lines give lists; the frozen record holds tuples.
        object.__setattr__(self, "searches", _step_tuple("searches", self.searches))
        object.__setattr__(self, "dense_layers", _step_tuple("dense_layers", self.dense_layers))
        self._check()

    def _check(self) -> None:
        for name in ("share_lists", "record_maps", "skip_short", "measure_recall"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.warmup_mass is not None:
            check_share("warmup_mass", self.warmup_mass)
        self._check_blocks()
        if self.cache_budget is not None and not _is_count(self.cache_budget):
            raise ValueError(f"cache_budget must be an integer of at least 0 or None, got {self.cache_budget!r}")
        for name, choices in (
            ("dense_precision", Precision), ("sparse_precision", Precision), ("token_order", TokenOrder),
            ("over_budget", OverBudget), ("compensation", Compensation),
        ):  # fmt: skip
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {get_args(choices)}, got {getattr(self, name)!r}")
        if not _is_count(self.steps) or self.steps < 1:
            raise ValueError(f"steps must be an integer of at least 1, got {self.steps!r}")
        if not _is_count(self.warmup) or self.warmup >= self.steps:
            raise ValueError(f"warmup must be an integer in [0, steps={self.steps}), got {self.warmup!r}")
        if not _is_count(self.dense_tail) or self.dense_tail >= self.steps - self.warmup:
            most = self.steps - self.warmup
            raise ValueError(f"dense_tail must be an integer in [0, steps-warmup={most}), got {self.dense_tail!r}")
        if not _is_count(self.few_steps):
            raise ValueError(f"few_steps must be an integer of at least 0, got {self.few_steps!r}")
        _check_searches(self.searches, self.warmup, self.steps - self.dense_tail)

    def _check_blocks(self) -> None:
        if not is_block_size(self.block_size):
            raise ValueError(f"block_size must be one of {BLOCK_SIZES}, got {self.block_size!r}")
        if not is_block_size(self.query_block) or self.query_block % self.block_size:
            raise ValueError(
                f"query_block_size must be None, or one of {BLOCK_SIZES} and a multiple of "
                f"block_size={self.block_size}, got {self.query_block_size!r}"
            )
        if not _is_count(self.query_stride) or self.query_stride < 1 or self.block_size % self.query_stride:
            raise ValueError(
                f"query_stride must be a divisor of block_size={self.block_size}, got {self.query_stride!r}"
            )

    @classmethod
    def paper(cls) -> "AdaSpaConfig":
        """Return the settings of the paper's main table (section 5.1)."""
        return cls(
            sparsity=0.8, block_size=64, query_block_size=64, steps=50, warmup=10, searches=(10, 30), head_adaptive=True
        )

    @classmethod
    def preset(cls, intent: Preset, **changes: Any) -> "AdaSpaConfig":
        """Return the settings for what a user wants, with ``changes`` in other fields; *ours*, not the paper's.

        ``exact``: dense attention throughout. ``quality``, ``balanced`` and ``fast`` keep ever fewer blocks,
        and leave sequences dense that are too short to gain (``skip_short``). Of the settings that were measured on
        the demo model, they cost least at 50 dB PSNR to the dense video, at 40 dB, and at what the paper's settings
        reach (`benchmarks.fidelity.tables`). On other models and prompts the PSNR differs.

        Raises:
            ValueError: naming the presets there are, or a field and what is allowed.
            TypeError: for a change in a field that there is not.
        """
        by_price: dict[str, Any] = {
            "selection": "marginal_mass",
            "share_lists": True,
            "query_block_size": 64,
            "query_stride": 4,
        }
        presets = {
            "exact": cls(sparsity=0),
            "quality": cls(selection="retained_mass", mass=0.98, warmup=10, searches=(10, 30), query_stride=4),
            "balanced": cls(price=0.7, warmup=3, searches=(3,), **by_price),
            "fast": cls(price=2.8, warmup=10, searches=(10, 25), warmup_mass=0.9, **by_price),
        }
        if intent not in presets:
            raise ValueError(f"intent must be one of {tuple(presets)}, got {intent!r}")
        return replace(presets[intent], **{"skip_short": True, **changes})

    @property
    def query_block(self) -> int:
        """Tokens in a query block."""
        if self.query_block_size is not None:
            return self.query_block_size
        return 128 if self.block_size >= 64 else self.block_size

    @property
    def is_dense(self) -> bool:
        """True when no step is sparse whatever the schedule says."""
        return self.selection.is_dense

    def resolve(self, steps: int | None = None) -> Plan:
        """Make the plan of a request of ``steps`` denoising steps, or of unknown length.

        The configured steps are scaled by ``steps / self.steps`` and rounded; a configured warm-up or tail keeps at
        least one dense step, and searches that fall on the same step become one. Those that the tail of a short request
        swallows are left out, and so is a first search with no sparse step behind it.
        """
        length = self.steps if steps is None else steps
        return Plan(
            schedule=self._schedule(length),
            steps=length,
            knows_steps=steps is not None,
            selection=self.selection,
            warmup_selection=self.selection if self.warmup_mass is None else RetainedMass(self.warmup_mass),
            query_block=self.query_block,
            key_block=self.block_size,
            share_lists=self.share_lists,
            query_stride=self.query_stride,
            dense_layers=self.dense_layers,
            dense_precision=self.dense_precision,
            sparse_precision=self.sparse_precision,
            compensates=self.compensation != "none",
            in_tiles=self.token_order == "tile",
            cache_budget=self.cache_budget,
            spill=self.over_budget == "host",
            record_maps=self.record_maps,
            skip_short=self.skip_short,
            measure_recall=self.measure_recall,
        )

    def _schedule(self, steps: int) -> Schedule:
        if self.is_dense:
            return Schedule()
        tail = self.tail(steps)
        first, *later = (max(min(1, self.warmup), self._scaled(search, steps)) for search in self.searches)
        if steps <= self.few_steps:
            first, later = 0, []
        in_warmup = {0} if self.warmup_mass is not None else set()
        searches = tuple(sorted(step for step in {*in_warmup, first, *later} if step < steps - tail))
        if not searches or searches == (steps - tail - 1,):
            return Schedule()
        return Schedule(searches, warmup=first, dense_from=steps - tail if tail else None)

    def tail(self, steps: int) -> int:
        """Dense steps at the end of a request of ``steps``."""
        return max(min(1, self.dense_tail), self._scaled(self.dense_tail, steps))

    def _scaled(self, step: int, steps: int) -> int:
        return int(step * steps / self.steps + 0.5)

    def replace(self, **changes: Any) -> "AdaSpaConfig":
        """Replace some settings, the policy's own included; another ``selection`` begins with its defaults."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All settings as JSON-ready values, the policy by its name with its own settings beside the others."""
        return {**asdict(self), "selection": self.selection.name, **asdict(self.selection)}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _step_tuple(name: str, values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(_is_count(value) for value in values):
        raise ValueError(f"{name} must be a sequence of integers of at least 0, got {values!r}")
    return tuple(values)


def _check_searches(searches: tuple[int, ...], warmup: int, tail: int) -> None:
    ascending = all(a < b for a, b in pairwise(searches))
    if not searches or not ascending or searches[0] < warmup or searches[-1] >= tail:
        raise ValueError(
            f"searches must be at least one step, in ascending order, from warmup={warmup} to "
            f"steps-dense_tail-1={tail - 1}, got {searches!r}"
        )
