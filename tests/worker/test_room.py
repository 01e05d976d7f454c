"""What of a catalog entry fits into a worker's memory, and what is said of it."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from adaspa_api.loras import LoraUse
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.fits import OWN, Fits
from adaspa_jobs.job import JobParams
from adaspa_worker import room, shares
from adaspa_worker.engines import preflight
from hypothesis import given
from hypothesis import strategies as st
from tiny_catalog import model_spec

NOWHERE = Path("nowhere")
SIZES = ["64x64", "128x64", "32x32"]


def spec_of(frames: list[int], **changes: Any) -> ModelSpec:
    own = {"sizes": SIZES, "frames": frames, "default_frames": frames[0], "qualities": ["exact", "fast"]}
    return ModelSpec.model_validate(model_spec("nowhere", **own | changes))


ADAPTERS = 1000


class Flight:
    """A preflight of a model of which each pixel of a frame takes a byte, sparse steps half of it; and its adapters."""

    def __init__(self, adapters: bool) -> None:
        self.loras = SimpleNamespace(heaviest=lambda: [LoraUse(name="large", scale=1.0)]) if adapters else None

    def least(self, params: JobParams) -> int:
        pixels = params.width * params.height * params.num_frames
        return pixels // (2 if params.quality == "fast" else 1) + ADAPTERS * len(params.loras or [])


@given(
    frames=st.lists(st.integers(1, 40), min_size=1, max_size=5, unique=True),
    near=st.tuples(st.sampled_from(SIZES), st.sampled_from([OWN, "exact", "fast"]), st.integers(0, 4)),
    beside=st.sampled_from([-1, 0, 1, 3000]),
    adapters=st.booleans(),
)
def test_of_each_size_and_preset_the_most_frames_fit_of_which_all_fewer_do(
    frames: list[int], near: tuple[str, str, int], beside: int, adapters: bool
) -> None:
    def needs(size: str, preset: str, count: int) -> int:
        width, height = map(int, size.split("x"))
        return width * height * count // (2 if preset == "fast" else 1) + ADAPTERS * adapters

    spec, flight = spec_of(frames), Flight(adapters)
    limit = needs(near[0], near[1], frames[near[2] % len(frames)]) + beside
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "preflight_of", lambda *_: flight)
        found = room.fitting(spec, NOWHERE, limit)
    assert found.limit == limit and set(found.frames) == {OWN, "exact", "fast"}
    for preset, sizes in found.frames.items():
        assert set(sizes) == set(SIZES)
        for size, most in sizes.items():
            assert most == max([0, *(count for count in frames if needs(size, preset, count) <= limit)])


@pytest.mark.parametrize(
    "error", [NotImplementedError("for a modular pipeline"), RuntimeError("shapes"), KeyError("x")]
)
def test_a_model_that_cannot_be_reckoned_is_served_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def unknown(*_: object) -> Fits:
        raise error

    monkeypatch.setattr(room, "fitting", unknown)
    assert room.tell(spec_of([9]), NOWHERE, 10**9) is None
    (said,) = caplog.records
    assert said.levelno == logging.WARNING and said.getMessage().startswith(
        "tiny: no request is refused for its memory"
    )
    if isinstance(error, NotImplementedError):
        assert said.getMessage().endswith(": for a modular pipeline") and said.exc_info is None
    else:
        assert said.exc_info is not None and said.exc_info[1] is error, "where it comes from is for us to mend"


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (None, None),
        (200_000, "tiny: all that the catalog offers fits into 0.000186 GiB"),
        (50_000, "tiny: does not fit into 4.66e-05 GiB, and is refused: 128x64 with 9 frames (default, exact)"),
    ],
)
def test_a_worker_says_in_one_line_what_fits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: int | None, said: str | None
) -> None:
    monkeypatch.setattr(room, "preflight_of", lambda *_: Flight(adapters=False))
    with caplog.at_level(logging.INFO, room.log.name):
        found = room.tell(spec_of([5, 9]), NOWHERE, limit)
    assert [record.getMessage() for record in caplog.records] == ([said] if said else [])
    assert (found is None) == (limit is None)


@pytest.mark.parametrize("gpus", [1, 2, 3, 4])
@pytest.mark.parametrize("branches", [True, False])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_guidance_branches_run_side_by_side_where_there_are_two(gpus: int, branches: bool, guidance: float) -> None:
    """And where the GPUs can be halved; all that is over shares the tokens."""
    family: Any = SimpleNamespace(branches=branches)
    spec = spec_of([9], gpus=gpus, default_guidance=guidance)
    found = shares.parallelism(spec, family)
    halved = branches and guidance > 1 and gpus in (2, 4)
    assert (found.guidance, found.ulysses) == ((2, gpus // 2) if halved else (1, gpus))
    own = spec.model_copy(update={"parallelism": found.model_copy(update={"guidance": 1, "ulysses": gpus})})
    assert shares.parallelism(own, family).guidance == 1, "what the catalog says is meant"


def test_lengths_of_tiles_cover_a_side() -> None:
    for total in range(1, 60):
        for tile, stride in ((8, 8), (8, 6), (16, 12)):
            found = preflight.lengths(total, tile, stride)
            ends = [at * stride + length for at, length in enumerate(found)]
            assert max(ends) == total and all(0 < length <= tile for length in found)
