"""LoRA adapters in the worker: as trainers write them, one after the other, and refused where they do not fit."""

import hashlib
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adaspa_api.loras import LoraUse
from adaspa_api.words import JobStatus
from adaspa_jobs.catalog import ModelSpec
from adaspa_jobs.job import JobParams
from adaspa_jobs.storage import ObjectStorage
from adaspa_worker.failure import NotLoaded
from adaspa_worker.loras import files as lora_files
from adaspa_worker.loras.memory import LoraMemory
from adaspa_worker.loras.slots import Loras, check_files
from adaspa_worker.offer import check
from adaspa_worker.pipeline import Engine, load
from adaspa_worker.source import ModelUnavailable
from admitting import create
from chaos.workshop import raising
from diffusers import UniPCMultistepScheduler, WanPipeline
from job_bench import Bench
from tiny_loras import WAN, diffusers, entry, kohya, low_ranks, wans_own
from tiny_wan import model_spec
from torch import Tensor

Denoise = Callable[..., Tensor]


def with_added(engine: Any, low: Any, scale: float) -> Engine:
    """The engine with low ranks added to its weights."""
    with torch.no_grad():
        for name, (a, b) in low.items():
            weight = engine.pipe.transformer.get_submodule(name).weight
            weight += scale * (b @ a).to(weight.device)
    return engine  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def low(tiny_pipeline: Path) -> Callable[..., Any]:
    transformer = WanPipeline.from_pretrained(tiny_pipeline).transformer
    return lambda layers=WAN, rank=4, seed=0: low_ranks(transformer, layers, rank, seed)


