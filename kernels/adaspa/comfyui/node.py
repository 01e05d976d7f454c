"""Node that gives a ComfyUI model AdaSpa, by the hooks that ComfyUI has for it; nothing of ComfyUI is imported."""

from collections.abc import Callable
from typing import Any, get_args

import torch

from adaspa.attention import attention
from adaspa.config import AdaSpaConfig, Preset
from adaspa.state import AdaSpaState

VIDEO_ONLY = ("WanModel", "VaceWanModel", "CameraWanModel", "LTXVModel")
"""ComfyUI's models whose self-attention holds video tokens and no text, as the node has to assume."""
MIN_TOKENS = 1024
"""Shorter sequences (a refiner's text, say) are not worth a search."""
KEY = "adaspa"


class AdaSpaNode:
    """MODEL in, MODEL out: its self-attention is AdaSpa's from the next sampling on."""

    CATEGORY = "model_patches"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """List the widgets. ``sparsity`` is the paper's, for preset ``paper`` only."""
        return {
            "required": {
                "model": ("MODEL",),
                "preset": ([*get_args(Preset), "paper"], {"default": "balanced"}),
                "sparsity": ("FLOAT", {"default": 0.8, "min": 0.0, "max": 0.95, "step": 0.05}),
            }
        }

    def patch(self, model: Any, preset: str, sparsity: float) -> tuple[Any]:
        """A clone of ``model`` with AdaSpa.

        Raises:
            ValueError: for a model whose self-attention is not known to hold video tokens alone.
        """
        name = type(model.get_model_object("diffusion_model")).__name__
        if name not in VIDEO_ONLY:
            raise ValueError(f"model must be one of {', '.join(VIDEO_ONLY)} for AdaSpa, got {name}")
        paper = AdaSpaConfig.paper().replace(sparsity=sparsity)
        config = paper if preset == "paper" else AdaSpaConfig.preset(preset)  # type: ignore[arg-type] # of the widget
        clone, sampling = model.clone(), Sampling(config)
        options = clone.model_options
        options["transformer_options"] = {
            **options.get("transformer_options", {}),
            "optimized_attention_override": sampling.attend,
        }
        clone.set_model_unet_function_wrapper(sampling.around_forward(options.get("model_function_wrapper")))
        clone.add_wrapper_with_key("outer_sample", KEY, sampling.around_sampling)
        return (clone,)


class Sampling:
    """Follows one sampling after the other: which step and guidance branch it is, and which layer comes next."""

    def __init__(self, config: AdaSpaConfig) -> None:
        self.config = config
        self.state: AdaSpaState | None = None
        self._schedule: tuple[float, ...] = ()
        self._layer = 0

    def around_sampling(self, executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """ComfyUI's ``outer_sample``: the caches live as long as it does, whatever ends it."""
        try:
            return executor(*args, **kwargs)
        finally:
            self.end()

    def around_forward(self, inner: Callable[..., Any] | None) -> Callable[..., Any]:
        """ComfyUI's ``model_function_wrapper``, around the one that was there."""

        def forward(apply_model: Callable[..., Any], args: dict[str, Any]) -> Any:
            options = args["c"].get("transformer_options", {})
            if "sample_sigmas" in options:
                self.begin_forward(args["timestep"], options["sample_sigmas"], str(args.get("cond_or_uncond")))
            if inner is not None:
                return inner(apply_model, args)
            return apply_model(args["input"], args["timestep"], **args["c"])

        return forward

    def begin_forward(self, sigma: torch.Tensor, sigmas: torch.Tensor, branch: str) -> None:
        """Find the denoising step of ``sigma`` among ``sigmas``, its schedule from noise to 0.

        A sampler that evaluates between two steps, or twice at one, stays in the step it has reached.
        """
        schedule = tuple(sigmas.float().tolist())
        steps = len(schedule) - 1
        now = float(sigma.max())
        step = min(sum(value > now * (1 + 1e-5) for value in schedule), steps - 1)
        reached = self.state.step if self.state is not None else None
        if self.state is None or schedule != self._schedule or (reached is not None and step < reached):
            self.end()
            self.state, self._schedule = AdaSpaState(self.config.resolve(steps)), schedule
        self.state.begin_step(step, branch)
        self._layer = 0

    def attend(self, ordinary: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """ComfyUI's ``optimized_attention_override``: self-attention over many tokens is ours, all else as it was."""
        q, k, v, heads = args[:4]
        mask = args[4] if len(args) > 4 else kwargs.get("mask")
        split = bool(kwargs.get("skip_reshape"))
        tokens = q.shape[2] if split else q.shape[1]
        if self.state is None or mask is not None or q.shape != k.shape or tokens < MIN_TOKENS:
            return ordinary(*args, **kwargs)
        if not split:
            q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = attention(q, k, v, self.state, layer=self._layer)
        self._layer += 1
        return out if kwargs.get("skip_output_reshape") else out.transpose(1, 2).flatten(2)

    def end(self) -> None:
        """Drop the caches."""
        if self.state is not None:
            self.state.drop()
        self.state, self._schedule = None, ()
