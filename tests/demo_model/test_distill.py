"""Distillation to a few steps: what is learned is the guided path, and the file that ships is what was trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adaspa_worker.loras.keys import fit
from adaspa_worker.loras.slots import sizes_of
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor, nn

from demo_model import distill
from demo_model.distill import PathPool, Student, Teacher, levels_of, shortfalls, velocity
from demo_model.low_rank import header_of, load_low_ranks

LEVELS = levels_of(FlowMatchEulerDiscreteScheduler(shift=3.0), 4)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small take longer on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def small_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "SHAPE", (4, 2, 4, 4))


def tiny() -> WanTransformer3DModel:
    torch.manual_seed(0)
    size = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "num_layers": 1}
    return WanTransformer3DModel(**size, patch_size=(1, 1, 1), text_dim=8, freq_dim=16, ffn_dim=32).eval()


class Growth(nn.Module):
    """Velocities that are known: the latents, times 1 for a caption and times 0.5 for none."""

    def forward(self, latents: Tensor, _level: Tensor, text: Tensor, **_: Any) -> tuple[Tensor]:
        return (latents * (0.5 + 0.5 * text[:, :1, :1, None, None]),)


def test_the_teacher_follows_the_guided_path() -> None:
    teacher = Teacher(Growth(), torch.zeros(1, 3, 2), guidance=2.0)
    start = torch.ones(1, 4, 2, 4, 4)
    found = teacher.walk(start, distill.short_levels(0.9, 0.6, 3), torch.ones(1, 3, 2))
    rate = 0.5 + 2.0 * (1.0 - 0.5)
    torch.testing.assert_close(found, start * torch.tensor((0.6 - 0.9) * rate).exp(), rtol=1e-3, atol=0.0)


def test_the_student_sees_the_teachers_states_and_its_own() -> None:
    """A path goes on where the one that leads gets to; the velocity is always the teacher's."""
    teacher = Teacher(Growth(), torch.zeros(1, 3, 8), guidance=1.0)
    lengths = LEVELS.diff().view(-1, 1, 1, 1, 1)
    for share, student in ((0.0, None), (1.0, tiny())):
        pool = PathPool(2, LEVELS, 1, teacher.empty)
        with torch.no_grad():
            pool.refresh(teacher, student or nn.Identity(), torch.ones(2, 3, 8), share)
            states, velocities = pool.states.float(), pool.velocities.float()
            ended = states[:, 0] + lengths[0] * velocities[:, 0]
            if student is not None:
                level = torch.full((2,), float(LEVELS[0]))
                ended = states[:, 0] + lengths[0] * velocity(student, states[:, 0], level, torch.ones(2, 3, 8))
        torch.testing.assert_close(states[:, 1], ended, rtol=0.02, atol=0.02)
        assert (velocities * states > 0).float().mean() > 0.99, "the teacher's velocities point along the latents"


def test_low_ranks_learn_the_guided_path_and_their_file_is_a_lora(tmp_path: Path) -> None:
    teacher, text = Teacher(tiny(), torch.zeros(1, 3, 8), guidance=4.0), torch.randn(8, 3, 8)
    student, plain = Student(tiny(), None), tiny()
    pool = PathPool(8, LEVELS, 1, text)
    pool.refresh(teacher, student.transformer, text, 0.0)
    states, levels, target, texts, shown = pool.batch(64)

    def error(of: nn.Module) -> Tensor:
        return (velocity(of, states, levels, texts) - target) ** 2

    def mean(of: nn.Module) -> float:
        return error(of).mean().item()

    before = mean(student.transformer)
    assert before == pytest.approx(mean(plain)), "they change nothing at first"
    for _ in range(30):
        student.descend(error(student.transformer), shown, 3e-3)
    assert mean(student.transformer) < 0.7 * before

    student.save(tmp_path, 4)
    file = tmp_path / "distilled-4.safetensors"
    assert header_of(file)["steps"] == "4" and header_of(file)["guidance"] == "1"
    fitted = fit(load_file(file), header_of(file), WanPipeline, sizes_of(plain))
    assert fitted.pairs.keys() == sizes_of(plain).keys() and fitted.lost == []
    loaded = tiny()
    load_low_ranks(file, loaded)
    assert mean(loaded) < 0.9 * before, "the running average lags behind"
    with pytest.raises(KeyError, match="is for another transformer"):
        load_low_ranks(file, nn.Sequential(nn.Linear(2, 2)))


def test_a_lora_that_falls_short_does_not_pass() -> None:
    def modes(right: float) -> dict[str, Any]:
        return {"dense": {"right": {"all_attributes": right}}}

    assert shortfalls(modes(0.95), 8) == shortfalls(modes(0.92), 4) == []
    assert shortfalls(modes(0.94), 8) == ["dense: 0.94 of 0.95"]
