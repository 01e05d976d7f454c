from dataclasses import replace

import pytest
from adaspa import AdaSpaConfig, StepKind
from adaspa.selection import RetainedMass, TopK


def test_paper_settings():
    paper = AdaSpaConfig.paper()
    assert (paper.block_size, paper.steps, paper.warmup, paper.searches) == (64, 50, 10, (10, 30))
    assert paper.selection == TopK(0.8, head_adaptive=True)


def test_presets_go_from_exact_to_fast():
    presets = [AdaSpaConfig.preset(intent) for intent in ("exact", "quality", "balanced", "fast")]
    assert presets[0].is_dense and not any(preset.is_dense for preset in presets[1:])
    assert [preset.selection.name for preset in presets[1:]] == ["retained_mass", "marginal_mass", "marginal_mass"]
    assert presets[2].selection.price < presets[3].selection.price
    dense = [kinds(preset, 50).count("D") for preset in presets]
    assert dense == sorted(dense, reverse=True)
    with pytest.raises(ValueError, match=r"^intent must be one of \('exact', 'quality', 'balanced', 'fast'\)"):
        AdaSpaConfig.preset("best")


def test_a_preset_with_one_thing_changed():
    fast, changed = AdaSpaConfig.preset("fast"), AdaSpaConfig.preset("fast", warmup=2, searches=[2, 10])
    assert (changed.warmup, changed.searches, changed.selection) == (2, (2, 10), fast.selection)
    with pytest.raises(ValueError, match=r"^mass must be"):
        AdaSpaConfig.preset("quality", mass=2)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("sparsity", 1.0),
        ("sparsity", -0.1),
        ("sparsity", float("nan")),
        ("sparsity", "0.8"),
        ("warmup_mass", 1.0),
        ("warmup_mass", "most"),
        ("dense_precision", "fp4"),
        ("sparse_precision", "int8"),
        ("block_size", 48),
        ("block_size", 64.0),
        ("block_size", "64"),
        ("query_block_size", 96),
        ("query_block_size", 128.0),
        ("query_stride", 3),
        ("query_stride", 0),
        ("steps", 0),
        ("warmup", -1),
        ("warmup", 2.5),
        ("dense_tail", -1),
        ("dense_tail", 40),
        ("dense_tail", 1.5),
        ("few_steps", -1),
        ("few_steps", True),
        ("searches", ()),
        ("searches", (5,)),
        ("searches", (20, 15)),
        ("searches", (10, 10)),
        ("searches", (10, 50)),
        ("searches", 10),
        ("selection", "random"),
        ("head_adaptive", "yes"),
        ("dense_layers", (-1,)),
        ("measure_recall", 1),
        ("record_maps", "no"),
        ("token_order", "hilbert"),
        ("cache_budget", -1),
        ("cache_budget", 1.5),
        ("over_budget", "swap"),
    ],
)
def test_a_bad_setting_is_named(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must be "):
        AdaSpaConfig(**{argument: value})


@pytest.mark.parametrize("mass", [0, 1, "most"])
def test_a_bad_setting_of_a_policy_is_named(mass):
    with pytest.raises(ValueError, match=r"^mass must be "):
        AdaSpaConfig(selection="retained_mass", mass=mass)


def test_a_setting_that_the_policy_does_not_have_is_refused():
    with pytest.raises(TypeError, match=r"^sparsity is not a setting of retained_mass, which has mass$"):
        AdaSpaConfig(selection="retained_mass", sparsity=0.8)
    with pytest.raises(TypeError, match=r"^steps_ is not a setting of top_k, which has sparsity, head_adaptive$"):
        AdaSpaConfig(steps_=30)


def test_the_settings_of_a_policy_stand_beside_the_others():
    config = AdaSpaConfig(selection="retained_mass", mass=0.9)
    assert config == AdaSpaConfig(selection=RetainedMass(0.9)) == AdaSpaConfig(**config.to_dict())
    assert replace(config, mass=0.8, warmup=5).selection == RetainedMass(0.8)
    assert replace(config, selection="top_k", sparsity=0.5).selection == TopK(0.5)


def test_lists_are_taken_as_from_json():
    assert AdaSpaConfig(searches=[10, 20], dense_layers=[0]).searches == (10, 20)


def test_searches_and_the_dense_tail_must_fit_beside_each_other():
    assert AdaSpaConfig(dense_tail=19).dense_tail == 19
    with pytest.raises(
        ValueError, match=r"^searches must be .* from warmup=10 to steps-dense_tail-1=29, got \(10, 30\)"
    ):
        AdaSpaConfig(dense_tail=20)
    with pytest.raises(ValueError, match=r"^dense_tail must be an integer in \[0, steps-warmup=2\), got 2$"):
        AdaSpaConfig(steps=4, warmup=2, searches=(2,), dense_tail=2)
    with pytest.raises(ValueError, match=r"^searches must be .* from warmup=10 to steps-dense_tail-1=24"):
        AdaSpaConfig.preset("fast", dense_tail=25)


def kinds(config, steps):
    """A letter a step: ``D`` dense, ``S`` search, ``.`` sparse."""
    schedule, letters = config.resolve(steps).schedule, {"dense": "D", "search": "S", "sparse": "."}
    return "".join(letters[schedule.kind(step)] for step in range(steps))


def test_schedule_of_the_paper():
    schedule = AdaSpaConfig.paper().resolve(50).schedule
    by_kind = {kind: [step for step in range(50) if schedule.kind(step) is kind] for kind in StepKind}
    assert by_kind[StepKind.DENSE] == list(range(10))
    assert by_kind[StepKind.SEARCH] == [10, 30]
    assert len(by_kind[StepKind.SPARSE]) == 38
    assert [step for step in range(50) if schedule.leaves_lse(step)] == [9]
    assert [step for step in range(50) if schedule.searches_after(step)] == list(range(30))


@pytest.mark.parametrize(
    ("steps", "searches"),
    [(None, (10, 30)), (50, (10, 30)), (24, (5, 14)), (25, (5, 15)), (4, (1, 2)), (3, (1, 2)), (1, ())],
)
def test_schedule_keeps_its_fractions_at_another_length(steps, searches):
    assert AdaSpaConfig.paper().resolve(steps).schedule.searches == searches


def test_without_warmup_the_first_step_searches():
    schedule = AdaSpaConfig(warmup=0, searches=(0, 30)).resolve(5).schedule
    assert schedule.searches == (0, 3)
    assert schedule.kind(0) is StepKind.SEARCH


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [(50, "D" * 10 + "S" + "." * 19 + "S" + "." * 14 + "D" * 5), (10, "DDS...S..D"), (4, "DSSD"), (3, "DDD"), (1, "D")],
)
def test_a_dense_tail_keeps_its_fraction_and_at_least_one_step(steps, wanted):
    assert kinds(AdaSpaConfig(dense_tail=5), steps) == wanted


