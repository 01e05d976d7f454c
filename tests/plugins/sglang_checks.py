"""The adapter in SGLang's own attention layers, selector, hooks, stages and forward context, from the pinned wheel.

`sglang_stand_ins` says what is not the server's.
"""

import contextlib
import importlib
import logging

import pytest
import torch
from sglang_stand_ins import OURS, serve

# isort: split
import adaspa.plugins
from adaspa.schedule import Schedule, StepKind
from sglang.multimodal_gen.runtime.distributed import parallel_state
from sglang.multimodal_gen.runtime.layers.attention.backends.attention_backend import (
    AttentionRequirements,
)
from sglang.multimodal_gen.runtime.layers.attention.layer import USPAttention
from sglang.multimodal_gen.runtime.layers.attention.selector import (
    component_attn_backend_context_manager,
    get_attn_backend,
)
from sglang.multimodal_gen.runtime.managers.forward_context import set_forward_context
from sglang.multimodal_gen.runtime.pipelines_core.schedule_batch import Req, SamplingParams
from sglang.multimodal_gen.runtime.pipelines_core.stages.base import PipelineStage
from sglang.multimodal_gen.runtime.pipelines_core.stages.denoising import DenoisingStage
from sglang.multimodal_gen.runtime.pipelines_core.stages.model_specific_stages.minimax_h3 import (
    constants as h3,
)
from sglang.multimodal_gen.runtime.pipelines_core.stages.model_specific_stages.minimax_h3.packed_sequence import (
    minimax_h3_packed_sequence,
)
from sglang.multimodal_gen.runtime.platforms import AttentionBackendEnum, current_platform
from sglang.multimodal_gen.runtime.platforms import plugins as server_plugins

GRID, OTHERS = (3, 5, 8), 10
VIDEO = 3 * 5 * 8
HEADS, DIM = 2, 32


@pytest.fixture(scope="module", autouse=True)
def plugged(tmp_path_factory):
    """The plugin as a server's process loads it, and groups of one process, which the layers ask for."""
    server_plugins.apply_plugin_hooks()
    store = tmp_path_factory.mktemp("group") / "store"
    parallel_state.maybe_init_distributed_environment_and_model_parallel(
        1, 1, distributed_init_method=f"file://{store}"
    )
    yield
    parallel_state.cleanup_dist_env_and_memory()


@pytest.fixture
def said(caplog):
    """The lines of AdaSpa in the server's log."""
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records if record.getMessage().startswith("AdaSpa")]


def layers(count=2, name="blocks.{}.attn1", **others):
    return [USPAttention(HEADS, DIM, prefix=name.format(n), **others) for n in range(count)]


def request(steps, **extra):
    return Req(
        sampling_params=SamplingParams(),
        timesteps=torch.arange(steps),
        raw_latent_shape=torch.Size((1, 16, GRID[0], 2 * GRID[1], 2 * GRID[2])),
        extra=extra,
    )


def qkv(tokens, branch, index, shift=0):
    generator = torch.Generator().manual_seed(100 * branch + 10 * index + shift)
    q, k, v = (torch.randn(1, tokens, HEADS, DIM, generator=generator) for _ in range(3))
    return 3 * q, k, v


class Denoising(PipelineStage):
    """A loop as the server's: its metadata, its forward context, its guidance branches."""

    def __init__(
        self, blocks, *, steps=50, branches=2, text=0, until=None, shift=0, skipped=(), second=(), takes_over=50
    ):
        super().__init__()
        self.blocks, self.steps, self.branches, self.until, self.shift = blocks, steps, branches, until, shift
        self.text, self.skipped, self.second, self.takes_over = text, skipped, second, takes_over
        self.found, self.request = {}, None
        self.attn_backend = get_attn_backend(DIM, torch.float16)

    def forward(self, batch, server_args):
        for step in range(self.steps):
            metadata = DenoisingStage._build_attn_metadata(self, step, batch, server_args)
            for branch in range(self.branches):
                if (step, branch) in self.skipped:
                    continue
                batch.is_cfg_negative = bool(branch)
                with set_forward_context(step, metadata, batch):
                    for index, block in enumerate(self.blocks if step < self.takes_over else self.second):
                        self.found[step, branch, index] = block(*qkv(VIDEO + self.text, branch, index, self.shift))
                loop = batch.extra.get("_denoising_loop_state", {}).get("adaspa")
                self.request = getattr(loop, "_adaspa", None)
            if self.until == step:
                raise InterruptedError
        return batch


def denoise(args, blocks, **others):
    """What every call gave, by step, branch and layer; the state as the last step left it."""
    stage = Denoising(blocks, **others)
    stage(request(stage.steps), args)
    return stage.found, stage.request


def test_at_density_one_it_is_the_servers_own_attention():
    args = serve(sparsity=0.0001, block_size=16)
    ours, ran = denoise(args, layers(), steps=4)
    assert ran.state.record.step_kinds[3] is StepKind.SPARSE
    plain = serve("torch_sdpa")
    theirs, _ = denoise(plain, layers(), steps=4)
    for place, out in theirs.items():
        torch.testing.assert_close(ours[place], out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [50, 8, 4])
