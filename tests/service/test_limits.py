"""Limits of the fields, beside what they say of themselves and what the documents say of their combinations: every
combination of a few values, not a few examples."""

import json
import math
from fractions import Fraction
from itertools import chain, combinations, product
from typing import Any

import pytest
from adaspa_api import estimates, loras, models, report, usage, videos
from adaspa_api.fields import ROLES, VideoCreate, rows
from adaspa_api.limits import Length, Range, Refused, StepsRange, seconds_text, shown
from adaspa_api.metadata import Name, Pairs, read
from adaspa_api.videos import Video
from adaspa_api.words import OutputFormat, Task
from adaspa_jobs.catalog import Catalog, ModelSpec
from adaspa_service.errors import ApiError
from adaspa_service.gateway.params import resolve
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter, ValidationError

DEMO = Catalog.load(None).default
SHORTEST = {name: rule for name, rule in DEMO.model_dump(mode="json").items() if name != "family"}


def model(**changes: Any) -> ModelSpec:
    """The demo model with other fields."""
    return ModelSpec.model_validate(SHORTEST | changes)


def refused(spec: ModelSpec, **asked: Any) -> str | None:
    """The field that a request is refused for, or None."""
    try:
        resolve(VideoCreate(prompt="a", **asked), Catalog([spec]))
    except ApiError as error:
        assert error.param is not None and ("allowed: " in error.message or "it supports: " in error.message)
        return error.param
    return None


def subsets(of: Any) -> Any:
    return chain.from_iterable(combinations(of, size) for size in range(len(of) + 1))


@pytest.mark.parametrize("fps", [1, 7, 8, 16, 24, 30])
def test_a_length_is_that_of_all_its_frames_or_from_the_first_to_the_last(fps: int) -> None:
    frames = [1, 5, 17, 33, 80, 81, 121]
    spec = model(frames=frames, default_frames=33)
    for count in range(130):
        wanted = [n for n in frames if count in (n, n - 1)]
        for said in (count / fps, seconds_text(count / fps), f"{count / fps:.3f}"):
            try:
                found = Length().settle(said, spec, {"fps": fps})
            except Refused as error:
                found = []
                assert all(f"({n} frames)" in str(error) for n in frames)
            assert found == wanted, (said, count)
    for n in frames:
        assert f"{seconds_text(n / fps)} ({n} frames)" in Length().allowed(model(frames=frames, fps=fps))


def test_seconds_are_short_and_mean_what_they_say() -> None:
    for thousandths in range(0, 130_000, 25):
        text = seconds_text(thousandths / 1000)
        assert float(text) == thousandths / 1000 and text == f"{thousandths / 1000:g}", text


@pytest.mark.parametrize("low", [0.0, 0.07, 0.5, 1.0])
@pytest.mark.parametrize("high", [0.0, 0.29, 0.5, 1.0])
def test_a_warm_up_is_a_share_of_the_jobs_own_steps_and_leaves_one(low: float, high: float) -> None:
    if low > high:
        return
    spec, limit, seen = model(warmup_range=[low, high], default_steps=20), StepsRange("warmup_range"), set[int]()
    for steps in range(spec.steps_range[0], spec.steps_range[1] + 1):
        allowed = [n for n in range(-1, steps + 2) if refused(spec, steps=steps, warmup=n) is None]
        share = [n for n in range(steps) if Fraction(str(low)) <= Fraction(n, steps) <= Fraction(str(high))]
        assert allowed == share or (not share and len(allowed) == 1 and 0 <= allowed[0] < steps), (steps, allowed)
        seen |= set(allowed)
        if steps == spec.default_steps:
            assert limit.allowed(spec) == f"{allowed[0]} to {allowed[-1]}"
    assert limit.schema(spec) == {"minimum": min(seen), "maximum": max(seen)}


TASKS = [
    [Task.text_to_video],
    [Task.image_to_video, Task.first_last_frame],
    [Task.first_last_frame],
    [Task.text_to_video, Task.image_to_video, Task.video_continuation],
    [Task.video_continuation],
    [Task.reference_to_video, Task.reference_audio_to_video],
    [Task.reference_audio_to_video],
    list(Task),
]


