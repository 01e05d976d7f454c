"""What a client's choice makes of the operator's attention settings."""

from collections.abc import Callable
from typing import get_args

import pytest
from adaspa import AdaSpaConfig, StepKind
from adaspa.config import Preset
from adaspa.selection import RetainedMass, TopK
from adaspa_api.words import Quality
from adaspa_jobs.job import JobParams
from adaspa_worker.attention import attention_config

OPERATOR = {
    "block_size": 16,
    "sparsity": 0.5,
    "head_adaptive": False,
    "dense_layers": [0],
    "warmup": 5,
    "dense_tail": 5,
    "few_steps": 8,
}


def test_the_contract_offers_the_librarys_presets() -> None:
    assert tuple(Quality) == get_args(Preset)


def test_without_a_choice_the_operators_settings_hold(params: Callable[..., JobParams]) -> None:
    assert attention_config(OPERATOR, params()) == AdaSpaConfig(**OPERATOR)  # type: ignore[arg-type]


def test_an_operator_who_says_nothing_gets_the_balanced_preset(params: Callable[..., JobParams]) -> None:
    assert attention_config({}, params()) == AdaSpaConfig.preset("balanced")


def test_an_operator_may_change_one_thing_of_a_preset(params: Callable[..., JobParams]) -> None:
    config = attention_config({"preset": "fast", "dense_layers": [0]}, params())
    assert config == AdaSpaConfig.preset("fast", dense_layers=(0,))
    with pytest.raises(ValueError, match=r"^intent must be one of"):
        attention_config({"preset": "best"}, params())


@pytest.mark.parametrize("quality", list(Quality))
def test_a_preset_decides_how_sparse_and_the_operator_the_rest(
    params: Callable[..., JobParams], quality: Quality
) -> None:
    operator = OPERATOR | {"compensation": "residual"}
    config, preset = attention_config(operator, params(quality=quality)), AdaSpaConfig.preset(quality.value)
    assert attention_config(operator, params()).compensation == "residual"
    for name in (
        "selection",
        "steps",
        "warmup",
        "searches",
        "dense_tail",
        "warmup_mass",
        "share_lists",
        "compensation",
    ):
        assert getattr(config, name) == getattr(preset, name)
    assert (config.block_size, config.dense_layers, config.few_steps) == (16, (0,), 8)
    assert config.is_dense == (quality is Quality.exact)


def test_settings_of_its_own_choose_the_selection(params: Callable[..., JobParams]) -> None:
    config = attention_config({"selection": "retained_mass"}, params(sparsity=0.7))
    assert config.selection == TopK(0.7)
    config = attention_config(OPERATOR, params(sparsity=0.7))
    assert config.selection == TopK(0.7, head_adaptive=False)
    config = attention_config(OPERATOR, params(retained_mass=0.9))
    assert config.selection == RetainedMass(0.9)


@pytest.mark.parametrize(
    ("warmup", "steps", "searches"),
    [(0, 50, (0, 30)), (10, 50, (10, 30)), (40, 50, (40,)), (3, 10, (3, 6)), (9, 10, (9,)), (0, 1, (0,))],
)
def test_a_warmup_moves_the_first_search_to_its_end(
    params: Callable[..., JobParams], warmup: int, steps: int, searches: tuple[int, ...]
) -> None:
    config = attention_config({"searches": [10, 30]}, params(warmup=warmup, steps=steps))
    assert (config.warmup, config.steps, config.searches) == (warmup, steps, searches)


@pytest.mark.parametrize(
    ("warmup", "steps", "searches", "tail"),
    [(10, 50, (10, 30), 5), (1, 4, (1, 2), 1), (0, 4, (0, 2), 1), (38, 40, (38,), 1), (3, 4, (3,), 0), (0, 1, (0,), 0)],
)
def test_a_warmup_takes_the_place_of_the_few_step_schedule_and_leaves_the_tail(
    params: Callable[..., JobParams], warmup: int, steps: int, searches: tuple[int, ...], tail: int
) -> None:
    operator = {"searches": [10, 30], "dense_tail": 5, "few_steps": 8, "warmup_mass": 0.9}
    config = attention_config(operator, params(warmup=warmup, steps=steps))
    assert (config.warmup, config.searches, config.dense_tail) == (warmup, searches, tail)
    schedule = config.resolve(steps).schedule
    assert [schedule.kind(step) for step in range(warmup)] == [StepKind.DENSE] * warmup
