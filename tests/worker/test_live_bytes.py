"""The memory that a computation would take, held against what it makes, keeps and lets go."""

from typing import Any

import pytest
import torch
from adaspa_worker.live_bytes import ROUND, Attention, measured
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import conv2d, scaled_dot_product_attention

FLOATS = 5000
FLOAT_BYTES = 4


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


@given(st.lists(st.tuples(st.sampled_from(["make", "make", "view", "free"]), st.integers(1, FLOATS)), max_size=40))
def test_the_peak_is_of_all_that_is_held_at_once(steps: list[tuple[str, int]]) -> None:
    """What was there before and views of it take nothing; a tensor takes its place until its last view is gone."""
    there, wanted = empty(FLOATS), [0]

    def run() -> None:
        held: list[tuple[torch.Tensor, int]] = []
        for number, (step, count) in enumerate(steps):
            if step == "make":
                held.append((there[:count] + 1, number))
            elif step == "view" and held:
                tensor, own = held[count % len(held)]
                held.append((tensor[:1], own))
                del tensor
            elif held:
                held.pop(count % len(held))
            lengths = {own: steps[own][1] for _, own in held}
            wanted.append(sum(-(-count * FLOAT_BYTES // ROUND) * ROUND for count in lengths.values()))

    assert measured(run, [there]).peak == max(wanted)


def test_tensors_that_take_the_places_of_those_that_are_gone_count() -> None:
    sizes = [100 * n for n in range(1, 90)]

    def run() -> None:
        for size in sizes:
            empty(size)
        for count in (50, len(sizes)):
            held = [empty(size) for size in sizes[:count]]
            del held

    assert measured(run, []).peak == sum(-(-size * FLOAT_BYTES // ROUND) * ROUND for size in sizes)


def test_a_convolution_needs_a_copy_of_what_it_reads_and_writes() -> None:
    image, weight = empty(1, 8, 64, 64), empty(16, 8, 3, 3)
    out = 16 * 64 * 64 * FLOAT_BYTES
    found = measured(lambda: conv2d(image, weight, padding=1), [image, weight])
    assert found.peak == out + (image.nbytes + out)


@pytest.mark.parametrize("shape", [(2, 4, 100, 16), (4, 100, 16)])
def test_attention_takes_its_output_alone_and_is_noted(shape: tuple[int, ...]) -> None:
    *batch, heads, rows, channels = shape
    query, key, value = (empty(*batch, heads, count, size) for count, size in ((rows, 16), (70, 16), (70, 8)))
    found = measured(lambda: scaled_dot_product_attention(query, key, value), [query, key, value])
    assert found.attention == (Attention(batch[0] if batch else 1, heads, rows, 70, query.nbytes),)
    assert found.peak == -(-heads * rows * 8 * FLOAT_BYTES * (batch[0] if batch else 1) // ROUND) * ROUND
    assert channels == 16


def test_a_mask_selects_everything_its_inverse_nothing_and_places_what_they_name() -> None:
    given = empty(6, 4)
    seen: list[Any] = []

    def run() -> None:
        mask = given > 0
        seen.append(given[mask[:, 0]].shape)
        seen.append(given[~mask[:, 0]].shape)
        seen.append(given[empty(3).long()].shape)
        seen.append(torch.nonzero(mask).shape)
        seen.append(bool(mask.all()))

    measured(run, [given])
    assert seen == [(6, 4), (0, 4), (3, 4), (24, 2), True]