@pytest.mark.parametrize("tasks", TASKS, ids="+".join)
def test_inputs_make_up_one_of_the_models_tasks_or_are_refused(tasks: list[Task]) -> None:
    spec = model(tasks=tasks, start_frames=17, frames=[9, 17, 33])
    supported = {task.roles for task in tasks}
    assert {Task.of(roles) for roles in supported} == set(tasks)
    for names in subsets(ROLES):
        roles, inputs = {ROLES[name] for name in names}, dict.fromkeys(names, "x")
        taken = roles in supported
        assert (refused(spec, **inputs) is None) == taken, inputs
        in_frame = any(role.is_in_frame for role in roles)
        assert (refused(spec, fit="cover", **inputs) is None) == (taken and in_frame), inputs
        if taken and "start_video" in names:
            longer = [refused(spec, num_frames=frames, **inputs) for frames in (9, 17, 33)]
            assert longer == ["start_video", "start_video", None], "it goes on behind the frames that it begins with"


@pytest.mark.parametrize("takes_negative", [True, False])
def test_what_would_have_no_effect_is_refused(takes_negative: bool) -> None:
    spec = model(negative_prompt=takes_negative, guidance_scale_2_range=[0, 9], guidance_range=[0, 10])
    for scale, negative, second in product((None, 0.0, 0.5, 1.0, 1.5, 7.0), (None, "", "blur"), (None, 0.0, 3.0)):
        asked = {"guidance_scale": scale, "negative_prompt": negative, "guidance_scale_2": second}
        guided = (spec.default_guidance if scale is None else scale) > 1
        wrong = {"negative_prompt"} if negative and not (guided and takes_negative) else set()
        wrong |= {"guidance_scale_2"} if second is not None and not guided else set()
        assert refused(spec, **asked) in (wrong or {None}), asked


def test_a_preset_and_settings_by_hand_are_not_mixed() -> None:
    """Fields that say so are those that are checked."""
    by_hand = [name for name, row in rows(VideoCreate).items() if row.by_hand]
    fields = VideoCreate.model_fields.items()
    assert by_hand == [
        name for name, field in fields if "combined with a preset" in " ".join((field.description or "").split())
    ]
    values = {"sparsity": (None, 0.0, 0.5), "retained_mass": (None, 0.9), "warmup": (None, 0, 3)}
    assert set(values) == set(by_hand)
    for quality, found in product((None, *DEMO.qualities), product(*values.values())):
        asked = dict(zip(values, found, strict=True)) | {"quality": quality}
        mixed = quality is not None and any(each is not None for each in found)
        both = asked["sparsity"] is not None and asked["retained_mass"] is not None
        dense = asked["sparsity"] == 0 and asked["warmup"] is not None
        wrong = {
            name for name, is_wrong in (("quality", mixed), ("retained_mass", both), ("warmup", dense)) if is_wrong
        }
        assert refused(DEMO, **asked) in (wrong or {None}), asked


def test_sound_is_asked_of_models_and_formats_that_have_it() -> None:
    for makes, format_, audio in product((True, False), (None, *OutputFormat), (None, True, False)):
        spec = model(audio=makes)
        holds = format_ in (None, "mp4", "webm")
        right = audio is None or (makes and (holds or not audio))
        assert (refused(spec, output_format=format_, audio=audio) is None) == right, (makes, format_, audio)
        if right:
            params = resolve(VideoCreate(prompt="a", output_format=format_, audio=audio), Catalog([spec]))
            assert spec.gives_sound(params) == (makes and holds and audio is not False)


def test_each_number_is_taken_from_its_least_to_its_most() -> None:
    spec = model(flow_shift_range=[1, 9], guidance_scale_2_range=[0, 9])
    numbers = {name: row.limits for name, row in rows(VideoCreate).items() if isinstance(row.limits, Range)}
    assert len(numbers) > 8
    for name, limit in numbers.items():
        least, most = limit.of(spec) or (None, None)
        assert limit.allowed(spec) == f"{least} to {most}"
        step = 1 if name in ("n", "seed", "fps", "steps") else 1e-6
        for value, right in ((least, True), (most, True), (least - step, False), (most + step, False)):
            try:
                assert limit.settle(value, spec, {}) == value and right, (name, value)
            except Refused as error:
                assert not right and limit.allowed(spec) in str(error), (name, value)
        default = limit.settle(None, spec, {})
        assert default is None or least <= default <= most
    without = model(flow_shift_range=None)
    limit = numbers["flow_shift"]
    assert (limit.schema(without), limit.allowed(without), limit.settle(None, without, {})) == (None, "none", None)
    with pytest.raises(Refused, match="is not supported by model demo; allowed: none"):
        limit.settle(3.0, without, {})