def test_the_steps_are_as_the_schedule_has_them(steps, said):
    args = serve(sparsity=0.8, block_size=16)
    _, ran = denoise(args, layers(), steps=steps)
    expected = adaspa.AdaSpaConfig(sparsity=0.8, block_size=16).resolve(steps).schedule
    assert ran.state.record.step_kinds == {step: expected.kind(step) for step in range(steps)}
    assert sum(ran.state.record.ledger.calls.values()) == steps * 2 * 2
    assert said()[-1].startswith(f"AdaSpa: {[expected.kind(s) for s in range(steps)].count('dense')} dense, ")


def test_text_behind_the_video_is_attended_by_all_and_attends_to_all():
    args = serve(sparsity=0.9, block_size=16, warmup=0, searches=[0])
    name = "Hunyuan.double_blocks.{}.attn"
    ours, ran = denoise(args, layers(name=name), steps=3, branches=1, text=OTHERS)
    theirs, _ = denoise(serve("torch_sdpa"), layers(name=name), steps=3, branches=1, text=OTHERS)
    assert ran.state.record.step_kinds[2] is StepKind.SPARSE
    torch.testing.assert_close(ours[2, 0, 0][:, VIDEO:], theirs[2, 0, 0][:, VIDEO:], rtol=1e-4, atol=1e-5)
    assert (ours[2, 0, 0] - theirs[2, 0, 0])[:, :VIDEO].abs().max() > 1e-3


@pytest.mark.parametrize("sparsity", [0.0001, 0.9])
def test_a_packed_sequence_of_minimax_h3_is_sparse_for_its_video_alone(sparsity):
    config = {"sparsity": sparsity, "block_size": 16, "warmup": 0, "searches": [0]}
    latents = {"latent_t": GRID[0], "latent_h": 2 * GRID[1], "latent_w": 2 * GRID[2]}
    packed = minimax_h3_packed_sequence(text_len=4, audio_t=3, include_keyframe_cond=False, **latents)
    bounds = tuple(packed["cu_seqlens"].tolist())
    used, rows, video = bounds[1], bounds[2], packed["img_pos"]
    assert video.tolist() == list(range(used - VIDEO, used)) and used < rows
    extra = {
        h3.MINIMAX_H3_DENOISE_STATE_EXTRA_KEY: latents,
        h3.MINIMAX_H3_SIGMAS_EXTRA_KEY: {"video": [1.0, 0.7, 0.3, 0.0]},
    }
    batch, found = request(50, **extra), {}
    for backend in (OURS, "torch_sdpa"):
        serve(backend, **config)
        made = {"num_heads": HEADS, "num_kv_heads": HEADS, "head_size": DIM, "softmax_scale": DIM**-0.5}
        impl = get_attn_backend(DIM, torch.float32, attention_requirements=AttentionRequirements(packed_varlen=True))
        impl = impl.get_impl_cls()(causal=False, prefix="blocks.0.attn", packed_trailing_padding=True, **made)
        for step in range(3):
            with set_forward_context(step, None, batch):
                found[backend] = impl.forward_varlen(
                    *(x[0] for x in qkv(rows, 0, 0)),
                    cu_seqlens=packed["cu_seqlens"],
                    max_seqlen=used,
                    cu_seqlens_host=bounds,
                )
    ran = batch.extra["_denoising_loop_state"]["adaspa"]._adaspa
    assert ran.state.plan.steps == 3 and ran.state.record.step_kinds[2] is StepKind.SPARSE
    same = slice(0, used if sparsity < 0.1 else used - VIDEO)
    torch.testing.assert_close(found[OURS][same], found["torch_sdpa"][same], rtol=1e-4, atol=1e-5)
    assert sparsity < 0.1 or (found[OURS] - found["torch_sdpa"])[used - VIDEO : used].abs().max() > 1e-3


def test_guidance_branches_have_patterns_of_their_own_also_where_some_are_left_out():
    args = serve(sparsity=0.8, block_size=16, warmup=1, searches=[1, 2])
    blocks = layers()
    both, _ = denoise(args, blocks, steps=12)
    without = {(step, branch) for step in range(4, 12) for branch in range(2) if (step + branch) % 3 == 0}
    some, ran = denoise(args, blocks, steps=12, skipped=without)
    assert {key.branch.partition(".")[0] for key in ran.state._in_use} == {"positive", "negative"}
    assert all(torch.equal(out, both[place]) for place, out in some.items())


def test_an_expert_that_takes_over_has_patterns_of_its_own():
    args = serve(sparsity=0.8, block_size=16, warmup=1, searches=[1, 2])
    first, second = layers(), layers()
    alone, _ = denoise(args, first, steps=10)
    both, ran = denoise(args, first, steps=10, second=second, takes_over=6)
    assert {pattern.step for pattern in ran.state.record.patterns} == {1, 6}
    for (step, branch, index), out in both.items():
        if step != 6:  # where the second searches, with dense output, and not by the first one's lists
            torch.testing.assert_close(out, alone[step, branch, index], rtol=1e-4, atol=1e-5)


