"""Plan of one request: the settings as `AdaSpaConfig.resolve` makes them for its number of steps."""

from dataclasses import dataclass

from adaspa.ops.call import Precision
from adaspa.schedule import Schedule
from adaspa.selection.policy import Policy


@dataclass(frozen=True)
class Plan:
    """Plan of one request: all that attention asks for, whoever counts the steps and calls the layers.

    Args:
        schedule: what each step does, in the request's own steps.
        steps: the number of denoising steps; the one that the config is written for where it is not known.
        knows_steps: whether ``steps`` is the request's own.
        selection: what chooses the blocks of a search.
        warmup_selection: what chooses them in a warm-up that is partly sparse.
        query_block, key_block: tokens in a block.
        share_lists: whether guidance branches use the lists of the first of them.
        query_stride: rows from one query row to the next that a search scores, unless it is a fused one.
        dense_layers: indices of the layers that stay dense.
        dense_precision: of the products in dense attention and in scoring, as `adaspa.ops.attention` takes it.
        sparse_precision: of the products in sparse attention.
        compensates: whether sparse attention gets back the residual that its search found.
        in_tiles: whether the video tokens come in compact 3-D tiles of ``key_block`` tokens.
        cache_budget: most bytes of the caches to hold on the GPU, or None for no limit.
        spill: whether caches over the budget go to host memory; they are let go otherwise.
        record_maps: whether the record keeps a small picture of every pattern.
        skip_short: whether a request stays dense whose sequence is too short for sparse attention to pay on its GPU.
        measure_recall: whether every sparse step measures the recall of its pattern anew.
    """

    schedule: Schedule
    steps: int
    knows_steps: bool
    selection: Policy
    warmup_selection: Policy
    query_block: int
    key_block: int
    share_lists: bool = False
    query_stride: int = 1
    dense_layers: tuple[int, ...] = ()
    dense_precision: Precision = "full"
    sparse_precision: Precision = "full"
    compensates: bool = False
    in_tiles: bool = False
    cache_budget: int | None = None
    spill: bool = True
    record_maps: bool = False
    skip_short: bool = False
    measure_recall: bool = False

    @property
    def fuses_searches(self) -> bool:
        """True if a search with dense output scores the blocks in the same pass, by the LSE of the step before.

        That pass has the full precision alone. In a lower one, a dense pass and a scoring pass take less time.
        """
        return self.dense_precision == "full"

    def policy(self, step: int) -> Policy:
        """Return the policy that chooses the blocks of a search in denoising step ``step``."""
        return self.warmup_selection if step < self.schedule.warmup else self.selection