def test_texts_are_of_the_models_length_and_a_prompt_is_not_blank() -> None:
    spec = model(max_prompt_chars=20, guidance_range=[1, 9], default_guidance=5.0)
    for letter, length in product(("a", "é", "\U0001f534", " ", "\n", "\u3000"), (0, 1, 19, 20, 21)):
        text, blank = letter * length, not letter.strip() or not length
        assert (refused(spec, negative_prompt=text) is None) == (length <= 20), text
        try:
            resolve(VideoCreate(prompt=text), Catalog([spec]))
        except ApiError as error:
            assert error.param == "prompt" and "allowed: 1 to 20 characters" in error.message
            assert length > 20 or blank
        else:
            assert length <= 20 and not blank, "each character counts once"


def test_a_value_in_a_message_is_whole_or_begins_as_it_is() -> None:
    for length in range(55, 70):
        text = "x" * length
        assert shown(text) == (repr(text) if len(repr(text)) <= 60 else repr(text)[:57] + "...")
        assert len(shown(text)) <= 60


# Notes

KEYS = st.text(alphabet='ab=, é\u2028"{}[]', min_size=1, max_size=8)


@given(st.dictionaries(KEYS, st.text(alphabet='ab=, é\u2028"{}[]', max_size=8), max_size=5))
def test_pairs_mean_the_same_as_an_object_as_json_and_as_text(pairs: dict[str, str]) -> None:
    assert Pairs().settle(pairs, DEMO, {}) == Pairs().settle(json.dumps(pairs), DEMO, {}) == pairs
    assert Pairs().settle("  " + json.dumps(pairs, ensure_ascii=False) + "\n", DEMO, {}) == pairs
    plain = {key: value for key, value in pairs.items() if key.strip() and not {*key} & {*"=,"} and "," not in value}
    plain = {key.strip(): value.strip() for key, value in plain.items()}
    text = " , ".join(f"{key} = {value}" for key, value in plain.items())
    if not text.startswith("{"):
        assert Pairs().settle(text, DEMO, {}) == plain


def test_pairs_are_taken_as_their_schema_says() -> None:
    schema = Draft202012Validator(Pairs().schema(DEMO))
    for count, key, value in product((0, 1, 15, 16, 17), (0, 1, 63, 64, 65), (0, 1, 511, 512, 513)):
        pairs = {"k" * key: "v" * value} | {f"{number}": "" for number in range(count)}
        for given_as in (pairs, json.dumps(pairs)):
            try:
                Pairs().settle(given_as, DEMO, {})
            except Refused as error:
                assert not schema.is_valid(pairs) and "allowed: " in str(error)
            else:
                assert schema.is_valid(pairs), (count, key, value)
    names = Draft202012Validator(Name().schema(DEMO))
    for length in (0, 1, 255, 256, 257):
        try:
            assert Name().settle("u" * length, DEMO, {}) == "u" * length
        except Refused:
            assert not names.is_valid("u" * length)
        else:
            assert names.is_valid("u" * length)
    assert Pairs().settle(None, DEMO, {}) == {} and Name().settle(None, DEMO, {}) is None


NAMES = st.text(alphabet="abZ09._-", min_size=1, max_size=8).filter(lambda name: name[0] not in "._-")
SCALES = st.one_of(st.none(), st.integers(-3, 3), st.floats(-1e9, 1e9))


@given(st.lists(st.tuples(NAMES, SCALES), max_size=loras.MOST_USES))
def test_adapters_mean_the_same_as_a_list_as_json_and_as_text(asked: list[tuple[str, float | None]]) -> None:
    uses = [loras.LoraUse(name=name, scale=scale) for name, scale in asked]
    listed = [{"name": name} | ({} if scale is None else {"scale": scale}) for name, scale in asked]
    whole = [use.model_dump() for use in uses]
    assert TypeAdapter(loras.Uses).validate_python(listed, strict=True) == uses
    assert loras.read(json.dumps(listed)) == loras.read(f"\n {json.dumps(whole, indent=1)} ") == uses
    text = " , ".join(name if scale is None else f"{name}:{scale!r}" for name, scale in asked)
    assert loras.read(text) == loras.read(f",{text} ,") == uses


