"""Every request follows the schedule of its own steps: every pipeline and scheduler, counted at the attention."""

import copy
import inspect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from threading import current_thread, main_thread

import adaspa
import diffusers
import pytest
import tiny_families as whole
import torch
from adaspa import AdaSpaConfig, AdaSpaHandle, StepKind
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanVideoToVideoPipeline,
)
from step_kinds import counted, scheduled, watched
from tiny_pipelines import SPARSE, STEPS, TINY, cancel, generate, make_pipeline, make_wan, make_wan_pipeline
from tiny_variants import LONG_CALL, VARIANTS, built, long_ltx, run, wan_experts

# Written for three times as many steps as are run: 2 dense, searches at 2 and 5.
SCALED = replace(SPARSE, steps=3 * STEPS, warmup=6, searches=(6, 15))
DIFFUSION = """
CMStochasticIterativeScheduler CogVideoXDDIMScheduler CogVideoXDPMScheduler DDIMInverseScheduler
DDIMParallelScheduler DDIMScheduler DDPMParallelScheduler DDPMScheduler DEISMultistepScheduler
DPMSolverMultistepInverseScheduler DPMSolverMultistepScheduler DPMSolverSinglestepScheduler
EDMDPMSolverMultistepScheduler EDMEulerScheduler EulerAncestralDiscreteScheduler EulerDiscreteScheduler
HeunDiscreteScheduler IPNDMScheduler KDPM2AncestralDiscreteScheduler KDPM2DiscreteScheduler LCMScheduler
SASolverScheduler TCDScheduler UniPCMultistepScheduler
"""
FLOW = """
FlowMapEulerDiscreteScheduler FlowMatchEulerDiscreteScheduler FlowMatchHeunDiscreteScheduler
FlowMatchLCMScheduler LTXEulerAncestralRFScheduler UniPCMultistepScheduler DPMSolverMultistepScheduler
DPMSolverSinglestepScheduler DEISMultistepScheduler SASolverScheduler EulerDiscreteScheduler HeunDiscreteScheduler
KDPM2DiscreteScheduler
"""
FLOW_SIGMAS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


def check(pipe, seen, wanted, config=SCALED, of=None):
    """Both what ran and what is reported are as the schedule has them."""
    assert seen.kinds() == wanted
    reports = [
        part.adaspa.report() for name, part in pipe.components.items() if name.startswith("transformer") and part
    ]
    assert {name: sum(report[name] for report in reports) for name in counted([])} == counted(of or wanted)
    assert [report["fell_back"] for report in reports] == [[]] * len(reports)


@pytest.mark.parametrize("family", TINY)
def test_text_to_video(family):
    """One request after the other; more steps than the schedule is written for are scaled as fewer are."""
    pipe = make_pipeline(family)
    adaspa.apply(pipe, SCALED)
    for steps in (4, STEPS, 30) if family == "wan" else (4, STEPS):
        with watched(pipe) as seen:
            generate(pipe, family, steps=steps)
        check(pipe, seen, scheduled(SCALED, steps))


@pytest.mark.parametrize("family", ["wan", "hunyuan-video"])
def test_few_steps_and_a_dense_tail(family):
    config = replace(SCALED, few_steps=4, dense_tail=3)
    pipe = make_pipeline(family)
    adaspa.apply(pipe, config)
    for steps, letters in ((4, "sea spa spa den"), (STEPS, "den den sea spa spa sea spa den")):
        wanted = [next(kind for kind in StepKind if kind.startswith(name)) for name in letters.split()]
        with watched(pipe) as seen:
            generate(pipe, family, steps=steps)
        check(pipe, seen, wanted, config)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name):
    variant = VARIANTS[name]
    pipe = variant.pipeline()
    adaspa.apply(pipe, SCALED)
    for _ in range(2):
        with watched(pipe) as seen:
            run(pipe, variant.call, STEPS)
        check(pipe, seen, scheduled(SCALED, STEPS, variant.first))


