"""AdaSpa as an attention backend of SGLang, in the place of ``rain_fusion_attn``.

A request is what runs within one denoising loop: its state lies in the `Req`, where the server keeps what lives as
long, and goes with the loop's stage, however that ends. The forward context tells the step, and the `Req` the guidance
branch; two experts are told apart by the layers that both have.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sglang.multimodal_gen.runtime.distributed import get_sp_world_size
from sglang.multimodal_gen.runtime.layers.attention.backends.attention_backend import (
    AttentionImpl,
    AttentionMetadata,
    AttentionMetadataBuilder,
)
from sglang.multimodal_gen.runtime.managers.forward_context import DENOISING_LOOP_STATE, get_forward_context_or_none
from sglang.multimodal_gen.runtime.platforms.plugins import HookRegistry, HookType
from sglang.multimodal_gen.runtime.server_args import get_global_server_args
from sglang.multimodal_gen.runtime.utils.logging_utils import init_logger

from adaspa.layout import Layout
from adaspa.plugins import sglang_dense
from adaspa.plugins.served_request import NamedLayer, ServedRequest, request_of
from adaspa.plugins.settings import VARIABLE, ServerSettings, Settings, from_environment, from_fields

logger = init_logger(__name__)

OPTION = "--attention-backend-config"
THEIRS = {"sparsity": 0.8, "skip_first_steps": 0, "skip_first_layers": 0}
"""Words of the server for a sparse backend, with our defaults."""
H3_STATE, H3_SIGMAS, H3_PATCH = "minimax_h3_denoise_state", "minimax_h3_sigmas", (1, 2, 2)
"""Places of the latents' size and the schedule in a `Req` of MiniMax-H3, and frames, rows and columns of a token."""

RUNTIME = "sglang.multimodal_gen.runtime"


def register() -> None:
    """Hook the choice of the backend, the server's settings at its start, and the end of each stage of a request."""
    if not sglang_dense.register(AdaSpaBackend):
        return
    settings = f"{RUNTIME}.server_args.server_args.set_global_server_args"
    HookRegistry.register(settings, _check_settings, HookType.BEFORE)
    stage = f"{RUNTIME}.pipelines_core.stages.base.PipelineStage.__call__"
    HookRegistry.register(stage, _end_with_its_stage, HookType.AROUND)
    logger.info("AdaSpa takes the place of %s", sglang_dense.TAKEN)


def _check_settings(server_args: Any) -> None:
    """Refuse settings that AdaSpa cannot take, when they are set and not at the first request."""
    named = [server_args.attention_backend, *(server_args.component_attention_backends or {}).values()]
    for roles in (server_args.component_attention_backend_roles or {}).values():
        named += roles.values()
    if str(sglang_dense.TAKEN) in {str(name).lower() for name in named}:
        _settings(server_args.attention_backend_config or {})


def _end_with_its_stage(call: Callable[..., Any], stage: Any, batch: Any, *others: Any) -> Any:
    """Run a stage, and drop what its denoising loop kept in the request, also where the server would leave it."""
    began_before = DENOISING_LOOP_STATE in batch.extra
    try:
        return call(stage, batch, *others)
    finally:
        if not began_before:
            batch.extra.pop(DENOISING_LOOP_STATE, None)


class _Loop:
    """Stand-in for a denoising loop in the state that the server keeps for it."""


@dataclass
class VideoMetadata(AttentionMetadata):
    """Metadata from the server's denoising stage, beside its step."""

    grid: tuple[int, ...]
    """Frames, rows and columns of the video's tokens; of fewer dimensions where the latents are no video."""


