"""Models that begin, or also end, a clip with an image: what the pipeline makes of it, with all that jobs have."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
import torch
from adaspa_api.report import TokenCount
from adaspa_api.words import ErrorCode, JobStatus, Role, Task
from adaspa_client import Client
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import Input, JobParams
from adaspa_jobs.settings import Settings
from adaspa_worker.checkpoint import pack, unpack
from adaspa_worker.engines.base import DiffusersEngine
from adaspa_worker.latent_rgb import PATCH, LatentRGB
from adaspa_worker.offer import check
from adaspa_worker.pipeline import Given, load
from adaspa_worker.recipe import read_recipe
from adaspa_worker.source import ModelUnavailable
from diffusers import (
    CogVideoXImageToVideoPipeline,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideoImageToVideoPipeline,
    LTX2ConditionPipeline,
    LTX2ImageToVideoPipeline,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    WanImageToVideoPipeline,
    WanVACEPipeline,
)
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from drawn import corners, encoded
from filmed import filmed, frames_in
from interrupted import interrupted
from job_bench import Bench
from PIL import Image, ImageChops
from running_gateway import serving
from tiny_families import IMAGES, save_family
from tiny_wan import model_spec, write_catalog

WIDTH, HEIGHT, FRAMES, STEPS = 80, 48, 17, 4
FIRST, LAST = corners(WIDTH, HEIGHT), Image.new("RGB", (WIDTH, HEIGHT), "navy")
FROM_IMAGE, BOTH_FRAMES = [Task.image_to_video], [Task.image_to_video, Task.first_last_frame]
TEXT_OR_IMAGE = [Task.text_to_video, Task.image_to_video]
TEXT_OR_REFERENCE = [Task.text_to_video, Task.reference_to_video]
ALL = [Task.text_to_video, *BOTH_FRAMES, Task.video_continuation]
START_FRAMES = 17


class Model(NamedTuple):
    """What a model of ``IMAGES`` can be asked for, and the pipeline with which anyone does it in diffusers."""

    pipeline: Any
    tasks: list[Task]


MODELS = {
    "wan-2.1-image": Model(WanImageToVideoPipeline, FROM_IMAGE),
    "wan-2.2-image": Model(WanImageToVideoPipeline, BOTH_FRAMES),
    "wan-2.2-5b": Model(WanImageToVideoPipeline, TEXT_OR_IMAGE),
    "wan-vace": Model(WanVACEPipeline, TEXT_OR_REFERENCE),
    "cogvideox-image": Model(CogVideoXImageToVideoPipeline, FROM_IMAGE),
    "cogvideox-1.5-image": Model(CogVideoXImageToVideoPipeline, FROM_IMAGE),
    "hunyuan-video-image": Model(HunyuanVideoImageToVideoPipeline, FROM_IMAGE),
    "hunyuan-video-image-beside": Model(HunyuanVideoImageToVideoPipeline, FROM_IMAGE),
    "hunyuan-video-1.5-image": Model(HunyuanVideo15ImageToVideoPipeline, FROM_IMAGE),
    "ltx": Model(LTXImageToVideoPipeline, TEXT_OR_IMAGE),
    "ltx-condition": Model(LTXConditionPipeline, ALL),
    "ltx-2": Model(LTX2ImageToVideoPipeline, ALL),
    "ltx-2-condition": Model(LTX2ConditionPipeline, ALL),
}
CASES = [(name, (Role.first,)) for name in MODELS if name not in ("ltx-2-condition", "wan-vace")]
CASES += [(name, (Role.first, Role.last)) for name in ("wan-2.2-image", "ltx-condition", "ltx-2")]
CASES += [(name, (Role.start,)) for name in ("ltx-condition", "ltx-2")]
CASES += [("wan-vace", (Role.reference,))]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[DiffusersEngine, Path]]:
    """A tiny model and its folder, loaded once."""
    made: dict[str, tuple[DiffusersEngine, Path]] = {}

    def engine(name: str) -> tuple[DiffusersEngine, Path]:
        if name not in made:
            folder = save_family(name, tmp_path_factory.mktemp(name))
            entry = spec(name, folder)
            check(entry, folder)
            loaded = load(entry, folder)
            assert isinstance(loaded, DiffusersEngine)
            shorten(loaded.pipe)
            made[name] = loaded, folder
        return made[name]

    return engine


def spec(name: str, folder: Path, **changes: object) -> ModelSpec:
    own = IMAGES[name]
    entry = {"sizes": [own.size], "frames": [own.frames], "default_frames": own.frames, "tasks": MODELS[name].tasks}
    entry |= {"call": own.shorter | dict(own.call), "memory": {"dtype": "float32"}, **own.entry}
    return ModelSpec.model_validate(model_spec(folder, **entry) | changes)


def shorten(pipe: Any) -> None:
    """Leave away most of the padding of a text of HunyuanVideo 1.5: no argument of its call does."""
    if isinstance(pipe, HunyuanVideo15ImageToVideoPipeline):
        pipe.tokenizer_max_length = 16


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{'-'.join(case[1])}")
def case(request: pytest.FixtureRequest, engines: Callable[[str], tuple[DiffusersEngine, Path]]) -> tuple:
    """A model's name, its engine and folder, and the images of a job."""
    name, roles = request.param
    size = tuple(map(int, IMAGES[name].size.split("x")))
    all_of_them = {Role.first: corners(*size), Role.last: Image.new("RGB", size, "navy"), Role.start: moving(*size)}
    all_of_them[Role.reference] = all_of_them[Role.first]
    return (name, *engines(name), {role: all_of_them[role] for role in roles})


