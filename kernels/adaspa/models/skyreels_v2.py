"""SkyReels V2: Wan's blocks; with diffusion forcing each frame has a timestep of its own."""

from typing import Any

import torch
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2AttnProcessor

from adaspa.layout import Layout
from adaspa.models.wan import Rotary, Wan, WanProcessor


class SkyReelsV2Processor(WanProcessor):
    """Processor like Wan's. With a causal mask between blocks of frames, the layer stays dense."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: Rotary | None = None,
    ) -> torch.Tensor:
        """Args: as `WanProcessor`; attention_mask ``[1, 1, S, S]``."""
        if attention_mask is not None:
            out: torch.Tensor = self.original(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
            return out
        return super().__call__(attn, hidden_states, encoder_hidden_states, None, rotary_emb)


class SkyReelsV2(Wan):
    """`SkyReelsV2Transformer3DModel`."""

    processor = SkyReelsV2Processor
    originals = (SkyReelsV2AttnProcessor,)

    def layout(self, transformer: Any, given: dict[str, Any]) -> Layout:
        layout = super().layout(transformer, given)
        masked = transformer.config.num_frame_per_block > 1
        # The model spreads timesteps for each frame over its tokens by itself.
        in_order = masked or given.get("enable_diffusion_forcing", False)
        return layout._replace(grid=None if in_order else layout.grid, masked=masked)
