"""Stand-ins for what vLLM-Omni needs and cannot have without a GPU or beside PyTorch's build for CPUs.

They are its platform, which without a GPU has neither devices nor attention backends, and the package of its Wan
pipelines, which imports `torchvision`: the transformer in that package does not.
"""

import sys
import types
from importlib.util import find_spec

from vllm_omni.diffusion.attention.backends.abstract import AttentionImpl
from vllm_omni.diffusion.attention.backends.registry import DiffusionAttentionBackendEnum
from vllm_omni.platforms.interface import UnspecifiedOmniPlatform

WAN = "vllm_omni.diffusion.models.wan2_2"


def chosen(_, selected_backend, head_size, allow_trtllm_default=False):
    """PyTorch's attention by default, and whatever the registry has by name."""
    return DiffusionAttentionBackendEnum[selected_backend or "TORCH_SDPA"].get_path()


def forward(self, query, key, value, attn_metadata=None):
    """As on a GPU: no backend has another way on a CPU, and this one of PyTorch's attention runs there too."""
    return self.forward_cuda(query, key, value, attn_metadata)


AttentionImpl.forward = forward
UnspecifiedOmniPlatform.get_diffusion_attn_backend_cls = classmethod(chosen)
UnspecifiedOmniPlatform.get_device_count = classmethod(lambda _: 1)
UnspecifiedOmniPlatform.set_device = classmethod(lambda *_: None)
package = types.ModuleType(WAN)
package.__path__ = find_spec(WAN).submodule_search_locations  # by which its modules are found
sys.modules[WAN] = package
