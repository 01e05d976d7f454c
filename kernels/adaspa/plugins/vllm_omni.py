"""AdaSpa as an attention backend of vLLM-Omni, in the place of ``RAINFUSION_ATTN``.

A request is what runs within one `ForwardContext`: its state hangs on that object and goes with it, however the
request ends. The context tells step and number of steps; guidance branches are told apart by counting the calls of a
layer within a step, and two experts by the layers that both have.
"""

import functools
import inspect
import math
from dataclasses import replace
from typing import Any

import torch
from vllm.logger import init_logger
from vllm_omni.diffusion.attention.backends.abstract import AttentionBackend, AttentionImpl, AttentionMetadata
from vllm_omni.diffusion.attention.backends.registry import DiffusionAttentionBackendEnum, register_diffusion_backend
from vllm_omni.diffusion.attention.selector import get_attn_backend_for_role
from vllm_omni.diffusion.forward_context import (
    DenoiseProgressMixin,
    ForwardContext,
    get_forward_context,
    is_forward_context_available,
)

from adaspa.layout import Layout
from adaspa.plugins.served_request import NamedLayer, ServedRequest, request_of
from adaspa.plugins.settings import VARIABLE, ServerSettings, Settings, from_environment

logger = init_logger("vllm.adaspa")  # below the one logger that the server sets up: others it does not show

DEFAULTS: dict[str, Any] = {"sparsity": 0.8, "start_step": 0, "end_step": 0, "precision": "bf16", "skip_layers": ()}
"""Fields that the server has under ``block_sparse``."""


def register() -> None:
    """Put the backend into the registry, and have pipelines tell the number of their steps."""
    name = f"{__name__}.{AdaSpaBackend.__qualname__}"
    register_diffusion_backend(DiffusionAttentionBackendEnum.RAINFUSION_ATTN, name)
    DenoiseProgressMixin.record_denoise_step = _with_all_steps(DenoiseProgressMixin.record_denoise_step)
    logger.info("AdaSpa takes the place of RAINFUSION_ATTN")


def _with_all_steps(record: Any) -> Any:
    """``record_denoise_step`` that takes the number of steps from the scheduler where the pipeline leaves it out."""
    signature = inspect.signature(record)

    @functools.wraps(record)
    def record_denoise_step(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs)
        scheduler = given.arguments.get("scheduler") or getattr(self, "scheduler", None)
        timesteps = getattr(scheduler, "timesteps", None)
        if given.arguments.get("total_steps") is None and timesteps is not None:
            given.arguments["total_steps"] = len(timesteps)
        record(*given.args, **given.kwargs)

    return record_denoise_step


