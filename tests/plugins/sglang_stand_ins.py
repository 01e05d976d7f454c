"""Stand-ins for what SGLang needs and cannot have without a GPU or beside PyTorch's build for CPUs.

They are `torchvision`, which nothing that is run here calls, and `sgl_kernel`, whose wheels are for CUDA. Of the latter
the server's transformers call two kernels on a CPU, norms with scale and shift, which are PyTorch's here. Without its
exchange in shared memory, Ulysses runs over gloo.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import types
from unittest.mock import MagicMock

import torch
from torch.nn.functional import layer_norm, rms_norm

OURS = "rain_fusion_attn"


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of the two stand-ins, for the server alone: other libraries ask whether they are there."""

    NAMES = ("sgl_kernel", "torchvision")

    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] not in self.NAMES or not self._asker().startswith("sglang."):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    @staticmethod
    def _asker():
        frame = sys._getframe(2)
        while frame and frame.f_globals["__name__"].startswith(("importlib", "_frozen_importlib")):
            frame = frame.f_back
        return frame.f_globals["__name__"]

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock() if not name.startswith("__") else _missing(name)
        return module

    def exec_module(self, module):
        pass


def _missing(name):
    raise AttributeError(name)


KERNELS = torch.library.Library("sgl_kernel", "DEF")


def kernel(schema):
    """Give PyTorch a kernel of `sgl_kernel`, made of a function that bears its name."""

    def define(function):
        KERNELS.define(function.__name__ + schema)
        KERNELS.impl(function.__name__, function, "CompositeExplicitAutograd")
        return function

    return define


@kernel("(Tensor x, Tensor? weight, Tensor? bias, Tensor scale, Tensor shift, str kind, float eps) -> Tensor")
def fused_norm_scale_shift_cpu(x, weight, bias, *others):
    scale, shift, kind, eps = others
    size = x.shape[-1:]
    normal = layer_norm(x, size, weight, bias, eps) if kind == "layer" else rms_norm(x, size, weight, eps)
    return (normal * (1 + scale) + shift).to(x.dtype)


@kernel(
    "(Tensor residual, Tensor x, Tensor? gate, Tensor? weight, Tensor? bias, Tensor scale, Tensor shift,"
    " str kind, float eps) -> (Tensor, Tensor)"
)
def fused_scale_residual_norm_scale_shift_cpu(residual, x, gate, *others):
    added = (residual + (x if gate is None else x * gate)).to(x.dtype)
    return fused_norm_scale_shift_cpu(added, *others), added


sys.meta_path.append(Absent())
os.environ["SGLANG_DIFFUSION_PLATFORM_OVERRIDE"] = "cpu"

from sglang.multimodal_gen.runtime.server_args import server_args as server_args_module  # noqa: E402 - found so


def serve(backend=OURS, roles=None, **config):
    """Set the arguments of a server, as it does at its start."""
    dit = types.SimpleNamespace(patch_size=(1, 2, 2), prefix="Wan")
    made = types.SimpleNamespace(
        attention_backend=backend,
        attention_backend_config=config,
        component_attention_backends={},
        component_attention_backend_roles=roles or {},
        kv_gather_degree=1,
        enable_attention_backend_autotune=False,
        is_arg_explicitly_set=lambda name: True,
        pipeline_config=types.SimpleNamespace(dit_config=dit),
        comfyui_mode=False,
        enable_layerwise_nvtx_marker=False,
    )
    server_args_module.set_global_server_args(made)
    return made
