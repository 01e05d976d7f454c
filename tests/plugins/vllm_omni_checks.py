"""The adapter in vLLM-Omni's own attention layers, selector, registry and forward context, from the pinned wheels.

`vllm_omni_stand_ins` says what is not the server's.
"""

import contextlib
import json
import logging
import sys

import adaspa.plugins
import pytest
import torch
import vllm_omni_stand_ins  # noqa: F401 - before the server looks for a platform
from adaspa.schedule import Schedule, StepKind
from vllm_omni.diffusion.attention.backends.abstract import AttentionMetadata, VideoTokenLayout, VideoTokenSpan
from vllm_omni.diffusion.attention.backends.registry import DiffusionAttentionBackendEnum as Registered
from vllm_omni.diffusion.attention.layer import Attention
from vllm_omni.diffusion.config import set_current_diffusion_config
from vllm_omni.diffusion.data import AttentionConfig, OmniDiffusionConfig
from vllm_omni.diffusion.forward_context import DenoiseProgressMixin, get_forward_context, set_forward_context
from vllm_omni.plugins import load_omni_plugins_by_group

GRID, PREFIX, PADDING = (3, 5, 8), 10, 6
VIDEO = 3 * 5 * 8
HEADS, DIM = 2, 32


class Pipeline(DenoiseProgressMixin):
    """Tells its steps as those of Wan do."""

    def __init__(self, steps: int) -> None:
        self.scheduler = type("Scheduler", (), {"timesteps": torch.arange(steps), "config": None})()


@pytest.fixture(scope="module", autouse=True)
def plugged():
    load_omni_plugins_by_group("vllm_omni.general_plugins")["adaspa"]()


@pytest.fixture
def said(caplog):
    """The lines of AdaSpa in the server's log."""
    logging.getLogger("vllm").propagate = True
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records if record.getMessage().startswith("AdaSpa")]


def config(backend="RAINFUSION_ATTN", cache_backend="none", **block_sparse):
    spec = {"backend": backend, **({"block_sparse": block_sparse} if block_sparse else {})}
    made = OmniDiffusionConfig.__new__(OmniDiffusionConfig)
    made.__dict__.update(
        diffusion_attention_config=AttentionConfig(default=spec),
        parallel_config=type("Parallel", (), {"ring_degree": 1, "sequence_parallel_size": 1, "allgather_degree": 1})(),
        model_class_name=None,
        cache_backend=cache_backend,
    )
    return made


def layers(made, count=2, name="blocks"):
    with set_current_diffusion_config(made):
        return [
            Attention(HEADS, DIM, False, DIM**-0.5, prefix=f"{name}.{n}.attn1", qkv_layout="BSND") for n in range(count)
        ]


def metadata(packed=False, slices=True):
    """As Wan gives it, or as MiniMax-H3 does with rows of text before and of padding behind the video: with a mask for
    backends that do not cut the padding off."""
    if not packed:
        return AttentionMetadata(video_layout=VideoTokenLayout(prefix_len=0, latent_grid=GRID, used_len=VIDEO))
    used = PREFIX + VIDEO
    layout = VideoTokenLayout(used_len=used, video_spans=(VideoTokenSpan(PREFIX, GRID, "target"),))
    mask = None if slices else torch.arange(used + PADDING)[None] < used
    extra = {"max_seqlen_q": used, "valid_kv_length": used}
    return AttentionMetadata(attn_mask=mask, extra=extra, video_layout=layout)


