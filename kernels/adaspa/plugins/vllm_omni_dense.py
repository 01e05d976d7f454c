"""Dense attention in the place of AdaSpa, for a vLLM-Omni that it was not tested with."""

from vllm_omni.diffusion.attention.backends.registry import DiffusionAttentionBackendEnum, register_diffusion_backend


def register() -> None:
    """Have who asks for ``RAINFUSION_ATTN`` get PyTorch's attention."""
    dense = DiffusionAttentionBackendEnum.TORCH_SDPA.get_path()
    register_diffusion_backend(DiffusionAttentionBackendEnum.RAINFUSION_ATTN, dense)