class VideoMetadataBuilder(AttentionMetadataBuilder):
    """Asked for by the server in each step."""

    def build(
        self, current_timestep: int, raw_latent_shape: Any = (), patch_size: Any = (1, 1, 1), **others: Any
    ) -> VideoMetadata:
        latents = tuple(int(size) for size in raw_latent_shape)[2:]
        grid = tuple(size // part for size, part in zip(latents, patch_size, strict=False))
        return VideoMetadata(current_timestep, grid)


class AdaSpaImpl(sglang_dense.DenseImpl):
    """One attention layer. Calls that AdaSpa cannot serve run by the backend that the server takes by default.

    Raises:
        ValueError: of settings, naming the field and what is allowed.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.settings = _settings(get_global_server_args().attention_backend_config or {})
        self.layer = NamedLayer(self.prefix)

    @torch.compiler.disable
    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_metadata: Any) -> torch.Tensor:
        """Attention over ``[B, S, H, D]``."""
        dense = functools.partial(super().forward, query, key, value, attn_metadata)
        grid = attn_metadata.grid if isinstance(attn_metadata, VideoMetadata) else None
        return self._attend(query, key, value, dense, functools.partial(_behind, self.prefix, grid))

    @torch.compiler.disable
    def forward_varlen(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        cu_seqlens_host: tuple[int, ...] | None = None,
        **packed: Any,
    ) -> torch.Tensor:
        """Attention over ``[S, H, D]``: one sequence, and rows of padding behind it, which come back as zeros."""
        whole = functools.partial(super().forward_varlen, query, key, value, cu_seqlens_host=cu_seqlens_host, **packed)
        bounds, rows = cu_seqlens_host or (), query.shape[0]
        context = get_forward_context_or_none()
        state = context.forward_batch.extra.get(H3_STATE) if context and context.forward_batch else None
        if state is None or len(bounds) not in (2, 3) or (bounds[0], bounds[-1]) != (0, rows):
            return self._attend(query[None], key[None], value[None], lambda: whole()[None], lambda _: _UNKNOWN)[0]
        used = bounds[1]
        latents = (state["latent_t"], state["latent_h"], state["latent_w"])
        grid = tuple(int(size) // part for size, part in zip(latents, H3_PATCH, strict=True))
        q, k, v = (x[None, :used] for x in (query, key, value))
        out = self._attend(q, k, v, lambda: whole()[None, :used], functools.partial(_last, grid))[0]
        return torch.nn.functional.pad(out, (0, 0, 0, 0, 0, rows - used)) if used < rows else out

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        dense: Callable[[], torch.Tensor],
        lay_out: Callable[[int], Layout | str],
    ) -> torch.Tensor:
        """Attention over ``[B, S, H, D]``, or ``dense`` outside of a denoising loop.

        Args:
            lay_out: how this number of rows lies, or why they cannot be served.
        """
        context = get_forward_context_or_none()
        batch = context.forward_batch if context else None
        if context is None or batch is None or "refiner" in self.prefix:  # which has text alone
            return dense()
        request = self._request(batch, context.current_timestep)
        layout = self._cannot(query, key) or lay_out(query.shape[1])
        if isinstance(layout, str):
            request.went_past(layout)
            return dense()
        branch = f"{'negative' if batch.is_cfg_negative else 'positive'}.{self.layer.expert()}"
        site = {"layer": self.layer.index, "step": context.current_timestep, "branch": branch}
        return request.attend(query, key, value, dense, layout=layout, scale=self.scale, **site)

    def _cannot(self, query: torch.Tensor, key: torch.Tensor) -> str | None:
        """Say why this layer runs dense, or None."""
        reasons = {
            "it is causal": self.causal,
            "its name has no index": self.layer.index < 0,
            "queries and keys differ in shape": query.shape != key.shape,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def _request(self, batch: Any, step: int) -> ServedRequest:
        """Find the request of the denoising loop that runs."""
        loop = batch.extra.setdefault(DENOISING_LOOP_STATE, {}).setdefault("adaspa", _Loop())
        return request_of(loop, step, lambda: ServedRequest(self.settings, _steps(batch), self.server, logger.info))


_UNKNOWN = "the server does not say where in the packed sequence the video is"


def _behind(prefix: str, grid: tuple[int, ...] | None, rows: int) -> Layout | str:
    """A sequence of video alone, or in HunyuanVideo with text behind it.

    Where the video does not divide by the processes that share it, the server fills the share of the last with rows
    behind the video, and attends to them as to all others.
    """
    if grid is None or len(grid) != 3:
        return "the server does not say where the video is"
    video = math.prod(grid)
    behind = rows - video
    if behind < 0:
        return "its sequence is not the whole video"
    if behind not in (0, -video % get_sp_world_size()) and not prefix.startswith("Hunyuan."):
        return "the server does not say where the rows that are no video are"
    return Layout(grid=(grid[0], grid[1], grid[2]), behind=behind)


def _last(grid: tuple[int, ...], rows: int) -> Layout | str:
    """A sequence of MiniMax-H3: text, conditions and sound, and then the video."""
    before = rows - math.prod(grid)
    if before < 0:
        return "its sequence is not the whole video"
    return Layout(grid=(grid[0], grid[1], grid[2]), before=before)


def _steps(batch: Any) -> int | None:
    """Count the denoising steps of a request."""
    if H3_SIGMAS in batch.extra:
        return len(batch.extra[H3_SIGMAS]["video"]) - 1
    return batch.num_inference_steps if batch.timesteps is None else len(batch.timesteps)


def _settings(given: dict[str, Any]) -> Settings:
    """Read the settings of a server. Raises ValueError."""
    ours = from_environment()
    if ours is not None and given:
        raise ValueError(f"{VARIABLE} and {OPTION} are both given; allowed: one of them")
    if ours is not None:
        return ours
    if given and not set(given) & {"skip_first_steps", "skip_first_layers"}:
        return from_fields(given, OPTION)
    if unknown := set(given) - set(THEIRS):
        raise ValueError(f"{OPTION}: {min(unknown)} cannot be combined with skip_first_*; allowed: {', '.join(THEIRS)}")
    theirs: dict[str, Any] = {**THEIRS, **given}
    for name in ("skip_first_steps", "skip_first_layers"):
        if type(theirs[name]) is not int or theirs[name] < 0:
            raise ValueError(f"{OPTION}: {name} must be an integer of at least 0, got {theirs[name]!r}")
    layers = tuple(range(theirs["skip_first_layers"]))
    settings = ServerSettings(theirs["sparsity"], theirs["skip_first_steps"], dense_layers=layers)
    try:
        settings.resolve(None)
    except ValueError as error:
        raise ValueError(f"{OPTION}: {error}") from error
    return settings


class AdaSpaBackend(sglang_dense.DenseBackend):
    """Backend that the server finds."""

    @staticmethod
    def get_impl_cls() -> type[AttentionImpl]:
        return AdaSpaImpl

    @staticmethod
    def get_metadata_cls() -> type[AttentionMetadata]:
        return VideoMetadata

    @staticmethod
    def get_builder_cls() -> type[AttentionMetadataBuilder]:
        return VideoMetadataBuilder
