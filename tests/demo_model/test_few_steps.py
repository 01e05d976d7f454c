"""The schedules that are compared for few-step models: each does what its name says, and its work is counted."""

import pytest
import torch
from torch.nn import functional as F

from demo_model import few_steps
from demo_model.few_steps import Attention, Calls, Carried, methods

STEPS, ALL, HALF = 4, 0.99999, 0.5


def test_every_schedule_is_dense_attention_where_it_keeps_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it costs is a dense pass, its searches and the blocks that it keeps."""
    monkeypatch.setattr(few_steps, "MASSES", (ALL, HALF))
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 192, 16)
    carried = Carried()
    for step in range(STEPS):
        carried.attend(step, 0, q, k, v)
    dense = F.scaled_dot_product_attention(q, k, v)
    works = {}
    for name, method in methods(STEPS).items():
        whole, part = (Attention(method, share, carried, STEPS) for share in (ALL, HALF))
        for step in range(STEPS):
            torch.testing.assert_close(whole.attend(step, 0, q, k, v), dense, rtol=1e-3, atol=1e-4)
            part.attend(step, 0, q, k, v)
        works[name] = torch.stack(part.work)
    scoring, kept = 0.5 / 4, float(works["a carried pattern in every step"][1])
    assert 1 / 3 <= kept < 1
    first = works["a search in the first step alone"]
    assert first[0] == 1 + scoring and (first[1:] == first[1]).all() and first[1] < 1
    compared = works["a search in the first step alone, with its residual"]
    assert compared[0] == first[0] + first[1] and torch.equal(compared[1:], first[1:])
    assert works["a search in every step"][1] == pytest.approx(float(first[1]) + scoring, abs=1e-6)
    assert works["a dense step, then the preset's searches"][:2].tolist() == [1, 1]


def test_the_transformers_self_attention_is_told_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_steps, "TOKENS", 8)
    seen: list[tuple[int, int]] = []

    def attend(step: int, layer: int, _q: torch.Tensor, _k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append((step, layer))
        return v + 1

    x, text = torch.randn(1, 1, 8, 4), torch.randn(1, 1, 3, 4)
    with Calls(2, attend):
        assert torch.equal(F.scaled_dot_product_attention(query=x, key=x, value=x), x + 1)
        cross = F.scaled_dot_product_attention(x, text, text)
        F.scaled_dot_product_attention(x, x, x)
        F.scaled_dot_product_attention(x, x, value=x)
    assert seen == [(0, 0), (0, 1), (1, 0)]
    assert torch.equal(cross, F.scaled_dot_product_attention(x, text, text))