def test_without_its_length_a_request_has_the_tail_where_it_was_written():
    schedule = AdaSpaConfig(dense_tail=5).resolve().schedule
    assert [step for step in range(60) if schedule.kind(step) is StepKind.DENSE] == [*range(10), *range(45, 60)]


def test_a_first_search_with_no_sparse_step_behind_it_is_left_out():
    late = AdaSpaConfig(steps=4, warmup=3, searches=(3,))
    assert kinds(late, 4) == "DDDD"
    assert kinds(late, 8) == "DDDDDDS."
    assert kinds(AdaSpaConfig.preset("balanced"), 2) == "DD"


@pytest.mark.parametrize(
    ("preset", "steps", "usual", "few"),
    [
        ("fast", 4, "SSS.", "S..."),
        ("balanced", 8, "DS......", "S......."),
        ("quality", 4, "DSS.", "S..."),
        ("quality", 8, "DDS..S..", "S......."),
        ("fast", 9, "S.S..S...", "S.S..S..."),
    ],
)
def test_a_few_step_request_searches_in_its_first_step_alone(preset, steps, usual, few):
    assert kinds(AdaSpaConfig.preset(preset), steps) == usual
    assert kinds(AdaSpaConfig.preset(preset, few_steps=8), steps) == few


def test_a_few_step_request_keeps_its_tail_and_has_no_partly_sparse_warmup():
    config = AdaSpaConfig.preset("quality", few_steps=8, dense_tail=5, warmup_mass=0.99)
    assert kinds(config, 8) == "S......D"
    plan = config.resolve(8)
    assert [plan.policy(step) for step in range(8)] == [config.selection] * 8


def test_a_partly_sparse_warmup_searches_at_once_and_by_its_own_mass():
    config = AdaSpaConfig(warmup_mass=0.98)
    plan = config.resolve(10)
    assert [plan.policy(step) for step in (0, 1)] == [RetainedMass(0.98)] * 2
    assert [plan.policy(step) for step in (2, 9)] == [config.selection] * 2
    schedule = plan.schedule
    assert schedule.searches == (0, 2, 6)
    assert [schedule.kind(step) for step in (0, 1, 2, 3)] == [
        StepKind.SEARCH,
        StepKind.SPARSE,
        StepKind.SEARCH,
        StepKind.SPARSE,
    ]


def test_sparsity_zero_is_dense_throughout():
    schedule = AdaSpaConfig(sparsity=0).resolve().schedule
    assert {schedule.kind(step) for step in range(50)} == {StepKind.DENSE}
    assert not any(schedule.leaves_lse(step) or schedule.searches_after(step) for step in range(50))
