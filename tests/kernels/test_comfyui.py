"""The ComfyUI node, on a stand-in for ComfyUI that has its hooks and calls them as it does."""

import pytest
import torch
import torch.nn.functional as F
from adaspa.comfyui import NODE_CLASS_MAPPINGS
from adaspa.comfyui import node as node_module

HEADS, DIM, TOKENS, LAYERS = 2, 16, 192, 3
node = NODE_CLASS_MAPPINGS["AdaSpa"]()


def ordinary(q, k, v, heads, mask=None, **_):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class WanModel:
    """Self- and cross-attention layers, called through the override as `optimized_attention` does."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(LAYERS, 3, HEADS * DIM, HEADS * DIM, generator=generator) / 4
        self.text = torch.randn(1, 7, HEADS * DIM, generator=generator)

    def __call__(self, x, options):
        attend = options.get("optimized_attention_override", lambda func, *args, **kwargs: func(*args, **kwargs))
        for wq, wk, wv in self.weights:
            x = x + attend(ordinary, x @ wq, x @ wk, x @ wv, HEADS, transformer_options=options)
            x = x + attend(ordinary, x @ wq, self.text, self.text, HEADS, transformer_options=options)
        return F.layer_norm(x, x.shape[-1:])


class Patcher:
    """What the node uses of ComfyUI's ModelPatcher."""

    def __init__(self, model, options=None):
        self.model, self.model_options, self.outer = model, dict(options or {}), []

    def clone(self):
        return Patcher(self.model, self.model_options)

    def get_model_object(self, name):
        assert name == "diffusion_model"
        return self.model

    def set_model_unet_function_wrapper(self, wrapper):
        self.model_options["model_function_wrapper"] = wrapper

    def add_wrapper_with_key(self, kind, key, wrapper):
        assert kind == "outer_sample" and key == "adaspa"
        self.outer.append(wrapper)

    def sample(self, steps=10, fail_at=None):
        """Euler steps with a conditional and an unconditional call each."""
        sigmas = torch.linspace(1, 0, steps + 1)
        options = {**self.model_options.get("transformer_options", {}), "sample_sigmas": sigmas}
        wrapper = self.model_options.get("model_function_wrapper")

        def apply_model(x, timestep, transformer_options):
            return self.model(x, transformer_options)

        def run():
            x = torch.randn(1, TOKENS, HEADS * DIM, generator=torch.Generator().manual_seed(1))
            for step, sigma in enumerate(sigmas[:-1]):
                if step == fail_at:
                    raise KeyboardInterrupt
                for branch in ([1], [0]):
                    arguments = {"input": x, "timestep": sigma.expand(1), "cond_or_uncond": branch}
                    arguments["c"] = {"transformer_options": options | {"cond_or_uncond": branch}}
                    if wrapper is None:
                        out = apply_model(x, arguments["timestep"], **arguments["c"])
                    else:
                        out = wrapper(apply_model, arguments)
                    x = x + 0.1 * out
            return x

        return self.outer[0](run) if self.outer else run()


@pytest.fixture(autouse=True)
def short_sequences_count(monkeypatch):
    monkeypatch.setattr(node_module, "MIN_TOKENS", 100)


@pytest.fixture
def states(monkeypatch):
    """Every request's state that the node made."""
    made = []
    original = node_module.AdaSpaState

    def make(plan):
        made.append(original(plan))
        return made[-1]

    monkeypatch.setattr(node_module, "AdaSpaState", make)
    return made


def test_the_exact_preset_changes_nothing():
    model = Patcher(WanModel())
    (patched,) = node.patch(model, "exact", 0.8)
    torch.testing.assert_close(patched.sample(), model.sample())


def test_a_sparse_sampling_follows_the_schedule_of_each_branch(states):
    model = Patcher(WanModel())
    (patched,) = node.patch(model, "paper", 0.5)
    sparse = patched.sample(steps=10)
    assert not torch.allclose(sparse, model.sample(steps=10))
    (state,) = states
    report = state.record.report()
    # The paper's 10 dense steps and searches at 10 and 30 of 50, in a tenth of the steps.
    assert (report["dense_steps"], report["search_steps"], report["sparse_steps"]) == (2, 2, 6)
    layers = {(pattern.layer, pattern.step) for pattern in state.record.patterns}
    assert layers == {(layer, step) for layer in range(LAYERS) for step in (2, 6)}
    assert len(state.record.patterns) == 2 * len(layers), "a pattern for each guidance branch"


def test_the_caches_go_with_the_sampling_also_when_it_is_interrupted(states):
    (patched,) = node.patch(Patcher(WanModel()), "paper", 0.5)
    with pytest.raises(KeyboardInterrupt):
        patched.sample(fail_at=7)
    patched.sample(steps=5)
    assert len(states) == 2
    assert not any(state.cache.held() for state in states)


def test_another_wrapper_is_kept():
    seen = []

    def theirs(apply_model, args):
        seen.append(float(args["timestep"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    (patched,) = node.patch(Patcher(WanModel(), {"model_function_wrapper": theirs}), "fast", 0.8)
    patched.sample(steps=4)
    assert len(seen) == 8


def test_a_model_with_text_in_its_sequence_is_refused():
    class HunyuanVideo(WanModel):
        pass

    with pytest.raises(ValueError, match=r"model must be one of WanModel, .* got HunyuanVideo"):
        node.patch(Patcher(HunyuanVideo()), "fast", 0.8)