@pytest.mark.parametrize(
    ("family", "name"), [("cogvideox", name) for name in DIFFUSION.split()] + [("wan", name) for name in FLOW.split()]
)
def test_schedulers(family, name):
    pipe = make_pipeline(family)
    adaspa.apply(pipe, SCALED)
    # In the place of the one that it was applied with.
    cls = getattr(diffusers, name)
    settings = FLOW_SIGMAS if family == "wan" and "use_flow_sigmas" in inspect.signature(cls).parameters else {}
    scheduler = pipe.scheduler = cls.from_config(pipe.scheduler.config, **settings)
    kept = set(vars(scheduler))
    with watched(pipe) as seen:
        generate(pipe, family)
    check(pipe, seen, scheduled(SCALED, STEPS, order=scheduler.order), of=scheduled(SCALED, STEPS))
    adaspa.remove(pipe)
    assert "step" not in vars(scheduler) and set(vars(scheduler)) >= kept


def test_pndm_has_two_evaluations_in_its_first_step():
    pipe = make_pipeline("cogvideox")
    pipe.scheduler = diffusers.PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    adaspa.apply(pipe, SCALED)
    with watched(pipe) as seen:
        generate(pipe, "cogvideox")
    wanted = scheduled(SCALED, STEPS)
    check(pipe, seen, [wanted[0], *wanted], of=wanted)


@pytest.mark.parametrize("family", ["hunyuan-video", "ltx", "mochi"])
def test_unipc_on_sigmas_that_the_pipeline_gives(family):
    pipe = make_pipeline(family)
    pipe.scheduler = UniPCMultistepScheduler(**FLOW_SIGMAS)
    adaspa.apply(pipe, SCALED)
    with watched(pipe) as seen:
        generate(pipe, family)
    check(pipe, seen, scheduled(SCALED, STEPS))


@pytest.mark.parametrize("family", ["hunyuan-video", "hunyuan-video-1.5", "hunyuan-video-image"])
def test_neighbours_that_bfloat16_makes_equal(family):
    """At shift 9 the first 13 of 50 timesteps are 8 values."""
    config = replace(AdaSpaConfig.paper(), block_size=16, query_block_size=16, sparsity=0.6)
    pipe = VARIANTS[family].pipeline() if family in VARIANTS else make_pipeline(family)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=9.0)
    pipe.to(torch.bfloat16)
    adaspa.apply(pipe, config)
    with watched(pipe) as seen:
        if family in VARIANTS:
            run(pipe, VARIANTS[family].call, 50)
        else:
            generate(pipe, family, steps=50)
    rounded = pipe.scheduler.timesteps.to(torch.bfloat16)
    assert len(rounded.unique()) < 50
    check(pipe, seen, scheduled(config, 50))


def test_sigmas_that_go_up_and_down():
    pipe = make_pipeline("ltx-2")
    (handle,) = adaspa.apply(pipe, SCALED)
    sigmas, noise = [1.0, 0.4, 0.9, 0.3, 0.8, 0.5, 0.2, 0.1], []
    pipe.transformer.register_forward_hook(lambda *_: noise.append(handle.sigma))
    with watched(pipe) as seen:
        generate(pipe, "ltx-2", sigmas=sigmas)
    check(pipe, seen, scheduled(SCALED, STEPS))
    assert [sigma for sigma, _ in groupby(noise)] == pipe.scheduler.sigmas[:-1].tolist()
    assert handle.sigma is None