WRONG_LISTS = {
    "no end": "[",
    "deep": "[" * 100_000,
    "no object": '["ink"]',
    "another field": '[{"name": "ink", "weight": 1}]',
    "no name": '[{"scale": 1}]',
    "no name at all": '[{"name": ""}]',
    "a scale as text": '[{"name": "ink", "scale": "1"}]',
    "an infinite scale": '[{"name": "ink", "scale": 1e999}]',
    "no number": '[{"name": "ink", "scale": NaN}]',
    "a scale twice": '[{"name": "ink", "scale": 1, "scale": 0}]',
    "half a character": '[{"name": "ink", "sha256": "\\ud800"}]',
    "too many": json.dumps([{"name": f"ink{number}"} for number in range(loras.MOST_USES + 1)]),
    "too many as text": ",".join(f"ink{number}" for number in range(loras.MOST_USES + 1)),
    "no number as text": "ink:nan",
    "an infinite scale as text": "ink:inf",
}


@pytest.mark.parametrize("text", WRONG_LISTS.values(), ids=WRONG_LISTS)
def test_what_is_no_list_of_adapters_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="allowed: "):
        loras.read(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "1", "a": "1"}',
        '{"a": "\\ud800"}',
        '{"\\udc00": "a"}',
        "a=1,a=1",
        "a=1, a =2",
        '{"a": "1", "b": {"c": 1}}',
        '{"a": null}',
        "a",
        "a=1,b",
        "{]",
    ],
)
def test_what_is_no_pairs_or_a_key_twice_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="allowed: "):
        read(text)


# Words and objects


def test_a_later_gateways_word_is_kept_and_what_is_no_word_is_refused() -> None:
    status = TypeAdapter(Video.model_fields["status"].rebuild_annotation())
    for known in ("queued", "completed"):
        assert status.validate_python(known) is TypeAdapter(videos.JobStatus).validate_python(known)
    assert status.validate_python("paused") == "paused" and status.dump_json("paused") == b'"paused"'
    for wrong in (None, 1, True, ["queued"], {"queued": 1}, b"queued\xff"):
        with pytest.raises(ValidationError):
            status.validate_python(wrong)


FIRST = {
    "Video": "attempt attention completed_at created_at error eta_seconds expires_at fps guidance_scale id model"
    " num_frames output_format phase preview_url priority progress prompt queue_position remixed_from_video_id"
    " resumed_from_step seconds seed size started_at starts_in_seconds status step step_kind steps timings",
    "VideoList": "data first_id has_more last_id",
    "VideoDeleted": "id",
    "VideoInput": "content_type role sha256 url",
    "Link": "expires_at url",
    "Model": "default_fps default_frames default_guidance default_size default_steps description fps_range frames"
    " guidance_range id max_batch max_prompt_chars negative_prompt output_formats prompt_examples qualities"
    " retained_mass_range running sizes sparsity_range steps_range waiting warmup_range",
    "ModelList": "data",
    "LoraOffer": "description name scale scale_range sha256",
    "LoraUse": "name",
    "JobError": "code message",
    "TokenCount": "cut limit used",
    "LayerReport": "density layer recall",
    "KernelReport": "backend calls dtype op",
    "KindReport": "calls work",
    "MemoryReport": "",
    "AttentionReport": "dense_seconds dense_steps density search_seconds search_steps sparse_seconds sparse_steps",
    "UsageRow": "date model",
    "Usage": "data days gpu_seconds jobs",
    "Measured": "jobs num_frames scaled size steps",
    "Expectation": "denoising_seconds estimated_seconds measured reason",
    "Estimate": "denoising_seconds estimated_seconds fps measured model num_frames priority qualities quality reason"
    " size starts_in_seconds steps workers",
}
"""What an answer of the first version has, and what clients may therefore require."""


def test_a_client_requires_of_no_answer_what_the_first_gateway_did_not_send() -> None:
    answers = {
        name: found
        for module in (estimates, loras, models, report, usage, videos)
        for name, found in vars(module).items()
        if isinstance(found, type) and issubclass(found, BaseModel) and found.__module__ == module.__name__
    }
    asked = {"VideoRemix", "VideoEstimate"}
    assert set(answers) == set(FIRST) | asked
    for name, fields in FIRST.items():
        required = {field for field, info in answers[name].model_fields.items() if info.is_required()}
        assert required == set(fields.split()), name


def test_a_videos_schema_says_that_all_that_was_asked_for_is_there() -> None:
    required = Video.model_json_schema(mode="serialization")["required"]
    assert set(VideoCreate.model_fields) & set(Video.model_fields) - {"metadata", "user"} <= {
        *required,
        "size",
        "seconds",
    }
    assert len(required) == len(set(required))


def test_shares_are_told_to_four_places() -> None:
    told = report.LayerReport(layer=0, density=[1 / 3, math.pi / 10], recall=[2 / 3])
    assert (told.density, told.recall) == ([0.3333, 0.3142], [0.6667])