def moving(width: int, height: int) -> list[Image.Image]:
    """Frames of the corners, which move to the right."""
    still = corners(width, height)
    return [ImageChops.offset(still, 2 * number, 0) for number in range(START_FRAMES)]


@pytest.fixture
def asked(params: Callable[..., JobParams]) -> Callable[..., JobParams]:
    usual = {"width": WIDTH, "height": HEIGHT, "num_frames": FRAMES, "steps": STEPS, "quality": "exact"}
    return lambda **changes: params(**usual | changes)


def of(name: str) -> dict[str, int]:
    """The size and the length of a model's clips."""
    width, height = map(int, IMAGES[name].size.split("x"))
    return {"width": width, "height": height, "num_frames": IMAGES[name].frames}


def test_wan_vace_gets_a_reference_of_another_shape_on_white(
    engines: Callable[[str], tuple[DiffusersEngine, Path]], asked: Callable[..., JobParams]
) -> None:
    engine, _ = engines("wan-vace")
    params, slim = asked(steps=2), corners(30, 96)
    on_white = Image.new("RGB", (WIDTH, HEIGHT), "white")
    on_white.paste(slim.resize((15, HEIGHT), Image.Resampling.LANCZOS), (32, 0))
    made = []
    for image in (slim, on_white):
        encoded = engine.encode_prompt(params, {Role.reference: image})
        made.append(engine.denoise(params, encoded, lambda *_: None))
        engine.reset()
    assert torch.equal(*made)


def test_a_far_shift_goes_on_to_the_last_of_many_steps(
    engines: Callable[[str], tuple[DiffusersEngine, Path]], asked: Callable[..., JobParams]
) -> None:
    """The first timesteps of such a schedule are the same whole number."""
    _, folder = engines("wan-2.2-image")
    engine = load(spec("wan-2.2-image", folder, scheduler={"name": "UniPCMultistepScheduler"}), folder)
    params = asked(steps=64, flow_shift=16.0, num_frames=5)
    done: list[int] = []
    engine.denoise(params, engine.encode_prompt(params, {Role.first: FIRST}), lambda number, _: done.append(number))
    assert done == list(range(1, 65))
    report = engine.report()
    assert (report["dense_steps"], report["fell_back"]) == (64, [])