@pytest.mark.parametrize(
    "scheduler",
    [FlowMatchHeunDiscreteScheduler(), UniPCMultistepScheduler(**FLOW_SIGMAS), DDIMScheduler()],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_from_the_middle(scheduler):
    variant = VARIANTS["wan-video"]
    pipe = variant.pipeline()
    pipe.scheduler = scheduler
    adaspa.apply(pipe, SCALED)
    with watched(pipe) as seen:
        run(pipe, variant.call, STEPS)
    wanted = scheduled(SCALED, STEPS, variant.first)
    check(pipe, seen, scheduled(SCALED, STEPS, variant.first, order=scheduler.order), of=wanted)


def test_windows_of_one_call():
    """LTX's long videos leave out the last step of each."""
    pipe = long_ltx()
    adaspa.apply(pipe, SCALED)
    for _ in range(2):
        with watched(pipe) as seen:
            run(pipe, LONG_CALL, STEPS)
        check(pipe, seen, 3 * scheduled(SCALED, STEPS, last=STEPS - 1))


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_second_expert_searches_first_and_has_no_warm_up(kind):
    if kind == "text":
        pipe, call = make_wan_pipeline(transformer_2=make_wan(seed=1), boundary_ratio=0.8), None
    else:
        pipe, call = wan_experts(), VARIANTS["wan-image"].call
    first, second = adaspa.apply(pipe, SCALED)
    with watched(pipe) as seen:
        generate(pipe) if call is None else run(pipe, call, STEPS)
    begun = first.report()
    ran_first = begun["dense_steps"] + begun["search_steps"] + begun["sparse_steps"]
    assert 2 < ran_first < 5, "it takes over between the searches"
    wanted = scheduled(SCALED, STEPS)
    wanted[ran_first] = StepKind.SEARCH
    check(pipe, seen, wanted)
    assert second.report()["dense_steps"] == 0


def test_a_call_that_was_given_up_is_no_part_of_the_next():
    pipe = make_pipeline("wan")
    adaspa.apply(pipe, SCALED)
    cancel(pipe)
    with watched(pipe) as seen:
        generate(pipe)
    check(pipe, seen, scheduled(SCALED, STEPS))


def test_two_pipelines_with_one_transformer():
    text = whole.wan()
    video = built(WanVideoToVideoPipeline, lambda: text, "transformer_2", scheduler=FlowMatchHeunDiscreteScheduler())
    (handle,) = adaspa.apply(text, SCALED)
    assert adaspa.apply(video, SCALED) == (handle,)
    call = {name: value for name, value in VARIANTS["wan-video"].call.items() if name not in ("video", "strength")}
    for _ in range(2):
        with watched(text) as seen:
            run(text, {**call, "num_frames": 17}, STEPS)
        check(text, seen, scheduled(SCALED, STEPS))
        with watched(video) as seen:
            run(video, VARIANTS["wan-video"].call, STEPS)
        check(video, seen, scheduled(SCALED, STEPS, 4, order=2), of=scheduled(SCALED, STEPS, 4))
    adaspa.remove(video)
    assert not hasattr(text.transformer, "adaspa")


def test_a_second_thread_is_refused_and_leaves_the_first_ones_request_alone():
    """Two requests at once through one transformer would attend by each other's blocks."""
    text = make_pipeline("wan")
    relative = make_wan_pipeline(transformer=text.transformer)
    for pipe in (text, relative):
        adaspa.apply(pipe, SPARSE)
    expected = generate(text)
    answers = []

    def from_another_thread(*_):
        if current_thread() is main_thread():
            answers.append(ThreadPoolExecutor(1).submit(generate, relative).exception())

    hook = text.transformer.blocks[0].register_forward_pre_hook(from_another_thread)
    found = generate(text)
    hook.remove()
    assert len(answers) == 2 * STEPS
    assert all(isinstance(answer, RuntimeError) and "runs in another thread" in str(answer) for answer in answers)
    assert torch.equal(found, expected)
    assert text.transformer.adaspa.report()["sparse_steps"] == STEPS - 4
    assert torch.equal(generate(relative), expected)


def test_a_relative_of_a_pipeline_that_is_gone():
    """``from_pipe`` shares transformer and scheduler."""
    pipe = make_pipeline("wan")
    adaspa.apply(pipe, SCALED)
    pipe = WanPipeline.from_pipe(pipe)
    pipe.set_progress_bar_config(disable=True)
    with watched(pipe) as seen:
        generate(pipe)
    check(pipe, seen, scheduled(SCALED, STEPS))


def test_two_pipelines_with_one_scheduler():
    one = make_pipeline("wan")
    other = make_wan_pipeline(transformer=make_wan(seed=1))
    other.scheduler = one.scheduler
    for pipe in (one, other):
        adaspa.apply(pipe, SCALED)
    for pipe in (one, other, one):
        with watched(pipe) as seen:
            generate(pipe)
        check(pipe, seen, scheduled(SCALED, STEPS))


def test_a_copy_of_the_pipeline_has_a_scheduler_of_its_own():
    pipe = make_pipeline("wan")
    adaspa.apply(pipe, SCALED)
    generate(pipe)
    scheduler = copy.deepcopy(pipe.scheduler)
    assert scheduler.timesteps is not pipe.scheduler.timesteps and type(scheduler) is type(pipe.scheduler)


def test_remove_takes_it_from_every_transformer():
    pipe = make_wan_pipeline(transformer_2=make_wan(seed=1), boundary_ratio=0.8)
    plain = generate(pipe)
    assert len(adaspa.apply(pipe, SCALED)) == 2
    generate(pipe)
    adaspa.remove(pipe)
    assert not any(hasattr(part, "adaspa") for part in (pipe.transformer, pipe.transformer_2))
    assert torch.equal(generate(pipe), plain)
    with pytest.raises(ValueError, match=r"^model must be one that adaspa.apply was called on, got WanPipeline"):
        adaspa.remove(pipe)


def test_what_is_no_pipeline_is_refused():
    with pytest.raises(ValueError, match=r"^model must be a pipeline or a transformer"):
        adaspa.apply("wan")
    pipe = make_wan_pipeline(transformer=None, transformer_2=None)
    with pytest.raises(ValueError, match=r"^model must have a transformer of Wan.*; WanPipeline has none"):
        adaspa.apply(pipe)
    half = make_wan_pipeline(transformer_2=torch.compile(make_wan(seed=1)))
    with pytest.raises(ValueError, match=r"^transformer must not be wrapped by torch.compile"):
        adaspa.apply(half)
    assert not hasattr(half.transformer, "adaspa")


def test_a_dense_layer_that_the_model_does_not_have_is_refused():
    pipe = make_wan_pipeline(transformer_2=make_wan(seed=1), boundary_ratio=0.8)
    last = len(pipe.transformer.blocks) - 1
    refusal = rf"^dense_layers must be layers of the model, 0 to {last}, got {last + 1}$"
    beyond = replace(SCALED, dense_layers=(0, last + 1))
    with pytest.raises(ValueError, match=refusal):
        adaspa.apply(pipe, beyond)
    assert not hasattr(pipe.transformer, "adaspa") and not hasattr(pipe.transformer_2, "adaspa")
    handles = adaspa.apply(pipe, replace(SCALED, dense_layers=(last,)))
    with pytest.raises(ValueError, match=refusal):
        handles[0].configure(beyond)
    generate(pipe)
    assert [layer["layer"] for layer in handles[0].report()["layers"]] == list(range(last))


# A transformer without its pipeline

LITTLE = AdaSpaConfig(steps=4, warmup=1, searches=(1,), block_size=16, sparsity=0.6)


def follow(handle, timesteps, branches):
    """Step and kind of each forward."""
    seen = []
    for timestep in timesteps:
        for branch in branches:
            state = handle.begin_forward(float(timestep), branch)
            seen.append((state.step, str(state.kind)))
    return seen


def test_the_same_timestep_in_the_same_named_branch_is_the_next_step():
    seen = follow(AdaSpaHandle(LITTLE), (1000, 996, 996, 992), ("pred_cond", "pred_uncond"))
    kinds = ("dense", "search", "sparse", "sparse")
    assert seen == [(step, kind) for step, kind in enumerate(kinds) for _ in range(2)]


def test_a_timestep_that_turns_back_is_another_request():
    handle = AdaSpaHandle(LITTLE)
    follow(handle, (1000, 600, 300), ("cond",))
    assert follow(handle, (1000, 600), ("cond",)) == [(0, "dense"), (1, "search")]
    rising = AdaSpaHandle(LITTLE, timesteps_rise=True)
    assert follow(rising, (0, 400, 700, 0), ("cond",)) == [(0, "dense"), (1, "search"), (2, "sparse"), (0, "dense")]
    handle.begin(steps=4)
    assert [step for step, _ in follow(handle, (1000, 600, 900, 300), ("cond",))] == [0, 1, 2, 3], "as it was told"
    assert follow(handle, (1000,), ("cond",)) == [(0, "dense")]


def test_unnamed_branches_are_dense_unless_their_number_is_told():
    handle = AdaSpaHandle(LITTLE)
    assert {kind for _, kind in follow(handle, (1000, 900, 800, 700), (None, None))} == {"dense"}
    (reason,) = handle.report()["fell_back"]
    assert "adaspa.apply(pipe)" in reason and "begin(steps=, branches=)" in reason
    handle.begin(steps=4, branches=2)
    seen = follow(handle, (1000, 996, 996, 992), (None, None))
    kinds = ("dense", "search", "sparse", "sparse")
    assert seen == [(step, kind) for step, kind in enumerate(kinds) for _ in range(2)]
    assert handle.report()["fell_back"] == []
    assert follow(handle, (1000,), (None,)) == [(0, "dense")], "the next request, of which nothing was told"
    assert len(handle.report()["fell_back"]) == 1


def test_dense_by_the_config_is_no_fall_back():
    handle = AdaSpaHandle(AdaSpaConfig.preset("exact"))
    follow(handle, (1000, 900), (None,))
    assert handle.report()["fell_back"] == []


def test_a_number_of_steps_that_nobody_told_is_reported():
    handle = AdaSpaHandle(LITTLE)
    follow(handle, (1000, 800, 400), ("cond",))
    handle.reset()
    (reason,) = handle.report()["fell_back"]
    assert reason.startswith("the number of steps is unknown") and "4 steps" in reason
    for told in (True, False):
        handle.begin(steps=3 if told else None)
        follow(handle, (1000, 800, 400) if told else (1000, 800, 400, 100), ("cond",))
        handle.reset()
        assert handle.report()["fell_back"] == []


def test_a_rounded_timestep_that_equals_another_one_is_followed():
    """994.3 becomes 996 in bfloat16."""

    class Pipe:
        scheduler = FlowMatchEulerDiscreteScheduler()

    pipe, handle = Pipe(), AdaSpaHandle(LITTLE)
    handle.follow(pipe)
    pipe.scheduler.set_timesteps(sigmas=[1.0, 0.996, 0.9943, 0.5])
    pipe.scheduler.set_begin_index(0)
    seen = []
    for timestep in pipe.scheduler.timesteps:
        seen += [handle.begin_forward(timestep.to(torch.bfloat16)).step for _ in range(2)]
        pipe.scheduler.step(torch.zeros(1), timestep, torch.zeros(1))
    assert seen == [0, 0, 1, 1, 2, 2, 3, 3]


def test_rounded_timesteps_that_nothing_tells_apart_are_dense():
    class Pipe:
        scheduler = DDIMScheduler(timestep_spacing="trailing")

    pipe, handle = Pipe(), AdaSpaHandle(SPARSE)
    handle.follow(pipe)
    pipe.scheduler.set_timesteps(500)
    for timestep in pipe.scheduler.timesteps.to(torch.bfloat16):
        handle.begin_forward(timestep)
    report = handle.report()
    assert report["sparse_steps"] == 0 and "names no guidance branch" in report["fell_back"][0]


def test_begin_names_what_is_wrong():
    handle = AdaSpaHandle(LITTLE)
    for wrong in ({"steps": 0}, {"steps": 2.0}, {"steps": 4, "branches": 0}):
        with pytest.raises(ValueError, match=rf"^{list(wrong)[-1]} must be an integer"):
            handle.begin(**wrong)
    with pytest.raises(ValueError, match=r"^steps must be given with branches"):
        handle.begin(branches=2)


def test_a_scheduler_that_does_not_drive_the_transformer_is_not_followed():
    pipe = make_pipeline("cogvideox")
    (handle,) = adaspa.apply(pipe, SCALED)
    generate(pipe, "cogvideox")
    other = make_pipeline("cogvideox")
    other.scheduler, other.transformer = CogVideoXDDIMScheduler(), pipe.transformer
    generate(other, "cogvideox", steps=5)
    assert sum(handle.report()[name] for name in counted([])) == 5
