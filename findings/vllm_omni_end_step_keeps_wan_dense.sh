#!/usr/bin/env bash
# vLLM-Omni 0.30.0: one dense step at the end (block_sparse.end_step: 1) makes every step of Wan dense, without a word.
#
# RAINFUSION_ATTN needs the number of steps to know which ones are the last. MiniMax-H3's loop tells it; the pipelines
# of Wan call record_denoise_step(step_idx, t) and leave it out. Where it is missing the backend stays dense, and logs
# nothing. The server's own classes decide here, in 20 steps of a Wan clip of 8,192 tokens; "s" is a sparse step.
#
# Seen on 2026-11-28:
#   end_step 0: .....sssssssssssssss
#   end_step 1: ....................
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
pip=("$folder/env/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" \
  accelerate==1.12.0 aenum==3.1.17 aiohttp==3.14.5 blake3==1.0.11 cachetools==8.0.2 cbor2==6.3.0 \
  cloudpickle==3.1.3 diffusers==0.40.0 einops==0.8.2 fastapi==0.136.3 httpx==0.28.1 huggingface_hub==1.33.0 \
  ijson==3.6.0 jsonschema==4.26.0 llguidance==1.9.1 loguru==0.7.3 msgspec==0.22.0 numpy==2.4.6 omegaconf==2.4.0 \
  openai==3.57.0 openai-harmony==0.0.8 opentelemetry-sdk==1.45.2 partial-json-parser==0.2.1.1.post7 \
  pillow==13.0.0 prettytable==3.18.0 prometheus_client==0.26.0 protobuf==7.36.2 psutil==7.2.2 py-cpuinfo==9.0.0 \
  pybase64==1.5.1 pydantic==2.14.4 python-json-logger==4.2.0 PyYAML==6.0.4 pyzmq==27.3.0 regex==2026.11.19 \
  safetensors==0.8.0 setproctitle==1.3.8 tiktoken==0.14.0 tokenizers==0.22.2 torch==2.13.0 transformers==5.14.1 \
  uvloop==0.23.0 xgrammar==0.2.9 \
  packaging==26.4
# Of what the two wheels need, only what these classes import.
"${pip[@]}" --no-deps vllm==0.30.0 vllm-omni==0.30.0
cat > "$folder/seen.py" <<'PYTHON'
import re
from pathlib import Path

import torch
import vllm_omni
from vllm_omni.diffusion.attention.backends.abstract import AttentionMetadata, VideoTokenLayout
from vllm_omni.diffusion.attention.backends.rainfusion_attn import RainFusionAttentionImpl
from vllm_omni.diffusion.data import AttentionSpec
from vllm_omni.diffusion.forward_context import DenoiseProgressMixin, set_forward_context

models = Path(vllm_omni.__file__).parent / "diffusion/models/wan2_2"
for name in ("pipeline_wan2_2", "pipeline_wan2_2_i2v", "pipeline_wan2_2_vace"):
    calls = re.findall(r"record_denoise_step\(.*?\)", (models / f"{name}.py").read_text())
    assert calls == ["record_denoise_step(step_idx, t)"], (name, calls)


class Pipeline(DenoiseProgressMixin):
    scheduler = None


clip = AttentionMetadata(video_layout=VideoTokenLayout(prefix_len=0, latent_grid=(8, 32, 32), used_len=8192))
for end_step, expected in ((0, "." * 5 + "s" * 15), (1, "." * 20)):
    spec = AttentionSpec("RAINFUSION_ATTN", block_sparse={"sparsity": 0.8, "start_step": 5, "end_step": end_step})
    layer = RainFusionAttentionImpl(
        4, 128, 128**-0.5, prefix="blocks.0.attn1", qkv_layout="BSND", backend_kwargs=spec.backend_kwargs()
    )
    kinds = ""
    with set_forward_context():
        for step in range(20):
            Pipeline().record_denoise_step(step, torch.tensor(1000 - 50 * step))
            kinds += "." if layer._resolve_plan(clip) is None else "s"
    print(f"end_step {end_step}: {kinds}")
    assert kinds == expected, kinds
PYTHON
cd "$folder" && VLLM_LOGGING_LEVEL=ERROR env/bin/python seen.py