class AdaSpaImpl(AttentionImpl):
    """One attention layer. Calls that AdaSpa cannot serve run by the backend that the server takes by default.

    Args:
        backend_kwargs: the server's ``block_sparse`` fields; `ADASPA_CONFIG` of the environment goes without them.

    Raises:
        ValueError: naming the field and what is allowed.
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        softmax_scale: float,
        causal: bool = False,
        num_kv_heads: int | None = None,
        prefix: str = "",
        qkv_layout: str | None = None,
        backend_kwargs: dict[str, Any] | None = None,
        role: str = "self",
        **others: Any,
    ) -> None:
        self.scale = softmax_scale
        self.settings = _settings(backend_kwargs or {})
        self.layer = NamedLayer(prefix)
        self.causal = causal
        default, _ = get_attn_backend_for_role(role, head_size)
        self.server = f"vllm-omni: {default.get_name()}"
        self.dense = default.get_impl_cls()(
            num_heads=num_heads,
            head_size=head_size,
            softmax_scale=softmax_scale,
            causal=causal,
            num_kv_heads=num_kv_heads,
            prefix=prefix,
            qkv_layout=qkv_layout,
            role=role,
            **others,
        )

    @torch.compiler.disable
    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_metadata: AttentionMetadata | None = None,
    ) -> torch.Tensor:
        """Attention over ``[B, S, H, D]``; rows of padding behind the sequence come back as they are."""
        given = attn_metadata or AttentionMetadata()
        used = _used(given, query.shape[1])
        if used == query.shape[1]:
            return self._attend(query, key, value, given)
        padding = query[:, used:]
        query, key, value = (x[:, :used] for x in (query, key, value))
        return torch.cat((self._attend(query, key, value, replace(given, attn_mask=None)), padding), dim=1)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, given: AttentionMetadata
    ) -> torch.Tensor:
        """Attention over the rows in use."""
        dense = functools.partial(self.dense.forward, query, key, value, given)
        step = get_forward_context().denoise_step_idx if is_forward_context_available() else None
        if given.video_layout is None or step is None:  # no self-attention of a video, or none of its denoising
            return dense()
        request = self._request(get_forward_context(), step)
        layout = _lay_out(given, query.shape, key.shape)
        if not isinstance(layout, str):
            layout = self._cannot(get_forward_context()) or layout
        if isinstance(layout, str):  # why there is none
            request.went_past(layout)
            return dense()
        site = {"layer": self.layer.index, "step": step, "branch": str(self.layer.expert())}
        return request.attend(query, key, value, dense, layout=layout, scale=self.scale, **site)

    def _cannot(self, context: ForwardContext) -> str | None:
        """Say why this layer runs dense, or None."""
        config = context.omni_diffusion_config
        if self.causal:
            return "it is causal"
        if self.layer.index < 0:
            return "its name has no index"
        if getattr(config, "cache_backend", None) not in (None, "", "none"):
            return "a step cache skips calls, after which guidance branches cannot be told apart"
        return None

    def _request(self, context: ForwardContext, step: int) -> ServedRequest:
        """Find the request of a context, with which it goes."""
        total, log = context.total_denoise_steps, logger.info
        return request_of(context, step, lambda: ServedRequest(self.settings, total, self.server, log))


def _used(given: AttentionMetadata, tokens: int) -> int:
    """Count the rows before the padding, if a number tells it and not a mask that only the server knows."""
    layout = given.video_layout
    if layout is not None and layout.used_len is not None:
        used = layout.used_len
    elif given.attn_mask is None and given.full_attn_spans is None:
        used = given.extra.get("valid_kv_length", tokens)
    else:
        used = tokens
    return min(int(used), tokens)


def _lay_out(given: AttentionMetadata, queries: torch.Size, keys: torch.Size) -> Layout | str:
    """Lay out the rows in use, or say why they cannot be served."""
    layout = given.video_layout
    assert layout is not None, "calls without a video went past"
    start, grid = layout.prefix_len, layout.latent_grid
    if layout.video_spans:
        video = next((span for span in reversed(layout.video_spans) if span.role == "target"), None)
        start, grid = (None, None) if video is None else (video.start, video.latent_grid)
    if start is None or grid is None:
        return "the server does not say where the video is"
    behind = queries[1] - start - math.prod(grid)
    reasons = {
        "queries and keys differ in shape": len(queries) != 4 or keys != queries,
        "the video does not fit the sequence": behind < 0,
        "the sequence holds several requests": given.extra.get("max_seqlen_q", queries[1]) != queries[1],
        "it has a mask between its rows": given.attn_mask is not None or given.full_attn_spans is not None,
        "its keys and values are to be quantised": given.extra.get("kv_cache_dtype") not in (None, "float"),
    }
    why = next((reason for reason, holds in reasons.items() if holds), None)
    return why or Layout(grid=(grid[0], grid[1], grid[2]), before=start, behind=behind)


def _settings(given: dict[str, Any]) -> Settings:
    """Read the settings of a layer. Raises ValueError."""
    ours, theirs = from_environment(), {name: given.get(name, default) for name, default in DEFAULTS.items()}
    if ours is not None:
        if own := [name for name, default in DEFAULTS.items() if theirs[name] != default]:
            raise ValueError(f"{VARIABLE} and block_sparse.{own[0]} are both given; allowed: one of them")
        return ours
    if theirs["precision"] != DEFAULTS["precision"]:
        raise ValueError(f"block_sparse.precision must be bf16 with AdaSpa, got {theirs['precision']!r}")
    layers = tuple(theirs["skip_layers"])
    settings = ServerSettings(theirs["sparsity"], theirs["start_step"], theirs["end_step"], layers)
    try:
        settings.resolve(None)  # the server takes a sparsity of 1, with which nothing would be left
    except ValueError as error:
        raise ValueError(f"block_sparse.{error}") from error
    return settings


class AdaSpaBackend(AttentionBackend):
    """Backend that the registry holds."""

    accept_output_buffer = True
    supports_prefix_kv_slicing = True
    """Padding behind the rows in use is cut off here, so that models leave out its mask."""

    @classmethod
    def supports_attention_mask(cls, attention_spec: object | None = None) -> bool:
        """Return whether the default backend takes a mask: it serves all calls that have one."""
        default, _ = get_attn_backend_for_role("self", 128)
        return default.supports_attention_mask(None)

    @staticmethod
    def get_name() -> str:
        return "RAINFUSION_ATTN"

    @staticmethod
    def get_impl_cls() -> type[AttentionImpl]:
        return AdaSpaImpl

    @staticmethod
    def get_metadata_cls() -> type[AttentionMetadata]:
        return AttentionMetadata

    @staticmethod
    def get_builder_cls() -> None:
        return None

    @staticmethod
    def get_supported_head_sizes() -> list[int]:
        return []