def test_a_request_that_was_aborted_leaves_nothing_to_the_next(said):
    args = serve(sparsity=0.8, block_size=16)
    blocks = layers()
    alone, _ = denoise(args, blocks, steps=8, shift=5)
    batch = request(50)
    with contextlib.suppress(InterruptedError):
        Denoising(blocks, steps=50, until=20)(batch, args)
    assert "_denoising_loop_state" not in batch.extra and "attention work" in said()[-1]
    again, _ = denoise(args, blocks, steps=8, shift=5)
    assert all(torch.equal(out, alone[place]) for place, out in again.items())


def test_the_servers_own_words_make_the_schedule():
    args = serve(sparsity=0.7, skip_first_steps=3, skip_first_layers=1)
    _, ran = denoise(args, layers(), steps=20)
    plan = ran.state.plan
    assert plan.schedule == Schedule((3, 11), warmup=3) and plan.dense_layers == (0,)
    assert plan.selection.sparsity == 0.7


@pytest.mark.parametrize(
    ("variable", "config", "told"),
    [
        ("", {"sparsity": 2}, "--attention-backend-config: sparsity"),
        ("", {"sparse": 0.5}, "--attention-backend-config: .*sparse"),
        ("", {"preset": "best"}, "--attention-backend-config: preset must be one of"),
        ("", {"skip_first_steps": -1}, "--attention-backend-config: skip_first_steps must be an integer of at least 0"),
        ("", {"skip_first_steps": 1, "sparsity": 2}, "--attention-backend-config: sparsity"),
        ("", {"skip_first_steps": 1, "recall": 1}, "--attention-backend-config: recall cannot be combined with"),
        ('{"sparsity": 2}', {}, "ADASPA_CONFIG: sparsity"),
        ('{"preset": "fast"}', {"sparsity": 0.5}, "ADASPA_CONFIG and --attention-backend-config are both given"),
    ],
)
def test_bad_settings_are_refused_when_the_server_starts(variable, config, told, monkeypatch):
    monkeypatch.setenv("ADASPA_CONFIG", variable)
    with pytest.raises(ValueError, match=told):
        serve(**config)
    with pytest.raises(ValueError, match=told):
        serve("fa", roles={"transformer": {"self": OURS}}, **config)
    serve("fa", **config)  # another backend's settings are none of ours


def test_a_component_and_its_cross_attention_get_what_they_ask_for():
    serve("torch_sdpa")
    with component_attn_backend_context_manager(AttentionBackendEnum.RAIN_FUSION_ATTN, "transformer"):
        own = USPAttention(HEADS, DIM, prefix="blocks.0.attn1")
        cross = USPAttention(HEADS, DIM, is_cross_attention=True)
    assert own.backend is AttentionBackendEnum.RAIN_FUSION_ATTN
    assert cross.backend is AttentionBackendEnum.TORCH_SDPA


def test_what_cannot_be_served_is_dense_and_said_once(said):
    args = serve(sparsity=0.8, block_size=16)
    ours, _ = denoise(args, layers(), steps=4, text=OTHERS)
    theirs, _ = denoise(serve("torch_sdpa"), layers(), steps=4, text=OTHERS)
    assert all(torch.equal(out, theirs[place]) for place, out in ours.items())
    assert sum("stays dense: the server does not say where the rows that are no video" in line for line in said()) == 1
    assert "16 calls past it: the server does not say where" in said()[-1]


def test_outside_of_a_denoising_loop_it_is_the_servers_own_attention():
    serve()
    (block,) = layers(1)
    with set_forward_context(0, None):
        out = block(*qkv(7, 0, 0))
    serve("torch_sdpa")
    (plain,) = layers(1)
    with set_forward_context(0, None):
        assert torch.equal(out, plain(*qkv(7, 0, 0)))


def test_another_version_of_the_server_stays_dense(monkeypatch, caplog):
    monkeypatch.setattr(adaspa.plugins.metadata, "version", lambda _: "0.6.0")
    registry = server_plugins.HookRegistry
    monkeypatch.setattr(registry, "_hooks", type(registry._hooks)(list))
    adaspa.plugins.into_sglang()
    assert "tested with sglang 0.5.23, but this is 0.6.0" in caplog.text
    ((target, [(_, choose, _)]),) = registry._hooks.items()
    assert target.endswith("CpuPlatform.get_attn_backend_cls_str")
    name = choose(None, current_platform, AttentionBackendEnum.RAIN_FUSION_ATTN, DIM, torch.float32)
    module, _, backend = name.rpartition(".")
    dense = getattr(importlib.import_module(module), backend)
    assert dense.get_enum() is AttentionBackendEnum.RAIN_FUSION_ATTN
    impl = dense.get_impl_cls()(num_heads=HEADS, head_size=DIM, softmax_scale=DIM**-0.5)
    q, k, v = qkv(VIDEO, 0, 0)
    expected = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
    torch.testing.assert_close(impl.forward(q, k, v, None), expected.transpose(1, 2))