def denoise(made, blocks, *, steps=50, branches=2, packed=False, until=None, shift=0):
    """What every call gave, by step, branch and layer; the state as the last step left it."""
    pipeline, found, request = Pipeline(steps), {}, None
    tokens = PREFIX + VIDEO + PADDING if packed else VIDEO
    with set_forward_context(omni_diffusion_config=made):
        for step in range(steps):
            pipeline.record_denoise_step(step)
            for branch in range(branches):
                for index, block in enumerate(blocks):
                    generator = torch.Generator().manual_seed(100 * branch + 10 * index + shift)
                    x = [torch.randn(1, tokens, HEADS, DIM, generator=generator) for _ in range(3)]
                    given = metadata(packed, block.attn_backend.supports_prefix_kv_slicing)
                    found[step, branch, index] = block(3 * x[0], x[1], x[2], given)
                    request = getattr(get_forward_context(), "_adaspa", None)
            if until == step:
                raise InterruptedError
    return found, request


def test_what_is_said_goes_where_the_servers_log_goes():
    logger = logging.getLogger("vllm.adaspa")
    assert logger.isEnabledFor(logging.INFO) and not logger.handlers and logger.parent.name == "vllm"
    assert sys.modules["adaspa.plugins.vllm_omni"].logger is logger


@pytest.mark.parametrize("packed", [False, True])
def test_at_density_one_it_is_the_servers_own_attention(packed, monkeypatch):
    monkeypatch.setenv("ADASPA_CONFIG", json.dumps({"sparsity": 0.0001, "block_size": 16}))
    ours, _ = denoise(config(), layers(config()), steps=4, packed=packed)
    monkeypatch.delenv("ADASPA_CONFIG")
    plain = config("TORCH_SDPA")
    theirs, _ = denoise(plain, layers(plain), steps=4, packed=packed)
    used = PREFIX + VIDEO if packed else VIDEO
    for place, out in theirs.items():
        torch.testing.assert_close(ours[place][:, :used], out[:, :used], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [50, 8, 4])
def test_the_steps_are_as_the_schedule_has_them(steps, monkeypatch, said):
    monkeypatch.setenv("ADASPA_CONFIG", json.dumps({"sparsity": 0.8, "block_size": 16}))
    made = config()
    _, request = denoise(made, layers(made), steps=steps)
    expected = adaspa.AdaSpaConfig(sparsity=0.8, block_size=16).resolve(steps).schedule
    assert request.state.record.step_kinds == {step: expected.kind(step) for step in range(steps)}
    calls = request.state.record.ledger.calls
    assert sum(calls.values()) == steps * 2 * 2
    del request
    assert said()[-1].startswith(f"AdaSpa: {[expected.kind(s) for s in range(steps)].count('dense')} dense, ")


def test_rows_that_are_no_video_are_attended_by_all_and_attend_to_all(monkeypatch):
    monkeypatch.setenv("ADASPA_CONFIG", json.dumps({"sparsity": 0.9, "block_size": 16, "warmup": 0, "searches": [0]}))
    made, plain = config(), config("TORCH_SDPA")
    ours, request = denoise(made, layers(made), steps=3, branches=1, packed=True)
    theirs, _ = denoise(plain, layers(plain), steps=3, branches=1, packed=True)
    assert request.state.record.step_kinds[2] is StepKind.SPARSE
    prefix = slice(0, PREFIX)
    torch.testing.assert_close(ours[2, 0, 0][:, prefix], theirs[2, 0, 0][:, prefix], rtol=1e-4, atol=1e-5)
    assert (ours[2, 0, 0] - theirs[2, 0, 0])[:, PREFIX : PREFIX + VIDEO].abs().max() > 1e-3


