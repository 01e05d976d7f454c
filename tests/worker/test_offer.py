"""A catalog entry that its model cannot keep is refused before a worker takes a job, with the model and the field."""

import inspect
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_worker import pipeline
from adaspa_worker.call_arguments import call_arguments
from adaspa_worker.engines.base import DiffusersEngine
from adaspa_worker.families import FAMILIES
from adaspa_worker.offer import check
from adaspa_worker.source import ModelUnavailable
from tiny_families import FAMILIES as TINY
from tiny_families import IMAGES, KINDRED, save_family
from tiny_wan import model_spec

MODELS = (
    *("wan", "wan-2.2", "wan-modular", "hunyuan-video", "hunyuan-video-1.5", "cogvideox", "cogvideox-1.5"),
    *("ltx", "ltx-2", "mochi"),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model, written once."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = save_family(name, tmp_path_factory.mktemp(name))
        return made[name]

    return folder


def spec(name: str, folder: Path, **changes: Any) -> ModelSpec:
    """A good entry for a tiny model, but for the changes."""
    own = (TINY | KINDRED | IMAGES)[name]
    entry = {"sizes": [own.size], "frames": [own.frames], "default_frames": own.frames}
    guided = {"steps_range": [2, 50], "negative_prompt": name != "hunyuan-video", "call": dict(own.call)}
    return ModelSpec.model_validate(model_spec(folder, **entry | guided | changes))


@pytest.mark.parametrize("name", MODELS)
def test_what_the_model_can_keep_is_taken(folders: Callable[[str], Path], name: str) -> None:
    check(spec(name, folders(name)), folders(name))


UNI_PC = "UniPCMultistepScheduler"
DPM = "DPMSolverMultistepScheduler"
EULER = "FlowMatchEulerDiscreteScheduler"
MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("hunyuan-video-1.5", {"memory": {"gguf": ["a.gguf"]}}, "memory.gguf: diffusers cannot read a HunyuanVideo15Trans"),
    ("wan-modular", {"call": {"max_sequence_length": "9"}}, "call.max_sequence_length: '9' is not of type int"),
    (
        "wan-modular",
        {"call": {"sigmas": [1, 0.5]}},
        "call.sigmas: is not an argument of WanModularPipeline",
    ),
    ("wan-modular", {"memory": {"group_offload": True}}, "memory.group_offload: a WanModularPipeline does without"),
    (
        "wan-modular",
        {"cache": {"kind": "first_block", "threshold": 0.1}},
        "cache: WanModularPipeline does not tell the cache its guidance branches; allowed: null",
    ),
    (
        "wan-2.2",
        {"cache": {"kind": "mag", "threshold": 0.1, "ratios": [1, 1]}},
        "cache: mag counts the steps of one transformer, but the model has two; allowed: other kinds",
    ),
    *(
        ("wan-vace", {"cache": {"threshold": 0.1, **cache}}, f"cache: in the steps that {cache['kind']} skips, diff")
        for cache in ({"kind": "first_block"}, {"kind": "mag", "ratios": [1, 1]})
    ),
    (
        "wan-2.2-5b",
        {"cache": {"kind": "sea", "threshold": 0.1}, "tasks": ["text_to_video", "image_to_video"]},
        "cache: sea is not told the step by WanImageToVideoPipeline; allowed: other kinds, or only tasks without im",
    ),
    (
        "mochi",
        {"cache": {"kind": "sea", "threshold": 0.1}},
        "cache: sea is not told the step by MochiPipeline; allowed: other kinds",
    ),
    ("wan-modular", {"tasks": ["image_to_video"]}, "tasks: the model does not support image_to_video; allowed: text_"),
    ("wan", {"sizes": ["80x48", "88x48"]}, "sizes: 88x48 is not a multiple of 16x16"),
    ("wan", {"sizes": ["528x48"]}, "sizes: 528x48 is too large; allowed: up to 512x512"),
    ("hunyuan-video", {"sizes": ["16400x16"]}, "output_formats: mp4: 16400x16 is not a size for libx264; .* to 16384"),
    ("wan", {"frames": [17, 129]}, "frames: 129 is too many; allowed: up to 125"),
    ("wan", {"frames": [17, 18]}, "frames: 18 is not a multiple of 4 plus 1"),
    (
        "wan",
        {"call": {"max_seq_length": 64}},
        "call.max_seq_length: is not an argument of WanPipeline; allowed: att",
    ),
    ("wan", {"call": {"max_sequence_length": "64"}}, "call.max_sequence_length: '64' is not of type int"),
    ("wan", {"call": {"height": 64}}, "call.height: is set by the job"),
    ("wan", {"call": {"num_videos_per_prompt": 2}}, "call.num_videos_per_prompt: is set by the job or the worker"),
    ("wan", {"call": {"guidance_scale_2": 3.0}}, "call.guidance_scale_2: the model has no second expert"),
    ("wan", {"guidance_scale_2_range": [1, 9]}, "guidance_scale_2_range: the model has no second expert"),
    ("wan", {"attention": {"sparsity": 2}}, "attention: sparsity must be"),
    ("wan", {"attention": {"nonsense": 1}}, "attention: .*nonsense"),
    ("hunyuan-video", {"negative_prompt": True}, "negative_prompt: has no effect; allowed: false, or true_cfg_scale"),
    ("hunyuan-video", {"call": {"sigmas": [1.0, 0.5]}}, "steps_range: call.sigmas has 2 steps; allowed: .2, 2."),
    ("hunyuan-video-1.5", {"sizes": ["88x48"]}, "sizes: 88x48 is not a multiple of 16x16"),
    ("cogvideox", {"frames": [13], "default_frames": 13}, "frames: 13 is not a multiple of 8 plus 1"),
    ("cogvideox", {"flow_shift": 5.0}, "flow_shift: the model's scheduler has no shift"),
    ("cogvideox", {"flow_shift_range": [1, 9]}, "flow_shift_range: the model's scheduler has no shift"),
    (
        "cogvideox",
        {"scheduler": {"name": UNI_PC}},
        "scheduler: the model's own scheduler, CogVideoXDDIM.*, is not for",
    ),
    (
        "wan",
        {"scheduler": {"name": UNI_PC, "options": {"gift": 3}}},
        "scheduler.options.gift: is not an option of UniPC",
    ),
    (
        "wan",
        {"scheduler": {"name": UNI_PC, "options": {"use_beta_sigmas": True}}},
        "scheduler.options.use_beta_sigmas: does not fit flow matching in a UniPC.*; allowed: false",
    ),
    (
        "wan",
        {"scheduler": {"name": DPM, "options": {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}}},
        "scheduler.options.solver_order: 3 is less exact than 2 for sde-dpmsolver.*; allowed: 1, 2",
    ),
    (
        "wan",
        {"scheduler": {"name": EULER, "options": {"use_karras_sigmas": True}}, "flow_shift": 5.0},
        "flow_shift: the scheduler has use_karras_sigmas, with which a shift has no effect; allowed: null",
    ),
    (
        "wan",
        {"scheduler": {"name": EULER, "options": {"use_karras_sigmas": True}}, "flow_shift_range": [1, 9]},
        "flow_shift_range: the scheduler has use_karras_sigmas, with which a shift has no effect; allowed: null",
    ),
    ("cogvideox", {"compile": True}, "compile: diffusers names no blocks to compile in a CogVideoXTransformer3DModel"),
    ("cogvideox-1.5", {"frames": [13], "default_frames": 13}, "frames: 13 is not a multiple of 8 plus 1"),
    ("cogvideox-1.5", {"sizes": ["48x80"]}, "sizes: 48x80 is too large; allowed: up to 80x48"),
    ("cogvideox-2b", {"call": {"max_sequence_length": 64}}, "call.max_sequence_length: 64 .* allowed: 226"),
    ("ltx", {"call": {"timesteps": [1000, 500]}}, "call.timesteps: diffusers' LTXPipeline fails with it"),
    ("ltx", {"audio": True}, "audio: the model does not generate sound; allowed: false"),
    ("ltx", {"sizes": ["176x96"]}, "sizes: 176x96 is not a multiple of 32x32"),
    ("ltx", {"frames": [29], "default_frames": 29}, "frames: 29 is not a multiple of 8 plus 1"),
    ("mochi", {"frames": [17], "default_frames": 17}, "frames: 17 is not a multiple of 6 plus 1"),
    ("mochi", {"steps_range": [1, 50]}, "steps_range: 1 is too low; allowed: 2 or more"),
]


