"""`python -m benchmarks.models.loading --output loading.json`: host memory that a worker takes while it loads a model.

Some blocks of Wan 2.1 1.3B and a layer of its text encoder, with random weights in files of bfloat16 or float32, are
loaded by the worker's own engine in bfloat16, each time by a process of its own. Rows: the bytes of the files, of the
weights once loaded, and of the process's memory above that of its imports. Of that: private memory at most and
afterwards, what is left of it when the weights are gone, as they are to a GPU, and pages of mapped files, which the
kernel can drop at any time.
"""

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from adaspa_jobs.catalog import Memory, ModelSpec
from adaspa_worker.engines.weights import by_type
from adaspa_worker.pipeline import load
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from benchmarks.models.full_models import MODELS
from benchmarks.results import add, ran_on

MODEL, BLOCKS = "wan2.1-1.3b-480p-81f", 6
KEPT: dict[str, dict[str, Any]] = {
    "as they are": {},
    "int8": {"quantization": "int8"},
    "float8_e4m3fn": {"storage_dtype": "float8_e4m3fn"},
    "gguf": {"gguf": ["transformer.gguf"]},
}
"""Fields of ``memory`` beside the type, by their short names."""
ENCODER = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 1, "num_heads": 64, "vocab_size": 2048}
FILES = (torch.bfloat16, torch.float32)
"""Types of the files' weights."""
SHARD = "1GB"
SAMPLE_SECONDS = 0.002
ROOM = ("RssAnon", "RssFile")
Row = dict[str, Any]


def write_model(folder: Path, dtype: torch.dtype) -> Path:
    """Write a pipeline whose transformer and text encoder have weights of a type."""
    model = MODELS[MODEL].few_blocks(BLOCKS)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        encoder = UMT5EncoderModel(UMT5Config(**ENCODER))
        transformer = WanTransformer3DModel(**model.config)
    finally:
        torch.set_default_dtype(usual)
    WanPipeline(
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))),
        text_encoder=encoder.to(dtype),
        vae=AutoencoderKLWan(base_dim=4, num_res_blocks=1),
        transformer=transformer.to(dtype),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    ).save_pretrained(folder, max_shard_size=SHARD)
    return folder


def write_gguf(folder: Path) -> None:
    """Write the transformer's matrices in Q8_0, too, but for those that diffusers keeps in float32."""
    import gguf  # noqa: PLC0415  optional

    writer = gguf.GGUFWriter(folder / "transformer.gguf", "wan")
    transformer = WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.bfloat16)
    precise = set(transformer._keep_in_fp32_modules or ())
    for name, weight in transformer.state_dict().items():
        packed = weight.ndim == 2 and precise.isdisjoint(name.split("."))
        kind = gguf.GGMLQuantizationType.Q8_0 if packed else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(weight.float().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def entry(folder: Path, memory: dict[str, Any]) -> ModelSpec:
    """The catalog entry of a model's folder."""
    given = {
        name: [str(folder / file) for file in value] if name == "gguf" else value for name, value in memory.items()
    }
    return ModelSpec(
        id=MODEL,
        source=str(folder),
        description="Random weights",
        sizes=["832x480"],
        frames=[81],
        default_frames=81,
        fps=16,
        fps_range=(16, 16),
        steps_range=(4, 50),
        default_steps=50,
        guidance_range=(5, 5),
        default_guidance=5,
        attention={"sparsity": 0.8},
        memory=Memory.model_validate({"dtype": "bfloat16", **given}),
    )


def loads(folder: Path, memory: dict[str, Any]) -> None:
    """Load a model once it is asked to, and tell what its weights are."""
    spec = entry(folder, memory)
    print("ready", flush=True)
    sys.stdin.readline()
    engine: Any = load(spec, folder)
    parts = [part for part in engine.pipe.components.values() if isinstance(part, torch.nn.Module)]
    print(sum(size for part in parts for size in by_type(part).values()), flush=True)
    sys.stdin.readline()
    del engine, parts
    gc.collect()
    print("gone", flush=True)
    sys.stdin.readline()


def room(pid: int) -> dict[str, int]:
    """Bytes of a process that are in memory, private ones and those of files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {line.partition(":")[0]: line for line in lines}
    return {name: 1024 * int(found[name].split()[1]) for name in ROOM}


def measured(folder: Path, memory: dict[str, Any]) -> Row:
    """What a process takes that loads a model."""
    command = [sys.executable, "-m", "benchmarks.models.loading", "--load", str(folder), json.dumps(memory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        before = room(process.pid)
        os.set_blocking(process.stdout.fileno(), False)
        process.stdin.write("go\n")
        process.stdin.flush()
        peak, told = dict(before), ""
        while not told and process.poll() is None:
            now = room(process.pid)
            peak = {name: max(size, now[name]) for name, size in peak.items()}
            told = process.stdout.readline()
            time.sleep(SAMPLE_SECONDS)
        after = room(process.pid)
        os.set_blocking(process.stdout.fileno(), True)
        process.stdin.write("go\n")
        process.stdin.flush()
        process.stdout.readline()
        gone = room(process.pid)
        process.stdin.close()
    return {
        "loaded_bytes": int(told),
        "peak_bytes": peak["RssAnon"] - before["RssAnon"],
        "held_bytes": after["RssAnon"] - before["RssAnon"],
        "gone_bytes": gone["RssAnon"] - before["RssAnon"],
        "mapped_bytes": peak["RssFile"] - before["RssFile"],
    }


def rows(folder: Path) -> Iterator[Row]:
    for dtype in FILES:
        name = str(dtype).removeprefix("torch.")
        model = write_model(folder / name, dtype)
        files = sum(file.stat().st_size for file in model.rglob("*.safetensors"))
        write_gguf(model)
        for kept, memory in KEPT.items():
            yield {"files": name, "files_bytes": files, "kept": kept, **measured(model, memory)}
        shutil.rmtree(model)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.loading", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="the JSON file, written after every row")
    parser.add_argument("--load", nargs=2, metavar=("FOLDER", "MEMORY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        loads(Path(arguments.load[0]), json.loads(arguments.load[1]))
        return
    result = {**ran_on(quick=True), "model": MODEL, "blocks": BLOCKS, "rows": []}
    with TemporaryDirectory(prefix="loading-") as name:
        for row in rows(Path(name)):
            add(result, row, arguments.output)


if __name__ == "__main__":
    main()