def test_guidance_branches_and_experts_have_patterns_of_their_own(monkeypatch):
    settings = {"sparsity": 0.8, "block_size": 16, "warmup": 1, "searches": [1, 2]}
    monkeypatch.setenv("ADASPA_CONFIG", json.dumps(settings))
    made = config()
    first, second = layers(made), layers(made, name="transformer_2.blocks")
    alone, _ = denoise(made, layers(made), steps=20)
    pipeline = Pipeline(20)
    with set_forward_context(omni_diffusion_config=made):
        for step in range(20):
            pipeline.record_denoise_step(step)
            for branch in range(2):
                for index, block in enumerate(first if step < 10 else second):
                    generator = torch.Generator().manual_seed(100 * branch + 10 * index)
                    x = [torch.randn(1, VIDEO, HEADS, DIM, generator=generator) for _ in range(3)]
                    out = block(3 * x[0], x[1], x[2], metadata())
                    # The second expert searches in its first step, with dense output, and not by the first one's lists.
                    if step != 10:
                        torch.testing.assert_close(out, alone[step, branch, index], rtol=1e-4, atol=1e-5)
        request = get_forward_context()._adaspa
        kinds = {pattern.step for pattern in request.state.record.patterns}
    assert 10 in kinds


def test_a_request_that_was_aborted_leaves_nothing_to_the_next(monkeypatch, said):
    monkeypatch.setenv("ADASPA_CONFIG", json.dumps({"sparsity": 0.8, "block_size": 16}))
    made = config()
    blocks = layers(made)
    alone, _ = denoise(made, blocks, steps=8, shift=5)
    with contextlib.suppress(InterruptedError):
        denoise(made, blocks, steps=50, until=20)
    assert "attention work" in said()[-1]
    again, _ = denoise(made, blocks, steps=8, shift=5)
    assert all(torch.equal(out, alone[place]) for place, out in again.items())


def test_the_servers_own_fields_make_the_schedule():
    made = config(sparsity=0.7, start_step=3, end_step=2, skip_layers="1")
    _, request = denoise(made, layers(made), steps=20)
    plan = request.state.plan
    assert plan.schedule == Schedule((3, 10), warmup=3, dense_from=18) and plan.dense_layers == (1,)
    assert plan.selection.sparsity == 0.7


@pytest.mark.parametrize(
    ("variable", "block_sparse", "told"),
    [
        ('{"sparsity": 2}', {}, "ADASPA_CONFIG: sparsity"),
        ('{"sparse": 0.5}', {}, "ADASPA_CONFIG: .*sparse"),
        ("[1]", {}, "ADASPA_CONFIG must be a JSON object"),
        ('{"preset": "best"}', {}, "ADASPA_CONFIG: preset must be one of"),
        ('{"preset": "fast"}', {"sparsity": 0.5}, "block_sparse.sparsity"),
        ("", {"precision": "fp8"}, "block_sparse.precision must be bf16"),
        ("", {"sparsity": 1.0}, r"block_sparse.sparsity must be a number in \[0, 1\)"),
    ],
)
def test_bad_settings_are_refused_when_the_model_is_made(variable, block_sparse, told, monkeypatch):
    monkeypatch.setenv("ADASPA_CONFIG", variable)
    with pytest.raises(ValueError, match=told):
        layers(config(**block_sparse))


def test_what_cannot_be_served_is_dense_and_said_once(monkeypatch, said):
    monkeypatch.setenv("ADASPA_CONFIG", json.dumps({"sparsity": 0.8, "block_size": 16}))
    made, plain = config(cache_backend="tea_cache"), config("TORCH_SDPA")
    ours, request = denoise(made, layers(made), steps=4)
    theirs, _ = denoise(plain, layers(plain), steps=4)
    assert all(torch.equal(out, theirs[place]) for place, out in ours.items())
    del request
    assert sum("stays dense: a step cache" in line for line in said()) == 1
    assert "calls past it: a step cache" in said()[-1]


def test_another_version_of_the_server_stays_dense(monkeypatch, caplog):
    monkeypatch.setattr(adaspa.plugins.metadata, "version", lambda _: "0.31.0")
    try:
        adaspa.plugins.into_vllm_omni()
        assert "tested with vllm-omni 0.30.*, but this is 0.31.0" in caplog.text
        assert Registered.RAINFUSION_ATTN.get_path() == Registered.TORCH_SDPA.get_path()
    finally:
        monkeypatch.undo()
        adaspa.plugins.into_vllm_omni()
