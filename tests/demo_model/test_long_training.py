"""The long model's training: few latent frames first and whole clips last, from the weights that ship."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adaspa_demo_model import PIPELINE_FOLDER
from diffusers import WanTransformer3DModel

from demo_model import long_training
from demo_model.long_clips import LONG, MIDDLE, SHORT, Length
from demo_model.long_training import Batch, batches, draw_shifts, train


class Hours:
    """A clock by which every batch takes a hundredth of the time."""

    def __init__(self) -> None:
        self.total, self.asked = 1.0, -1

    @property
    def over(self) -> bool:
        self.asked += 1
        return self.asked == 100

    @property
    def spent(self) -> float:
        return self.asked / 100


def test_every_length_is_trained_to_the_end() -> None:
    clock: Any = Hours()
    seen = list(batches(clock))
    assert len(seen) == 100
    assert {batch.latent_frames for batch in seen[:10]} == {3, None}
    assert {batch.length for batch in seen[-20:]} == {SHORT, MIDDLE, LONG}
    assert all(batch.latent_frames is None for batch in seen[-50:])


def test_noise_levels_reach_from_the_small_clips_to_the_lengths_own() -> None:
    torch.manual_seed(0)
    shifts = draw_shifts(LONG, 1000, "cpu")
    assert shifts.min() >= SHORT.shift
    assert shifts.max() <= LONG.shift
    assert shifts.max() - shifts.min() > 5.0


def test_training_goes_on_from_the_weights_that_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    larger, small = Length(9, 64), Length(5, 64)
    monkeypatch.setattr(long_training, "STAGES", ((0.3, (Batch(larger, 2, 2),)), (1.0, (Batch(small, 2),))))
    monkeypatch.setattr(long_training, "Log", logged := Logged())
    train(tmp_path, 0.05, None, "cpu", 2)
    trained, before = (
        WanTransformer3DModel.from_pretrained(folder, local_files_only=True)
        for folder in (tmp_path / "pipeline" / "transformer", PIPELINE_FOLDER / "transformer")
    )
    changes = [
        float((new - old).abs().max()) for new, old in zip(trained.parameters(), before.parameters(), strict=True)
    ]
    assert 0 < max(changes) < 0.1, "a few steps of a rate that is still rising"
    assert {seen for seen, _ in logged.rows} == {2 * 64.0}
    state = torch.load(tmp_path / "long.pt", weights_only=True)
    assert state["step"] == len(logged.rows)
    assert state["spent"] >= 0.05 * 60


class Logged:
    """Stands for the log: the tokens of each clip and the loss."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float]] = []

    def __call__(self, *_: Any, **__: Any) -> "Logged":
        return self

    def add(self, *_: Any, **values: torch.Tensor) -> None:
        self.rows.append((float(values["tokens"]), float(values["loss"].detach())))

    def save(self) -> None:
        pass