@pytest.fixture(scope="module")
def loras(low: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Adapters of several ranks and layers, one with alphas, one with a bias."""
    files = {
        "whole": kohya(low(), wans_own, "diffusion_model."),
        "other": diffusers(low(WAN[:6], rank=2, seed=1)),
        "biased": diffusers(low(WAN[5:9], rank=8, seed=2)) | {f"transformer.{WAN[8]}.lora_B.bias": torch.ones(32)},
    }
    folder = tmp_path_factory.mktemp("loras")
    return [entry(folder / f"{name}.safetensors", tensors) for name, tensors in files.items()]


@pytest.fixture(scope="module")
def engine(tiny_pipeline: Path, loras: list[dict[str, Any]]) -> Callable[..., Engine]:
    """Load the tiny model anew, with these adapters or with all."""

    def loaded(own: list[dict[str, Any]] | None = None, **changes: Any) -> Engine:
        changes["memory"] = {"dtype": "float32"} | changes.get("memory", {})
        entry = model_spec(tiny_pipeline, loras=loras if own is None else own, **changes)
        return load(ModelSpec.model_validate(entry), tiny_pipeline)

    return loaded


@pytest.fixture
def denoise(params: Callable[..., JobParams]) -> Denoise:
    """The latents of a job with adapters."""

    def run(engine: Engine, **uses: float) -> Tensor:
        named = [LoraUse(name=name, scale=scale) for name, scale in uses.items()]
        asked = params(steps=2, guidance_scale=1.0, loras=named or None)
        try:
            return engine.denoise(asked, engine.encode_prompt(asked, {}), lambda *_: None)
        finally:
            engine.reset()

    return run


def test_an_adapter_adds_what_its_file_says(
    engine: Callable[..., Engine], low: Callable[..., Any], denoise: Denoise
) -> None:
    served, merged = engine(), with_added(engine([]), low(), 0.5)
    torch.testing.assert_close(denoise(served, whole=0.5), denoise(merged), atol=1e-3, rtol=1e-3)
    assert (denoise(served, whole=0.5) - denoise(served)).abs().max() > 0.05


def test_jobs_in_a_row_get_what_each_gets_alone(engine: Callable[..., Engine], denoise: Denoise) -> None:
    row: list[dict[str, float]] = [{"whole": 1.0}, {"other": 0.3, "biased": 1.5}, {}, {"other": 0.0}]
    shared = engine()
    first, second, plain, off = (denoise(shared, **uses) for uses in row)
    assert torch.equal(second, denoise(engine(), **row[1]))
    assert torch.equal(plain, denoise(engine([]))), "to the bit the model alone"
    assert torch.equal(off, plain)
    assert torch.equal(denoise(shared, **row[0]), first)
    assert len({latents.sum().item() for latents in (first, second, plain)}) == 3


def test_a_distilled_model_is_an_entry_of_the_catalog(
    engine: Callable[..., Engine], params: Callable[..., JobParams], low: Callable[..., Any]
) -> None:
    """Its adapter, its scheduler and shift, and a search in the first of its four steps."""
    few = {"scheduler": {"name": "UniPCMultistepScheduler"}, "flow_shift": 5.0}
    few |= {"attention": {"preset": "fast", "price": 0.001, "block_size": 16, "few_steps": 8}}
    served, merged = engine(**few), with_added(engine([]), low(), 1.0)
    merged.pipe.scheduler = merged._scheduler = UniPCMultistepScheduler(  # type: ignore[attr-defined]
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0
    )
    found = []
    for each, loras in (served, [LoraUse(name="whole", scale=1.0)]), (merged, None):
        asked = params(steps=4, guidance_scale=1.0, loras=loras, quality=None if loras else "exact")
        found.append(each.denoise(asked, each.encode_prompt(asked, {}), lambda *_: None))
        report = each.report()
        each.reset()
        if loras:
            assert report["dense_steps"] == 0 and report["sparse_steps"] > 0, "its first step searches"
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)


def test_the_adapters_used_last_stay_in_memory_and_a_file_that_changed_is_not_used(
    engine: Callable[..., Engine], loras: list[dict[str, Any]], denoise: Denoise, tmp_path: Path
) -> None:
    own = [each | {"source": shutil.copy(each["source"], tmp_path)} for each in loras]
    largest = max(Path(each["source"]).stat().st_size for each in own)
    served = engine(own, memory={"lora_cache_bytes": 2 * largest})
    first = denoise(served, whole=1.0)
    for each in own:
        Path(each["source"]).write_bytes(b"another file")
    denoise(served)
    assert torch.equal(denoise(served, whole=1.0), first)
    with pytest.raises(NotLoaded) as refused:
        denoise(served, other=1.0)
    assert "loras: other: " in str(refused.value.__cause__) and "its SHA-256 is" in str(refused.value.__cause__)
    assert torch.equal(denoise(served, whole=1.0), first), "what was refused is not in the slots"


def test_a_job_for_another_file_than_the_catalogs_is_not_begun(
    engine: Callable[..., Engine], loras: list[dict[str, Any]], params: Callable[..., JobParams]
) -> None:
    """Also after one for the catalog's own file, which is in the slots."""
    served, own = engine(loras[1:2]), loras[1]["sha256"]
    asked = params(steps=1, guidance_scale=1.0)
    encoded = served.encode_prompt(asked, {})
    for sha256, begins in (("0" * 64, False), (own, True), ("0" * 64, False), (None, True), ("0" * 64, False)):
        uses = [LoraUse(name="other", scale=1.0, sha256=sha256)]
        job = asked.model_copy(update={"loras": uses})
        steps: list[int] = []
        try:
            served.denoise(job, encoded, lambda done, _, steps=steps: steps.append(done))
        except NotLoaded as refused:
            assert "a file with SHA-256 000" in str(refused.__cause__) and not begins
        served.reset()
        assert steps == [1] * begins


@pytest.mark.parametrize("own", [[], [1]], ids=["no adapters", "another adapter"])
def test_a_job_is_not_made_without_an_adapter_that_the_entry_lacks(
    engine: Callable[..., Engine], loras: list[dict[str, Any]], denoise: Denoise, own: list[int]
) -> None:
    served = engine([loras[number] for number in own])
    with pytest.raises(NotLoaded) as refused:
        denoise(served, whole=1.0)
    assert "loras: whole: the job needs it" in str(refused.value.__cause__)
    assert torch.equal(denoise(served, whole=0.0), denoise(served))


def test_a_job_waits_for_a_worker_whose_entry_has_its_adapter(
    bench: Bench, tiny_pipeline: Path, loras: list[dict[str, Any]], params: Callable[..., JobParams]
) -> None:
    """As while a catalog is changed: workers of the entry before go on with what they can make."""
    before, after = (ModelSpec.model_validate(model_spec(tiny_pipeline, loras=own)) for own in ([], loras))
    old = replace(bench.runner, spec=before)
    new = replace(bench.runner, name="worker-2", process="2", spec=after, engine=lambda _: load(after, tiny_pipeline))
    uses = [LoraUse(name="whole", scale=1.0, sha256=loras[0]["sha256"])]
    adapted, plain = (create(bench.store, params(steps=1, loras=each)).id for each in (uses, None))
    for _ in range(2):
        old.run("tiny")
    assert [bench.job(each).status for each in (adapted, plain)] == [JobStatus.queued, JobStatus.completed]
    assert bench.job(adapted).attempt == 0
    new.run("tiny")
    assert bench.job(adapted).status is JobStatus.completed


def test_slots_that_could_not_be_filled_are_not_taken_for_those_of_the_job_before(
    engine: Callable[..., Engine], denoise: Denoise, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: Any = engine()
    plain, first = denoise(served), denoise(served, whole=1.0)
    fill, filled = Loras._fill, list[str]()

    def runs_out(self: Loras, *given: Any) -> None:
        filled.append("one")
        if len(filled) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        fill(self, *given)

    for before, wanted in (({"whole": 1.0}, first), ({}, plain)):
        denoise(served, **before)
        filled.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Loras, "_fill", runs_out)
            with pytest.raises((torch.OutOfMemoryError, NotLoaded)):
                denoise(served, other=0.7)
        assert torch.equal(denoise(served, **before), wanted)
        with monkeypatch.context() as patch:
            patch.setattr(Loras, "_fill", raising(AssertionError("it fills them again")))
            assert torch.equal(denoise(served, **before), wanted), "a job like the one before finds them as it needs"


def test_an_adapter_leaves_the_memory_when_others_were_used_since(
    tiny_pipeline: Path, low: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over rows of jobs, each with one adapter or two: a file is read again if it has no room beside the later ones."""
    own = [entry(tmp_path / f"{name}.safetensors", diffusers(low(rank=2, seed=n))) for n, name in enumerate("abcd")]
    one = sum(tensor.nbytes for tensor in diffusers(low(rank=2)).values())
    memory = {"dtype": "float32", "lora_cache_bytes": int(2.5 * one)}
    spec = ModelSpec.model_validate(model_spec(tiny_pipeline, loras=own, max_loras=2, memory=memory))
    transformer = WanPipeline.from_pretrained(tiny_pipeline).transformer
    served, reads = Loras(spec, WanPipeline, [transformer]), list[str]()
    content = lora_files.content

    def noted(spec: ModelSpec, lora: Any, file: Path) -> bytes:
        reads.append(lora.name)
        return content(spec, lora, file)

    monkeypatch.setattr(lora_files, "content", noted)
    choices, kept, wanted = random.Random(1), list[str](), list[str]()
    for _ in range(60):
        names = choices.sample("abcd", choices.choice([1, 1, 2]))
        served.use([])
        served.use([LoraUse(name=name, scale=1.0) for name in names])
        for name in names:
            wanted += [] if name in kept else [name]
            kept = [*(each for each in kept if each != name), name][-2:]
        assert reads == wanted
    assert 20 < len(reads) < 60


@pytest.fixture(scope="module")
def apart(low: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], Any]]:
    """Catalog entries of adapters for both experts or one, of other ranks and layers, and what each adds by layer."""
    folder, made = tmp_path_factory.mktemp("apart"), {}
    for seed, (name, expert, layers, rank, biased) in enumerate(
        [("a", "both", WAN, 4, False), ("b", "first", WAN[:6], 2, True), ("c", "second", WAN[5:9], 8, False)]
    ):
        ranks = low(layers, rank=rank, seed=seed)
        biases = {layer: torch.full((len(b),), 0.5) for layer, (_, b) in ranks.items()} if biased else {}
        tensors = diffusers(ranks) | {f"transformer.{layer}.lora_B.bias": bias for layer, bias in biases.items()}
        own = entry(folder / f"{name}.safetensors", tensors, expert=expert)
        made[name] = own, {layer: (b @ a, biases.get(layer, torch.zeros(1))) for layer, (a, b) in ranks.items()}
    return made


@pytest.mark.parametrize("names", ["abc", "b", "c"])
@pytest.mark.parametrize("compiled", [False, True])
@torch.no_grad()
def test_each_expert_has_the_sum_of_the_jobs_adapters_that_are_for_it(
    tiny_pipeline: Path, apart: dict[str, tuple[dict[str, Any], Any]], names: str, compiled: bool
) -> None:
    """By layer, over jobs in a row; a layer that none of the catalog's changes stays as it is."""
    plain = WanPipeline.from_pretrained(tiny_pipeline).transformer
    experts = [WanPipeline.from_pretrained(tiny_pipeline).transformer for _ in range(2)]
    own = [apart[name][0] for name in names]
    spec = model_spec(tiny_pipeline, loras=own, max_loras=len(own), compile=compiled, memory={"dtype": "float32"})
    memory = LoraMemory(ModelSpec.model_validate(spec), WanPipeline, plain, len(experts))
    served, choices = Loras(ModelSpec.model_validate(spec), WanPipeline, experts), random.Random(1)
    largest = [use.name for use in memory.heaviest()]
    assert largest == sorted(names, key="bca".index), "in rising order"
    shapes: dict[tuple[int, str], set[tuple[int, ...]]] = {}
    for turn in range(6):
        some = choices.sample(names, choices.randint(0, len(names))) if turn else list(names)
        uses = [LoraUse(name=name, scale=choices.choice([0.3, 1.5, -0.5, 0.0])) for name in some]
        served.use(uses)
        held = [
            sum(part.numel() for name, part in expert.named_parameters() if "lora" in name and name.endswith("weight"))
            for expert in experts
        ]
        assert memory.weights(uses) == held, "what is reckoned is what is there"
        for place, expert in enumerate(experts):
            here = [use for use in uses if apart[use.name][0]["expert"] in ("both", ("first", "second")[place])]
            for layer in WAN:
                module, base = expert.get_submodule(layer), plain.get_submodule(layer)
                inputs = torch.randn(3, base.in_features)
                wanted = base(inputs)
                for use in here:
                    weight, bias = apart[use.name][1].get(layer, (None, None))
                    wanted = wanted if weight is None else wanted + use.scale * (inputs @ weight.T + bias)
                torch.testing.assert_close(module(inputs), wanted, atol=1e-4, rtol=1e-4)
                if hasattr(module, "lora_A"):
                    holds = [use for use in (uses if compiled else here) if compiled or layer in apart[use.name][1]]
                    assert module.disable_adapters != any(use.scale for use in holds), "one that holds nothing is off"
                    shapes.setdefault((place, layer), set()).add(tuple(module.lora_A["job"].weight.shape))
    assert {place for place, _ in shapes} == ({0, 1} if names == "abc" else {"bc".index(names)})
    assert all(len(found) == 1 for found in shapes.values()) or not compiled, "a graph knows one size"


def test_an_adapter_from_a_storage_is_fetched_once_and_kept_only_if_it_is_the_one(
    tiny_pipeline: Path, loras: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far, home = tmp_path / "far", tmp_path / "home"
    (far / "looks").mkdir(parents=True)
    file = far / "looks" / "other.safetensors"
    shutil.copy(loras[1]["source"], file)
    asked: list[str] = []

    class Storage(ObjectStorage):
        def __init__(self, url: str) -> None:
            asked.append(url)
            super().__init__(str(far / "looks"))

    monkeypatch.setattr(lora_files, "ObjectStorage", Storage)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(home))
    own = loras[1] | {"source": "s3://looks/of/other.safetensors"}

    def found(**changes: Any) -> Path:
        spec = ModelSpec.model_validate(model_spec(tiny_pipeline, loras=[own], **changes))
        return lora_files.found(spec)["other"]

    good = file.read_bytes()
    just, small = ({"memory": {"lora_cache_bytes": len(good) - less}} for less in (0, 1))
    for content, changes, why in (
        (good[:-1] + bytes([good[-1] ^ 1]), {}, "its SHA-256 is"),
        (good, small, f"has {len(good)} bytes; allowed: {len(good) - 1}"),
    ):
        file.write_bytes(content)
        with pytest.raises(ModelUnavailable, match=f"loras: other: .*{why}"):
            found(**changes)
        assert not [path for path in home.rglob("*") if path.is_file()], "nothing of it is kept"
    file.write_bytes(good)
    kept = found(**just)
    assert kept == home / "loras" / f"{own['sha256']}.safetensors" and kept.read_bytes() == good
    assert asked == ["s3://looks/of"] * 3
    file.unlink()
    assert found() == kept and len(asked) == 3, "what is there is not fetched again"
    assert [path for path in home.rglob("*") if path.is_file()] == [kept]
    kept.unlink()
    with pytest.raises(ModelUnavailable, match=r"other\.safetensors: cannot be downloaded"):
        found()


def test_a_file_is_named_by_its_path_its_uri_or_its_place_at_the_hub(
    tiny_pipeline: Path, loras: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "looks").mkdir()
    file, commit, asked = Path(shutil.copy(loras[1]["source"], tmp_path / "looks")), 40 * "a", list[Any]()
    monkeypatch.setenv("HOME", str(tmp_path))

    def download(repo: str, name: str, *, revision: str) -> str:
        asked.append((repo, name, revision))
        return str(file)

    def found(source: str) -> Path:
        spec = ModelSpec.model_validate(model_spec(tiny_pipeline, loras=[loras[1] | {"source": source}]))
        return lora_files.found(spec)["other"]

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    for source in (str(file), f"file://{file}", "~/looks/other.safetensors"):
        assert found(source) == file and asked == []
    assert found(f"some.one/looks_v2@{commit}/of/other.safetensors") == file
    assert asked.pop() == ("some.one/looks_v2", "of/other.safetensors", commit)
    for source, why in (
        (f"some.one/looks@{commit[1:]}/other.safetensors", "is not a full commit; allowed: all 40 digits"),
        (f"some.one/looks@{commit[1:]}g/other.safetensors", "is not a full commit; allowed: all 40 digits"),
        ("some.one/looks/other.safetensors", "the file does not exist"),
    ):
        with pytest.raises(ModelUnavailable, match=f"loras: other: .*{why}"):
            found(source)
    assert asked == [], "a branch or a tag may be another file tomorrow"
    monkeypatch.setattr("huggingface_hub.hf_hub_download", raising(OSError("no network\nat line 3")))
    with pytest.raises(ModelUnavailable, match=r"cannot be downloaded from the Hub \(no network\)$"):
        found(f"some.one/looks@{commit}/other.safetensors")


def test_a_file_that_is_gone_when_a_job_wants_it_is_said_to_be(
    engine: Callable[..., Engine], loras: list[dict[str, Any]], denoise: Denoise, tmp_path: Path
) -> None:
    file = Path(shutil.copy(loras[1]["source"], tmp_path))
    served = engine([loras[1] | {"source": str(file)}])
    file.unlink()
    with pytest.raises(NotLoaded) as refused:
        denoise(served, other=1.0)
    assert str(refused.value.__cause__).endswith(f"loras: other: {file}: No such file or directory")


def test_adapters_are_refused_for_a_pipeline_whose_loader_diffusers_lacks(
    tiny_pipeline: Path, loras: list[dict[str, Any]]
) -> None:
    spec = ModelSpec.model_validate(model_spec(tiny_pipeline, loras=loras))
    with pytest.raises(ModelUnavailable, match=r"loras: whole: diffusers cannot load adapters for AllegroPipeline; "):
        check_files(spec, "AllegroPipeline", "AllegroTransformer3DModel", {})


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"sha256": 64 * "0"}, "its SHA-256 is [0-9a-f]{64}; allowed: that of the catalog, 0000"),
    ({"source": "/nowhere/a.safetensors"}, "/nowhere/a.safetensors: the file does not exist"),
    ({"source": "someone/something@main/a.safetensors"}, "'main' is not a full commit; allowed: all 40 digits"),
    (
        {"source": "memory:///loras/a.safetensors"},
        "memory:///loras/a.safetensors: cannot be downloaded .*no such object",
    ),
    ({"source": "builtin:nothing"}, "builtin:nothing: not a built-in adapter; allowed: "),
    ({"source": __file__}, "test_loras.py: is not a .safetensors file"),
    ({"expert": "second"}, "expert: the model has no second expert"),
]


