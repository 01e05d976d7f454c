#!/usr/bin/env bash
# SGLang 0.5.23: SubBlock for a component (--component-attention-backends transformer=subblock_sparse_attn) is refused.
#
# Each layer of SubBlock makes a dense one beside it, for steps that stay dense, and asks the selector for it. The
# selector writes that down as a second choice of the component's, and at the end of its loading finds a backend that
# nobody asked for. With --attention-backend subblock_sparse_attn nothing is held against what was asked. MiniMax-H3
# makes its layers at the first request, after that check; Wan's and others' are made before.
#
# The server's own selector, layer and backend decide here, on a CPU. Stand-ins: torchvision and sgl_kernel, which are
# not called, and the platform's answer for subblock_sparse_attn, which is that of an H100.
#
# Seen on 2026-11-28:
#   sglang 0.5.23
#   Attention backend 'subblock_sparse_attn' was requested for component 'transformer', but it also selected torch_sdpa
#   without an allowed fallback
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
pip=("$folder/env/bin/pip" install --quiet --disable-pip-version-check)
# Of what the wheel needs, only what these classes import.
"${pip[@]}" \
  addict==2.4.0 aiohttp==3.14.5 apache-tvm-ffi==0.1.15.post2 cache-dit==1.5.3 compressed-tensors==0.20.1 \
  diffusers==0.42.1 dill==0.4.1 einops==0.8.2 gguf==0.19.0 huggingface_hub==2.4.0 imageio==2.38.1 ipython==9.18.1 \
  loguru==0.7.3 modelscope==1.40.2 msgspec==0.22.0 numpy==2.4.6 openai==3.57.0 orjson==3.13.0 \
  partial-json-parser==0.2.1.1.post7 pillow==13.0.0 psutil==7.2.2 pybase64==1.5.1 pydantic==2.14.4 \
  python-dateutil==2.9.0.post0 PyYAML==6.0.4 pyzmq==27.3.0 regex==2026.11.19 requests==2.34.2 safetensors==0.8.0 \
  scipy==1.17.1 sentencepiece==0.2.3 starlette==1.10.0 torch==2.13.0 tqdm==4.70.1 transformers==5.23.0 \
  triton==3.7.1 xgrammar==0.2.9
"${pip[@]}" --no-deps sglang==0.5.23
cat > "$folder/seen.py" <<'PYTHON'
import importlib.abc
import importlib.machinery
import sys
import types
from importlib import metadata
from unittest.mock import MagicMock


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        frame = sys._getframe(1)
        while frame and frame.f_globals["__name__"].startswith(("importlib", "_frozen_importlib")):
            frame = frame.f_back
        stands_in = name.partition(".")[0] in ("sgl_kernel", "torchvision")
        if not stands_in or not frame.f_globals["__name__"].startswith("sglang."):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock() if not name.startswith("__") else missing(name)
        return module

    def exec_module(self, module):
        pass


def missing(name):
    raise AttributeError(name)


sys.meta_path.append(Absent())

from sglang.multimodal_gen.runtime.distributed import parallel_state
from sglang.multimodal_gen.runtime.layers.attention import selector
from sglang.multimodal_gen.runtime.layers.attention.backends import subblock_sparse_attn
from sglang.multimodal_gen.runtime.layers.attention.layer import USPAttention
from sglang.multimodal_gen.runtime.platforms import AttentionBackendEnum, current_platform
from sglang.multimodal_gen.runtime.server_args import server_args

SUBBLOCK = AttentionBackendEnum.SUBBLOCK_SPARSE_ATTN
platform = type(current_platform)
choose = platform.get_attn_backend_cls_str
name = f"{subblock_sparse_attn.__name__}.SubBlockSparseAttentionBackend"
platform.get_attn_backend_cls_str = classmethod(
    lambda _, backend, *others: name if backend is SUBBLOCK else choose(backend, *others)
)
parallel_state.maybe_init_distributed_environment_and_model_parallel(
    1, 1, distributed_init_method=f"file://{sys.argv[1]}/group"
)
server_args.set_global_server_args(
    types.SimpleNamespace(
        attention_backend=None,
        attention_backend_config={},
        kv_gather_degree=1,
        enable_attention_backend_autotune=False,
    )
)
print("sglang", metadata.version("sglang"))
try:
    with selector.component_attn_backend_context_manager(SUBBLOCK, "transformer"):
        USPAttention(40, 128, prefix="blocks.0.attn1")
except selector.ComponentAttentionBackendNotAppliedError as error:
    print(error)
    assert "but it also selected torch_sdpa without an allowed fallback" in str(error)
else:
    raise SystemExit("it is accepted now")
PYTHON
cd "$folder" && SGLANG_DIFFUSION_PLATFORM_OVERRIDE=cpu env/bin/python seen.py "$folder"
