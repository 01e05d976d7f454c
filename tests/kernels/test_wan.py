"""AdaSpa in a tiny Wan pipeline with random weights."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import adaspa
import pytest
import torch
import torch.nn.functional as F
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from adaspa.ops import backends
from diffusers.models.attention_dispatch import attention_backend
from tiny_pipelines import STEPS, cancel, generate, make_pipeline, make_wan, make_wan_pipeline

SPARSE = adaspa.AdaSpaConfig(sparsity=0.6, block_size=16)
FULL = replace(SPARSE, sparsity=0.001, head_adaptive=False)


@pytest.fixture
def pipe():
    return make_pipeline("wan")


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("prompts", [1, 2])
def test_density_one_equals_the_unpatched_pipeline(pipe, guidance, prompts):
    plain = generate(pipe, guidance=guidance, prompts=prompts)
    handle = adaspa.apply(pipe.transformer, FULL)
    torch.testing.assert_close(generate(pipe, guidance=guidance, prompts=prompts), plain, rtol=1e-4, atol=1e-5)
    report = handle.report()
    assert report["density"] == 1
    assert report["recall"] == pytest.approx(1)
    assert report["sparse_steps"] == 4


def test_sparse_runs_end_to_end_and_reports(pipe):
    plain = generate(pipe)
    adaspa.apply(pipe.transformer, SPARSE)
    sparse = generate(pipe)
    assert sparse.isfinite().all()
    assert not torch.allclose(sparse, plain, atol=1e-3)
    report = pipe.transformer.adaspa.report()
    assert (report["dense_steps"], report["search_steps"], report["sparse_steps"]) == (2, 2, 4)
    assert 0.3 < report["density"] < 0.5
    assert 0 < report["recall"] < 1
    assert all(report[f"{kind}_seconds"] > 0 for kind in ("dense", "search", "sparse"))
    assert [layer["layer"] for layer in report["layers"]] == [0, 1]
    assert all(len(layer["density"]) == len(layer["recall"]) == 2 for layer in report["layers"])
    # Two branches x two layers x (LSE of 2 heads x 75 tokens, lists of 2 heads x 5 rows).
    assert report["cache_bytes"] == 2 * 2 * (2 * 75 * 4 + 2 * 5 * (3 * 2 + 4))


@pytest.mark.parametrize(
    ("family", "guidance", "calls"),
    # One of two branches, in two layers: four sparse steps and the later search.
    [("wan", 3.0, 2 * (4 + 1)), ("wan", 1.0, 0), ("cogvideox", 3.0, 0)],
    ids=["in calls of their own", "without guidance", "in one batch"],
)
def test_shared_lists_are_reported_and_no_fallback(family, guidance, calls):
    pipe = make_pipeline(family)
    adaspa.apply(pipe, replace(SPARSE, share_lists=True))
    generate(pipe, family, guidance=guidance)
    report = pipe.transformer.adaspa.report()
    assert report["shared_list_calls"] == calls
    assert report["fell_back"] == []


def test_two_calls_in_a_row_give_the_same(pipe):
    adaspa.apply(pipe.transformer, SPARSE)
    first = generate(pipe)
    generate(pipe, seed=2, guidance=1.0)
    assert torch.equal(generate(pipe), first)


def test_a_batch_gives_each_prompt_its_own_pattern(pipe):
    adaspa.apply(pipe.transformer, SPARSE)
    latents = torch.randn(2, 4, 5, 6, 10, generator=torch.Generator().manual_seed(0))
    embeds = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(1))

    def of(rows):
        return pipe(
            prompt_embeds=embeds[rows],
            negative_prompt_embeds=embeds[rows] * 0,
            latents=latents[rows],
            height=48,
            width=80,
            num_frames=17,
            num_inference_steps=STEPS,
            output_type="latent",
        ).frames

    torch.testing.assert_close(of([0, 1]), torch.cat([of([0]), of([1])]), rtol=1e-3, atol=1e-4)


def test_branches_have_patterns_of_their_own(pipe):
    handle = adaspa.apply(pipe.transformer, SPARSE)
    seen = {}

    def look(pipe, step, timestep, tensors):
        if step == 5:
            cache = handle.state.cache
            seen.update({key: cache.index(key).to_mask() for key in cache.held()})
        return tensors

    generate(pipe, callback_on_step_end=look)
    assert {key.branch for key in seen} == {"cond", "uncond"}
    assert len(seen) == 4
    assert not torch.equal(seen["cond", 1, None], seen["uncond", 1, None])


def test_steps_are_followed_and_told(pipe):
    handle = adaspa.apply(pipe.transformer, SPARSE)
    assert handle.step is None and handle.step_kind is None
    seen = []

    def look(pipe, step, timestep, tensors):
        seen.append((handle.step, handle.step_kind))
        return tensors

    generate(pipe, callback_on_step_end=look)
    kinds = ["dense", "dense", "search", "sparse", "sparse", "search", "sparse", "sparse"]
    assert seen == list(enumerate(kinds))
    assert handle.step is None


def forward(transformer, timestep, seed=0):
    generator = torch.Generator().manual_seed(seed)
    latents, text = torch.randn(1, 4, 5, 6, 10, generator=generator), torch.randn(1, 8, 16, generator=generator)
    with torch.no_grad():
        return transformer(latents, torch.tensor([timestep]), text, return_dict=False)[0]


def test_a_new_request_drops_the_caches_of_the_last():
    transformer = make_wan()
    handle = adaspa.apply(transformer, replace(SPARSE, steps=3, warmup=1, searches=(1,)))
    for _ in range(2):
        handle.begin(steps=3, branches=2)
        seen = []
        for timestep in (900.0, 700.0, 400.0):
            for branch in range(2):
                forward(transformer, timestep, seed=branch)
                seen.append((handle.step, handle.state.branch, handle.step_kind))
        kinds = ["dense", "search", "sparse"]
        assert seen == [(step, branch, kind) for step, kind in enumerate(kinds) for branch in "01"]
    handle.begin(steps=3, branches=1)
    forward(transformer, 900.0)
    # Only the LSE that its own first step leaves: one branch, two layers, two heads, 75 tokens.
    assert handle.state.cache.nbytes == 2 * 2 * 75 * 4


def test_caches_are_dropped_at_the_end_and_the_report_stays(pipe):
    handle = adaspa.apply(pipe.transformer, SPARSE)
    generate(pipe)
    assert handle.state is None
    report = handle.report()
    handle.reset()
    assert handle.report() == report
    assert report["cache_bytes"] > 0


def test_caches_are_dropped_when_the_transformer_raises(pipe):
    handle = adaspa.apply(pipe.transformer, SPARSE)
    caches = []

    def fail(module, args, output):
        caches.append(handle.state.cache)
        if handle.step == 4:
            raise RuntimeError("out of order")
        return output

    registration = pipe.transformer.blocks[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of order"):
        generate(pipe)
    assert handle.state is None
    assert caches[-1].peak_nbytes > 0 and caches[-1].nbytes == 0
    registration.remove()
    first = generate(pipe)
    assert torch.equal(generate(pipe), first)


def test_a_request_that_was_given_up_leaves_nothing_to_the_next(pipe):
    handle = adaspa.apply(pipe.transformer, SPARSE)
    wanted = generate(pipe)
    cancel(pipe)
    assert handle.state is not None
    assert torch.equal(generate(pipe), wanted)


def test_configure_between_requests(pipe):
    plain = generate(pipe)
    handle = adaspa.apply(pipe.transformer, SPARSE)
    handle.configure(replace(SPARSE, sparsity=0))
    assert torch.equal(generate(pipe), plain)
    assert handle.report()["dense_steps"] == STEPS
    assert handle.report()["density"] == 1
    assert handle.report()["recall"] is None
    with pytest.raises(ValueError, match=r"^config must be an AdaSpaConfig"):
        handle.configure({"sparsity": 0.5})


def test_remove_restores(pipe):
    plain = generate(pipe)
    processors = pipe.transformer.attn_processors
    forward_before = pipe.transformer.forward
    adaspa.apply(pipe.transformer, SPARSE)
    generate(pipe)
    adaspa.remove(pipe.transformer)
    assert pipe.transformer.attn_processors == processors
    assert pipe.transformer.forward == forward_before
    assert not hasattr(pipe.transformer, "adaspa")
    assert torch.equal(generate(pipe), plain)
    with pytest.raises(ValueError, match=r"^model must be one that adaspa.apply was called on"):
        adaspa.remove(pipe.transformer)


def test_only_self_attention_is_replaced(pipe):
    original = dict(pipe.transformer.attn_processors)
    adaspa.apply(pipe.transformer, SPARSE)
    for name, processor in pipe.transformer.attn_processors.items():
        assert (processor is original[name]) == ("attn2" in name)


def test_applying_again_replaces_the_config(pipe):
    handle = adaspa.apply(pipe.transformer, SPARSE)
    processors = pipe.transformer.attn_processors
    assert adaspa.apply(pipe.transformer, FULL) is handle
    assert handle.config == FULL
    assert pipe.transformer.attn_processors == processors


def test_fused_projections(pipe):
    adaspa.apply(pipe.transformer, SPARSE)
    wanted = generate(pipe)
    pipe.transformer.fuse_qkv_projections()
    assert pipe.transformer.blocks[0].attn1.fused_projections
    torch.testing.assert_close(generate(pipe), wanted, rtol=1e-4, atol=1e-5)


def test_the_attention_backend_reaches_the_dense_steps(pipe):
    adaspa.apply(pipe.transformer, SPARSE)
    # diffusers keeps the last backend that any model was given, for all models; behind the block it is as before.
    with attention_backend("native"):
        pipe.transformer.set_attention_backend("_native_math")
        original = pipe.transformer.blocks[0].attn1.processor.original
        assert original._attention_backend == "_native_math"
        assert generate(pipe).isfinite().all()
    pipe.transformer.reset_attention_backend()


@pytest.mark.parametrize("chosen", [None, "model", "context"])
def test_our_dense_kernel_serves_a_dense_step_unless_a_backend_is_chosen(pipe, monkeypatch, chosen):
    plain, calls = generate(pipe), []

    def dense_attention(q, k, v, scale):
        calls.append(q.shape)
        return F.scaled_dot_product_attention(q, k, v, scale=scale)

    # As on a Hopper GPU with a long sequence; the kernel itself is tested there.
    ours = SimpleNamespace(
        name="hopper",
        precision="full",
        takes=lambda call: call.op == "attention",
        why_not=None,
        kernel=lambda _: dense_attention,
    )
    monkeypatch.setattr(backends, "BACKENDS", (ours, *backends.BACKENDS))
    adaspa.apply(pipe.transformer, adaspa.AdaSpaConfig.preset("exact"))
    with attention_backend("_native_math" if chosen == "context" else "native"):
        if chosen == "model":
            pipe.transformer.set_attention_backend("_native_math")
        torch.testing.assert_close(generate(pipe), plain, rtol=1e-4, atol=1e-5)
    assert bool(calls) == (chosen is None)
    pipe.transformer.reset_attention_backend()


@pytest.mark.parametrize("offloaded", ["before", "after"])
def test_cpu_offload_leaves_it_in_place(offloaded):
    # What enable_model_cpu_offload does, and does again behind every pipeline call, without a device to move to.
    pipe = make_pipeline("hunyuan-video")
    plain = generate(pipe, "hunyuan-video")
    if offloaded == "before":
        add_hook_to_module(pipe.transformer, ModelHook())
    (handle,) = adaspa.apply(pipe, FULL)
    if offloaded == "after":
        add_hook_to_module(pipe.transformer, ModelHook())
    for _ in range(2):
        torch.testing.assert_close(generate(pipe, "hunyuan-video"), plain, rtol=1e-4, atol=1e-5)
        assert handle.report()["sparse_steps"] == 4
        remove_hook_from_module(pipe.transformer, recurse=True)
        add_hook_to_module(pipe.transformer, ModelHook())
    adaspa.remove(pipe.transformer)
    assert "_old_forward" in vars(pipe.transformer)
    remove_hook_from_module(pipe.transformer, recurse=True)
    torch.testing.assert_close(generate(pipe, "hunyuan-video"), plain, rtol=0, atol=0)


def test_a_compiled_wrapper_is_refused(pipe):
    with pytest.raises(ValueError, match=r"^transformer must not be wrapped by torch.compile"):
        adaspa.apply(torch.compile(pipe.transformer), SPARSE)


def test_two_experts_share_nothing():
    pipe = make_wan_pipeline(transformer_2=make_wan(seed=1), boundary_ratio=0.6)
    plain = generate(pipe)
    for model in (pipe.transformer, pipe.transformer_2):
        adaspa.apply(model, FULL)
    torch.testing.assert_close(generate(pipe), plain, rtol=1e-4, atol=1e-5)
    adaspa.apply(pipe, FULL)
    torch.testing.assert_close(generate(pipe), plain, rtol=1e-4, atol=1e-5)


def test_the_library_imports_without_diffusers_and_triton():
    code = (
        "import sys; sys.modules['diffusers'] = sys.modules['triton'] = None; import adaspa, torch;"
        "q = torch.zeros(1, 1, 64, 32); s = adaspa.AdaSpaState(adaspa.AdaSpaConfig().resolve()); s.begin_step(0);"
        "assert adaspa.attention(q, q, q, s).shape == q.shape"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