def plain_arguments(name: str, params: JobParams, images: Mapping[Role, Given]) -> dict[str, Any]:
    """Those of its pipeline that differ from model to model."""
    size = {name: getattr(params, name) for name in ("width", "height", "num_frames")}
    arguments: dict[str, Any] = {"image": images.get(Role.first), "guidance_scale": params.guidance_scale} | size
    if name == "wan-vace":
        arguments.pop("image")
        return arguments | {"reference_images": [images[Role.reference]]}
    if name == "hunyuan-video-1.5-image":  # its pipeline takes the size from the image
        return {"image": images[Role.first], "num_frames": params.num_frames}
    if name == "hunyuan-video-image-beside":  # its pipeline leaves four frames out
        arguments["num_frames"] += 4
    if name.startswith("ltx"):
        arguments["frame_rate"] = params.fps
    if name == "ltx-2" and set(images) != {Role.first}:
        places = {Role.first: 0, Role.start: 0, Role.last: (params.num_frames - 1) // 8}
        arguments.pop("image")
        return arguments | {"conditions": [LTX2VideoCondition(image, places[role]) for role, image in images.items()]}
    if name == "ltx-condition":
        arguments.pop("image")
        if Role.start in images:
            return arguments | {"conditions": [LTXVideoCondition(video=images[Role.start], frame_index=0)]}
        places = {Role.first: 0, Role.last: params.num_frames - 1}
        given = [LTXVideoCondition(image=image, frame_index=places[role]) for role, image in images.items()]
        return arguments | {"conditions": given}
    return arguments | ({"last_image": images[Role.last]} if Role.last in images else {})


def test_the_clip_is_that_of_the_pipeline_called_plainly(case: tuple, asked: Callable[..., JobParams]) -> None:
    name, engine, folder, images = case
    params = asked(negative_prompt="a blue square", **of(name) | {"steps": 2})
    latents = engine.denoise(params, engine.encode_prompt(params, images), lambda *_: None)
    clip = np.stack(list(engine.frames(latents, lambda: None)))
    engine.reset()
    more = name == "ltx-2" and set(images) != {Role.first}
    pipeline = LTX2ConditionPipeline if more else MODELS[name].pipeline
    pipe = pipeline.from_pretrained(folder).to(engine.device)
    pipe.set_progress_bar_config(disable=True)
    shorten(pipe)
    if hasattr(pipe, "guider"):
        pipe.guider.guidance_scale = params.guidance_scale
    plain = pipe(
        prompt=params.prompt,
        negative_prompt=params.negative_prompt,
        num_inference_steps=params.steps,
        generator=torch.Generator().manual_seed(params.seed),
        output_type="np",
        **plain_arguments(name, params, images),
        **engine.spec.call,
    ).frames[0]
    assert clip.shape == (params.num_frames, params.height, params.width, 3)
    assert np.abs(clip - plain * 255).max() <= 2
    for role in images:
        white = Image.new("RGB", (params.width, params.height), "white")
        other = images | {role: [white] * START_FRAMES if role is Role.start else white}
        changed = engine.denoise(params, engine.encode_prompt(params, other), lambda *_: None)
        assert not torch.allclose(changed, latents, atol=1e-3), "the image has a part in it"
    engine.reset()


def test_sparse_steps_a_stop_a_resumption_and_previews(
    case: tuple, asked: Callable[..., JobParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, engine, _, images = case
    weight = torch.randn(5, 3 * PATCH * PATCH, generator=torch.Generator().manual_seed(0)) / 4
    latent_rgb = LatentRGB(weight).to(engine.device)
    monkeypatch.setattr(engine, "_latent_rgb", latent_rgb)
    params = asked(quality="fast", **of(name) | {"steps": 8})
    kinds: list[str | None] = []
    engine.denoise(params, engine.encode_prompt(params, images), lambda _, kind: kinds.append(kind))
    assert len(kinds) == 8 and {"search", "sparse"} <= set(kinds)
    # The forwards of LTX-2's guidance are unlike in batch or sequence.
    apart = ["guidance branches keep lists of their own: their sequences differ"]
    assert engine.report()["fell_back"] == (apart if name.startswith("ltx-2") else [])
    engine.reset()

    params = asked(**of(name))
    previews: list[np.ndarray] = []
    whole = engine.denoise(params, engine.encode_prompt(params, images), lambda *_: previews.append(preview(engine)))
    # Without the latents of a given first frame, or of frames that are left out before the clip.
    errors = [np.abs(each - latent_rgb(whole).cpu().numpy()[-len(each) :].astype(int)).mean() for each in previews]
    assert errors[-1] < 1 < errors[0] and len(previews[-1]) in (whole.shape[2], whole.shape[2] - 1)
    engine.reset()
    checkpoint = interrupted(engine, params, engine.encode_prompt(params, images), 2)
    steps: list[int] = []
    resume = unpack(checkpoint, params.model_dump_json())
    encoded_again = engine.encode_prompt(params, images)
    resumed = engine.denoise(params, encoded_again, lambda done, _: steps.append(done), resume)
    assert steps == [3, 4] and torch.equal(resumed, whole)
    engine.reset()


def preview(engine: DiffusersEngine) -> np.ndarray:
    frames = engine.preview()
    assert frames is not None
    return frames


def test_a_clip_of_its_first_frame_alone_has_no_preview(
    engines: Callable[[str], tuple[DiffusersEngine, Path]],
    asked: Callable[..., JobParams],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LTX leaves the given frame out of its steps: nothing else is there to be shown."""
    engine, _ = engines("ltx")
    weight = torch.zeros(5, 3 * PATCH * PATCH)
    monkeypatch.setattr(engine, "_latent_rgb", LatentRGB(weight).to(engine.device))
    params = asked(**of("ltx") | {"num_frames": 1, "steps": 2})
    shown: list[np.ndarray | None] = []
    encoded_text = engine.encode_prompt(params, {Role.first: FIRST})
    latents = engine.denoise(params, encoded_text, lambda *_: shown.append(engine.preview()))
    assert shown == [None, None] and len(list(engine.frames(latents, lambda: None))) == 1
    engine.reset()


def test_the_text_beside_an_image_is_counted_without_it(
    engines: Callable[[str], tuple[DiffusersEngine, Path]], asked: Callable[..., JobParams]
) -> None:
    """The text encoder of HunyuanVideo's image models gives rows of both."""
    engine, _ = engines("hunyuan-video-image")
    counts = {"a red circle": (3, 0), 9 * " red": (4, 5)}
    for prompt, (used, cut) in counts.items():
        encoded_text = engine.encode_prompt(asked(prompt=prompt), {Role.first: FIRST})
        assert encoded_text.tokens == {"prompt_tokens": TokenCount(used=used, cut=cut, limit=4)}


@pytest.mark.parametrize("name", ["wan-2.2-5b", "wan-vace", "ltx-condition", "ltx-2-condition"])
def test_a_model_for_both_tasks_still_makes_clips_of_text(
    engines: Callable[[str], tuple[DiffusersEngine, Path]], asked: Callable[..., JobParams], name: str
) -> None:
    engine, folder = engines(name)
    params = asked(**of(name))
    latents = engine.denoise(params, engine.encode_prompt(params), lambda *_: None)
    clip = np.stack(list(engine.frames(latents, lambda: None)))
    engine.reset()
    pipe = engine.pipeline.from_pretrained(folder).to(engine.device)  # type: ignore[attr-defined]
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(params.seed)
    own = {"guidance_scale": params.guidance_scale, **engine.spec.call}
    own |= {"frame_rate": params.fps} if name.startswith("ltx") else {}
    given = of(name) | {"num_inference_steps": STEPS, "output_type": "np"}
    plain = pipe(prompt=params.prompt, **given, generator=generator, **own).frames[0]
    assert np.abs(clip - plain * 255).max() <= 2


def test_a_resumed_sound_goes_on_by_a_scheduler_of_its_own(
    engines: Callable[[str], tuple[DiffusersEngine, Path]], asked: Callable[..., JobParams]
) -> None:
    engine, _ = engines("ltx-2-condition")
    params, kept = asked(**of("ltx-2-condition")), []

    def keep(done: int, _: str | None) -> None:
        if done == 2:
            kept.append(pack(engine.snapshot() or {}, params.model_dump_json()))

    def sound(resume: dict[str, Any] | None = None) -> torch.Tensor:
        engine.denoise(params, engine.encode_prompt(params, {Role.first: corners(160, 96)}), keep, resume)
        ((latents,),) = engine._beside
        engine.reset()
        return latents

    assert torch.equal(sound(), sound(unpack(kept[0], params.model_dump_json())))


@pytest.mark.parametrize(
    ("name", "tasks", "named"),
    [
        (
            "wan-2.1-image",
            [Task.image_to_video, Task.first_last_frame],
            "support first_last_frame; allowed: image_to_video$",
        ),
        ("wan-2.2-image", [Task.text_to_video], "support text_to_video; allowed: first_last_frame, image_to_video$"),
        ("wan-2.2-5b", [Task.first_last_frame], "support first_last_frame; allowed: image_to_video, text_to_video$"),
        ("cogvideox-image", [Task.text_to_video], "support text_to_video; allowed: image_to_video$"),
        ("ltx", [Task.first_last_frame], "support first_last_frame; allowed: image_to_video, text_to_video$"),
    ],
)
def test_a_task_that_the_model_does_not_do_is_not_offered(
    engines: Callable[[str], tuple[DiffusersEngine, Path]], name: str, tasks: list[Task], named: str
) -> None:
    _, folder = engines(name)
    with pytest.raises(ModelUnavailable, match=f"tasks: the model does not {named}"):
        check(spec(name, folder, tasks=tasks), folder)


@pytest.mark.parametrize("change", [{"flow_shift": 5.0}, {"flow_shift_range": [1, 9]}])
def test_the_schedule_of_ltx_with_conditions_is_not_to_be_shifted(
    engines: Callable[[str], tuple[DiffusersEngine, Path]], change: dict[str, Any]
) -> None:
    """Its pipeline gives the scheduler timesteps, beside which shifted noise levels would be others."""
    _, folder = engines("ltx-condition")
    field = next(iter(change))
    with pytest.raises(ModelUnavailable, match=f"{field}: LTXConditionPipeline has its own schedule"):
        check(spec("ltx-condition", folder, **change), folder)


def given(bench: Bench, role: Role = Role.first) -> Input:
    """A job's image in storage, as a gateway puts it there."""
    content, key = encoded(FIRST), f"inputs/{'0' * 32}/{role}.png"
    path = bench.objects / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    size = {"width": WIDTH, "height": HEIGHT}
    return Input(key=key, content_type="image/png", bytes=len(content), sha256=digest, role=role, **size)


@pytest.fixture
def image_bench(bench: Bench, engines: Callable[[str], tuple[DiffusersEngine, Path]]) -> Bench:
    """The bench, with a worker of a model that takes an image."""
    engine, _ = engines("wan-2.2-5b")
    return replace(bench, runner=replace(bench.runner, engine=lambda _: engine))


def test_a_job_with_an_image_completes_and_its_file_names_the_image(
    image_bench: Bench, asked: Callable[..., JobParams]
) -> None:
    image = given(image_bench)
    job = image_bench.run(asked(inputs=(image,)))
    assert (job.status, job.error) == (JobStatus.completed, None)
    recipe = read_recipe(image_bench.objects / job.artifacts["video"].key)
    assert recipe["inputs"] == {"first": {"sha256": image.sha256}}
    plain = image_bench.run(asked())
    assert "inputs" not in read_recipe(image_bench.objects / plain.artifacts["video"].key)
    assert plain.artifacts["video"].sha256 != job.artifacts["video"].sha256


@pytest.mark.parametrize("lost", [True, False])
def test_a_job_whose_image_is_gone_or_another_fails_and_says_so(
    image_bench: Bench, asked: Callable[..., JobParams], lost: bool
) -> None:
    image = given(image_bench)
    path = image_bench.objects / image.key
    path.unlink() if lost else path.write_bytes(encoded(LAST))
    job = image_bench.run(asked(inputs=(image,)))
    assert job.status is JobStatus.failed and job.error is not None
    said = "is no longer in storage" if lost else "in storage has changed"
    assert job.error.code is ErrorCode.generation_failed and f"the given first frame {said}" in job.error.message
    assert image_bench.run(asked(inputs=(given(image_bench),))).status is JobStatus.completed


def test_a_cancelled_job_with_an_image_stops_within_a_step(image_bench: Bench, asked: Callable[..., JobParams]) -> None:
    image_bench.store.at_step[2] = lambda lease: image_bench.store.request_cancel(lease.job.id)
    job = image_bench.run(asked(inputs=(given(image_bench),), steps=20))
    assert job.status is JobStatus.cancelled and max(image_bench.steps()) <= 3


def test_an_image_that_a_client_sends_begins_its_clip_and_that_of_a_remix(
    image_bench: Bench, engines: Callable[[str], tuple[DiffusersEngine, Path]], redis_url: str, tmp_path: Path
) -> None:
    """Through a gateway and a worker, from the client's file to the video's."""
    _, folder = engines("wan-2.2-5b")
    catalog = write_catalog(tmp_path / "catalog.json", spec("wan-2.2-5b", folder).model_dump(mode="json"))
    settings = Settings(redis_url=redis_url, storage_url=str(image_bench.objects), catalog=catalog, open_access=True)
    clips = {}
    with serving(settings, tmp_path) as service, Client(service.url) as client:
        for colour in ("red", "navy"):
            image = encoded(Image.new("RGB", (3 * WIDTH, 2 * HEIGHT), colour), "JPEG")
            first = client.create("a red circle", image=image, seed=7, steps=STEPS)
            again = client.remix(first.id, "a red circle")
            for video in (first, again):
                image_bench.runner.run("tiny")
                done = client.get(video.id)
                assert (done.status, done.task, done.error) == ("completed", "image_to_video", None)
                file = client.download(video.id, tmp_path / f"{video.id}.mp4")
                assert read_recipe(file)["inputs"] == {"first": {"sha256": done.inputs[0].sha256}}
                with av.open(str(file)) as container:
                    clips[colour, video is again] = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert all(np.array_equal(clips[colour, True], clips[colour, False]) for colour in ("red", "navy"))
    assert not np.array_equal(clips["red", False], clips["navy", False])


def test_a_video_that_a_client_sends_goes_on(
    image_bench: Bench, engines: Callable[[str], tuple[DiffusersEngine, Path]], redis_url: str, tmp_path: Path
) -> None:
    """Through a gateway and a worker: the clip is that of the last frames, as they were sent."""
    engine, folder = engines("ltx-condition")
    bench = replace(image_bench, runner=replace(image_bench.runner, engine=lambda _: engine))
    entry = spec("ltx-condition", folder)
    catalog = write_catalog(tmp_path / "catalog.json", entry.model_dump(mode="json"))
    settings = Settings(redis_url=redis_url, storage_url=str(bench.objects), catalog=catalog, open_access=True)
    before = tmp_path / "before.mp4"
    before.write_bytes(filmed(20, entry.fps, (160, 96)))
    with serving(settings, tmp_path) as service, Client(service.url) as client:
        made = client.create("a red circle", start_video=before, seed=7, steps=2)
        bench.runner.run("tiny")
        done = client.get(made.id)
        assert (done.status, done.task, done.error) == ("completed", "video_continuation", None)
        file = client.download(made.id, tmp_path / "after.mp4")
        job = service.store.get(made.id)
    assert job is not None and read_recipe(file)["inputs"] == {"start": {"sha256": done.inputs[0].sha256}}
    given = frames_in(before.read_bytes())[-START_FRAMES:]
    latents = engine.denoise(job.params, engine.encode_prompt(job.params, {Role.start: given}), lambda *_: None)
    shown, wanted = map(blocks, (frames_in(file.read_bytes()), engine.frames(latents, lambda: None)))
    engine.reset()
    assert len(shown) == job.params.num_frames and np.abs(shown - wanted).mean() < 2


def blocks(frames: Iterable[Any]) -> np.ndarray:
    """The mean colours of 8 x 8 pixels: the fine grain of random weights does not outlast a video's file."""
    clip = np.stack([np.asarray(frame) for frame in frames])
    return clip.reshape(len(clip), clip.shape[1] // 8, 8, clip.shape[2] // 8, 8, 3).mean((2, 4))


@pytest.mark.parametrize(("frames", "said"), [(16, "16 is not a multiple of 8 plus 1"), (33, "33 would fill")])
def test_a_start_that_does_not_fit_the_model_is_not_offered(
    engines: Callable[[str], tuple[DiffusersEngine, Path]], frames: int, said: str
) -> None:
    _, folder = engines("ltx-condition")
    with pytest.raises(ModelUnavailable, match=f"start_frames: {said}"):
        check(spec("ltx-condition", folder, start_frames=frames), folder)
