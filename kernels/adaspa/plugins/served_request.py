"""One request of a server that calls attention layer by layer, with no hook around its transformer."""

import logging
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from adaspa.attention import attention
from adaspa.layout import Layout
from adaspa.plugins.settings import Settings
from adaspa.state import Action, AdaSpaState

logger = logging.getLogger(__name__)

Dense = Callable[[], torch.Tensor]
"""Attention of the server's own for a call, ``[B, S, H, D]``."""


class ServedRequest:
    """State of one request, found by the step, the layer and the guidance branch of each call.

    Args:
        settings: what the user chose.
        steps: the number of denoising steps, or None where the server does not tell.
        server: its name, for the record.
        log: takes the line of what ran, at the end.
    """

    def __init__(
        self, settings: Settings, steps: int | None, server: str, log: Callable[[str], None] = logger.info
    ) -> None:
        self.state = AdaSpaState(settings.resolve(steps))
        self._server, self._log = server, log
        self._calls: Counter[tuple[str, int]] = Counter()
        self._past: Counter[str] = Counter()
        self._step = -1

    def is_over_at(self, step: int) -> bool:
        """Tell whether a call in denoising step ``step`` must be of another request."""
        return step < self._step

    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        dense: Dense,
        *,
        layer: int,
        step: int,
        layout: Layout,
        branch: str = "",
        scale: float | None = None,
    ) -> torch.Tensor:
        """Compute the attention of one call; plain dense steps by the server's own.

        Args:
            q, k, v: ``[B, S, H, D]``, the whole sequence and some or all heads of it.
            dense: the same attention by the server.
            layer: index of the layer.
            step: index of the denoising step, never below that of an earlier call.
            layout: how the rows lie; those that are no video stay dense, and all queries keep them.
            branch: guidance branch, where the server names it. Calls of a layer within a step are counted besides.
            scale: factor of q.k; ``D ** -0.5`` by default.

        Returns:
            out ``[B, S, H, D]``.

        Raises:
            ValueError: when shapes or dtypes do not match, or differ from those of the request's earlier steps.
        """
        if step != self._step:
            self._step = step
            self._calls.clear()
        name = f"{branch}.{self._calls[branch, layer]}"
        self._calls[branch, layer] += 1
        state = self.state
        if (state.step, state.branch) != (step, name):
            state.begin_step(step, name)
        state.skip_if_short(q.transpose(1, 2), q.shape[2])
        if state.action(layer) is Action.DENSE:
            state.ran_elsewhere(q, self._server, layer, q.shape[2])
            return dense()
        q, k, v = (layout.video_first(x).transpose(1, 2) for x in (q, k, v))
        tokens = q.shape[2]
        others = layout.before + layout.behind + layout.text_tokens
        text = (tokens - others, tokens) if others else None
        out = attention(q, k, v, state, layer=layer, text=text, scale=scale, grid=layout.grid)
        return layout.as_it_was(out.transpose(1, 2))

    def went_past(self, reason: str) -> None:
        """Count a call that ran dense by the server, and say it the first time."""
        if not self._past[reason]:
            self._log(f"AdaSpa: a layer stays dense: {reason}")
        self._past[reason] += 1

    def end(self) -> None:
        """Drop the caches, and say what ran."""
        report = self.state.drop().report()
        past = [f"{calls} calls past it: {reason}" for reason, calls in self._past.items()]
        fell_back = [*report["fell_back"], *past]
        work, recall = report["attention_work"], report["recall"]
        self._log(
            f"AdaSpa: {report['dense_steps']} dense, {report['search_steps']} search, {report['sparse_steps']} sparse "
            f"steps; attention work {_share(work)} of dense; density {_share(report['density'])}; "
            f"recall {_share(recall)}" + (f"; fell back: {'; '.join(fell_back)}" if fell_back else "")
        )


def request_of(owner: Any, step: int, begin: Callable[[], ServedRequest]) -> ServedRequest:
    """Find the request that hangs on ``owner``, an object of the server's; begin another where the steps do.

    It ends with its owner, however that goes.

    Args:
        owner: lives as long as one request at least, or several one after another.
        step: index of the denoising step.
        begin: makes the request.
    """
    request: ServedRequest | None = getattr(owner, "_adaspa", None)
    if request is None or request.is_over_at(step):
        if request is not None:
            owner._adaspa_end()
        request = begin()
        if step:
            request.state.fall_back(f"stayed dense: step {step} is the first that the server showed of the request")
        owner._adaspa = request
        owner._adaspa_end = weakref.finalize(owner, request.end)  # once: when it is called, or with the owner
    return request


class NamedLayer:
    """A server's attention layer, known by its name alone.

    Args:
        name: dotted; the first number in it is the layer's index.
    """

    _called: ClassVar[Counter[int]] = Counter()
    """Number of layers of each index that have been called: the second is another expert's."""

    def __init__(self, name: str) -> None:
        self.index = next((int(part) for part in name.split(".") if part.isdigit()), -1)
        """-1 where the name has none."""
        self._expert: int | None = None

    def expert(self) -> int:
        """Tell which of the model's experts it belongs to, by the order of their first calls."""
        if self._expert is None:
            self._expert = self._called[self.index]
            self._called[self.index] += 1
        return self._expert


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