@pytest.mark.parametrize(("changes", "why"), MISTAKES, ids=str)
def test_a_file_that_cannot_be_taken_is_refused_by_name_before_a_worker_takes_jobs(
    tiny_pipeline: Path, loras: list[dict[str, Any]], changes: dict[str, Any], why: str
) -> None:
    spec = ModelSpec.model_validate(model_spec(tiny_pipeline, loras=[loras[1] | changes]))
    with pytest.raises(ModelUnavailable, match=f"^catalog: model tiny: loras: other: .*{why}"):
        check(spec, tiny_pipeline)


def test_files_are_held_against_the_model_and_the_cache(
    tiny_pipeline: Path,
    loras: list[dict[str, Any]],
    low: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def checked(*own: dict[str, Any], **changes: Any) -> None:
        check(ModelSpec.model_validate(model_spec(tiny_pipeline, loras=own, **changes)), tiny_pipeline)

    size = Path(loras[0]["source"]).stat().st_size
    checked(loras[0], memory={"lora_cache_bytes": size})
    why = f"loras: whole: has {size} bytes; allowed: {size - 1}, set by memory.lora_cache_bytes"
    with pytest.raises(ModelUnavailable, match=why):
        checked(loras[0], memory={"lora_cache_bytes": size - 1})
    checked(*loras)
    half = diffusers(low(WAN[:2])) | {
        f"transformer.blocks.7.attn1.to_q.lora_{part}.weight": torch.ones(4, 4) for part in "AB"
    }
    lost = "2 of its weights do not fit the model (transformer.blocks.7.attn1.to_q.lora_A.weight, "
    with pytest.raises(ModelUnavailable, match=re.escape(f"loras: half: {lost}")):
        checked(entry(tmp_path / "half.safetensors", half))
    checked(entry(tmp_path / "half.safetensors", half, partial=True))
    assert f"LoRA half: {lost}" in caplog.text
    assert ", ..." not in caplog.text
    for count, names in ((3, 3), (4, 3)):
        lost = [f"transformer.blocks.7.attn{n}.to_q.lora_A.weight" for n in range(count)]
        less = diffusers(low(WAN[:2])) | dict.fromkeys(lost, torch.ones(4, 4))
        some = ", ".join(lost[:names]) + (", ..." if count > names else "")
        why = f"loras: less: {count} of its weights do not fit the model ({some}); allowed: none, or partial true"
        with pytest.raises(ModelUnavailable, match=re.escape(why) + "$"):
            checked(entry(tmp_path / "less.safetensors", less))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "half.safetensors").read_bytes()[:-9])
    sha256 = hashlib.sha256((tmp_path / "cut.safetensors").read_bytes()).hexdigest()
    with pytest.raises(ModelUnavailable, match=r"loras: cut: .*cut\.safetensors: damaged weights \("):
        checked({"name": "cut", "source": str(tmp_path / "cut.safetensors"), "sha256": sha256})
    with pytest.raises(ModelUnavailable, match="loras: half: none of its 2 weights fits the model"):
        checked(entry(tmp_path / "half.safetensors", dict([*half.items()][-2:]), partial=True))
