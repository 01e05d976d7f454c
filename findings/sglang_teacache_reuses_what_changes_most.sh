#!/usr/bin/env bash
# SGLang 0.5.23: TeaCache for Wan does not compute the steps that change most, nor any after them.
#
# The change from step to step goes through a polynomial, fitted to runs of 50 steps, and is added up until it reaches a
# threshold. Outside of what it was fitted to, the polynomial falls far below zero, and the sum takes that as it is: for
# Wan 1.3B a change of 12 % counts as -0.9 and one of 20 % as -28, with a threshold of 0.08. For Wan 14B it is small
# changes, one of 5 % is -4.1 with a threshold of 0.2. vLLM-Omni adds up absolute values.
#
# The server's own class and settings decide here how many steps are computed, of 50 that change by the same share each.
# Then, in one run, a single step changes otherwise. What trained weights make of it in a run of fewer steps, which
# change more each, was not seen. Stand-ins: torchvision and sgl_kernel, which are not called.
#
# Seen on 2026-11-29:
#   sglang 0.5.23
#   1.3B: 27 at 1%, 50 at 3%, 50 at 8%, 27 at 10%, 5 at 12%, 5 at 20%, 5 at 50%
#   1.3B, 5% and 20% in step 20: the last computed is 19
#   14B: 2 at 1%, 2 at 5%, 2 at 10%, 26 at 15%, 50 at 25%, 2 at 50%
#   14B, 25% and 50% in step 20: the last computed are 19 and 49
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

import torch
from sglang.multimodal_gen.configs.sample.wan import WanT2V_1_3B_SamplingParams, WanT2V_14B_SamplingParams
from sglang.multimodal_gen.runtime.cache.teacache import TeaCacheMixin

STEPS = 50


class Wan(TeaCacheMixin):
    prefix = "Wan"


def computed(settings, changes):
    """Steps that are computed, if each changes what came before by its share."""
    model = Wan()
    model._init_teacache_state()
    first, end = settings.get_skip_step_range(STEPS)
    steps, modulated = [], torch.ones(8, dtype=torch.float64)
    for step, change in enumerate(changes):
        modulated = modulated * (1 + change)
        if model._compute_teacache_decision(
            modulated, not first <= step < end, settings.get_coefficients(), settings.teacache_thresh
        ):
            steps.append(step)
    return steps


print("sglang", metadata.version("sglang"))
small, large = WanT2V_1_3B_SamplingParams().teacache_params, WanT2V_14B_SamplingParams().teacache_params
for name, settings, expected in (
    ("1.3B", small, {1: 27, 3: 50, 8: 50, 10: 27, 12: 5, 20: 5, 50: 5}),
    ("14B", large, {1: 2, 5: 2, 10: 2, 15: 26, 25: 50, 50: 2}),
):
    found = {percent: len(computed(settings, [percent / 100] * STEPS)) for percent in expected}
    print(f"{name}: {', '.join(f'{steps} at {percent}%' for percent, steps in found.items())}")
    assert found == expected
once = computed(small, [0.05] * 20 + [0.2] + [0.05] * 29)
print("1.3B, 5% and 20% in step 20: the last computed is", once[-1])
assert once == list(range(20))
once = computed(large, [0.25] * 20 + [0.5] + [0.25] * 29)
print("14B, 25% and 50% in step 20: the last computed are", once[-2], "and", once[-1])
assert once == [*range(20), 49]
PYTHON
cd "$folder" && SGLANG_DIFFUSION_PLATFORM_OVERRIDE=cpu env/bin/python seen.py