@pytest.mark.parametrize(("name", "changes", "message"), MISTAKES, ids=str)
def test_what_the_model_cannot_keep_is_refused_with_its_name_and_the_field(
    folders: Callable[[str], Path], name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelUnavailable, match=f"^catalog: model tiny: {message}") as caught:
        check(spec(name, folders(name), **changes), folders(name))
    assert "\n" not in str(caught.value)


def with_config(folder: Path, tmp_path: Path, part: str, **changes: Any) -> Path:
    """A folder that has only the configurations of another one, one of them changed."""
    for file in folder.glob("**/*.json"):
        there = tmp_path / file.relative_to(folder)
        there.parent.mkdir(exist_ok=True)
        found = json.loads(file.read_text())
        there.write_text(json.dumps(found | changes if file.parent.name == part else found))
    return tmp_path


@pytest.mark.parametrize("name", ["wan", "wan-2.2", "wan-2.2-5b"])
def test_a_cache_that_goes_by_the_step_is_taken_by_wan(folders: Callable[[str], Path], name: str) -> None:
    check(spec(name, folders(name), cache={"kind": "sea", "threshold": 0.1}), folders(name))


def test_positions_that_were_learned_are_for_one_size(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = with_config(folders("cogvideox-2b"), tmp_path, "transformer", use_learned_positional_embeddings=True)
    check(spec("cogvideox-2b", folder), folder)
    with pytest.raises(ModelUnavailable, match="sizes: 64x48 is not supported by the model; allowed: 80x48"):
        check(spec("cogvideox-2b", folder, sizes=["64x48"]), folder)


def test_a_model_without_guidance_is_offered_with_one_scale(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = with_config(folders("hunyuan-video"), tmp_path, "transformer", guidance_embeds=False)
    with pytest.raises(ModelUnavailable, match="guidance_range: the model has no guidance scale"):
        check(spec("hunyuan-video", folder), folder)
    check(spec("hunyuan-video", folder, guidance_range=[1, 1], default_guidance=1), folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pipelines_arguments_are_read_as_they_are(name: str) -> None:
    row = FAMILIES[name]
    pipeline_class = getattr(diffusers, name)
    modular = issubclass(pipeline_class, diffusers.ModularPipeline)
    if modular:
        defaults = pipeline_class().default_call_parameters
    else:
        defaults = {each.name: each.default for each in inspect.signature(pipeline_class.__call__).parameters.values()}
    found = call_arguments(name)
    assert set(found) < set(defaults) and "num_inference_steps" in found and "latents" not in found
    for argument, default in found.items():
        if default is not None:
            assert defaults[argument] == default
    module, _, engine_name = row.engine.partition(".")
    engine = getattr(import_module(f"adaspa_worker.engines.{module}"), engine_name)
    assert engine.pipeline.__name__ == name
    if modular:
        transformer = pipeline_class().get_component_spec("transformer").type_hint
    else:
        transformer = inspect.signature(engine.pipeline.__init__).parameters["transformer"].annotation
    classes = [kind for kind in getattr(transformer, "__args__", [transformer]) if kind is not type(None)]
    assert [bool(getattr(kind, "_repeated_blocks", None)) for kind in classes] == [row.compiles]


@pytest.mark.parametrize("name", ["wan", "ltx"])
def test_a_shift_of_the_schedule_is_the_schedulers(
    folders: Callable[[str], Path], params: Callable[..., JobParams], name: str
) -> None:
    """As that of a model whose folder has it."""
    folder = folders(name)
    engine = pipeline.load(spec(name, folder, flow_shift=7.0), folder)
    assert isinstance(engine, DiffusersEngine)
    own = type(engine.pipe.scheduler).from_pretrained(folder / "scheduler")
    wanted = type(own).from_config(own.config, shift=7.0)
    for scheduler in (own, wanted, engine.pipe.scheduler):
        scheduler.set_timesteps(5)
    assert torch.equal(engine.pipe.scheduler.sigmas, wanted.sigmas)
    assert not torch.equal(engine.pipe.scheduler.sigmas, own.sigmas)


def test_another_scheduler_keeps_the_shift_of_the_models_own(folders: Callable[[str], Path]) -> None:
    folder = folders("wan")
    for options, shift in ({}, 3.0), ({"flow_shift": 5.0}, 5.0):
        entry = spec("wan", folder, scheduler={"name": UNI_PC, "options": options})
        check(entry, folder)
        engine = pipeline.load(entry, folder)
        assert isinstance(engine, DiffusersEngine)
        found = engine.pipe.scheduler
        wanted = diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift
        )
        for scheduler in (found, wanted):
            scheduler.set_timesteps(5)
        assert torch.equal(found.sigmas, wanted.sigmas) and type(found) is type(wanted)


@pytest.mark.parametrize(
    ("name", "mild", "strong"),
    [
        ("wan", {"flow_shift": 2.0}, {"flow_shift": 7.0}),
        ("wan-modular", {"flow_shift": 2.0}, {"flow_shift": 7.0}),
        ("ltx", {"flow_shift": 2.0}, {"flow_shift": 7.0}),
        ("wan-2.2", {"guidance_scale_2": 2.0}, {"guidance_scale_2": 7.0}),
    ],
)
def test_what_a_job_names_wins_over_the_catalog(
    folders: Callable[[str], Path],
    params: Callable[..., JobParams],
    name: str,
    mild: dict[str, float],
    strong: dict[str, float],
) -> None:
    """The jobs after it have the catalog's again."""
    folder, tiny = folders(name), (TINY | KINDRED)[name]
    width, height = map(int, tiny.size.split("x"))

    def loaded(told: dict[str, float]) -> pipeline.Engine:
        entry = told if "flow_shift" in told else {"call": {**tiny.call, **told}}
        return pipeline.load(spec(name, folder, **entry), folder)

    def latents(engine: pipeline.Engine, **asked: Any) -> torch.Tensor:
        job = params(width=width, height=height, num_frames=tiny.frames, steps=4, quality="exact", **asked)
        made = engine.denoise(job, engine.encode_prompt(job), lambda *_: None)
        engine.reset()
        return made

    one, other = loaded(mild), loaded(strong)
    assert torch.equal(latents(one, **strong), latents(other))
    assert torch.equal(latents(one), latents(other, **mild))
    assert not torch.equal(latents(one), latents(other))


def test_a_shift_has_each_schedulers_name_and_none_where_it_would_have_no_effect(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    multistep = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3)
    for changes, taken in (
        (dict(multistep.config), True),
        (dict(multistep.config) | {"use_flow_sigmas": False}, False),
        ({"use_dynamic_shifting": True}, False),
        ({"use_karras_sigmas": True}, False),
    ):
        folder = with_config(folders("wan"), tmp_path, "scheduler", **changes)
        if "flow_shift" in changes:
            (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(changes))
        entry = spec("wan", folder, flow_shift=5.0)
        if taken:
            check(entry, folder)
        else:
            with pytest.raises(ModelUnavailable, match="flow_shift"):
                check(entry, folder)
