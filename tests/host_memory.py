"""`python host_memory.py CATALOG`: bytes that this process takes beside mapped files while it loads a model, and keeps.

The catalog's first model is loaded before, with all that has to be imported; the second one is looked at.
"""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import torch
from adaspa_jobs.catalog import Catalog
from adaspa_worker.pipeline import load
from diffusers import WanTransformer3DModel
from tiny_gguf import write
from tiny_wan import model_spec, write_catalog


class Taken(NamedTuple):
    """Host memory in units of a model's weights in float32: at most while it loads, and afterwards; on which device."""

    most: float
    kept: float
    device: str


def taken(tiny_pipeline: Path, scratch: Path, memory: dict[str, Any]) -> Taken:
    """What a process takes to load a wider model, of files in bfloat16, in float32 unless ``memory`` says more.

    ``transformer.gguf`` has the transformer's weights, too.
    """
    folder = shutil.copytree(tiny_pipeline, scratch / "model")
    config = WanTransformer3DModel.load_config(folder / "transformer")
    wide = {"num_attention_heads": 8, "attention_head_dim": 64, "ffn_dim": 2048, "num_layers": 4}
    transformer = WanTransformer3DModel.from_config({**config, **wide}).to(torch.bfloat16)
    shutil.rmtree(folder / "transformer")
    transformer.save_pretrained(folder / "transformer", max_shard_size="10MB")
    write(scratch / "transformer.gguf", transformer)
    weights = 4 * sum(parameter.numel() for parameter in transformer.parameters())
    imports = {name: value for name, value in memory.items() if name != "gguf"}  # of what the first model needs, too
    specs = (
        model_spec(tiny_pipeline, id="first", memory=imports),
        model_spec(folder, memory={"dtype": "float32", **memory}),
    )
    catalog = write_catalog(scratch / "catalog.json", *specs)
    ran = subprocess.run([sys.executable, __file__, catalog], cwd=scratch, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    return Taken(found["most"] / weights, found["kept"] / weights, found["device"])


def held() -> int:
    """Bytes of memory that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def main() -> None:
    first, second = Catalog.load(Path(sys.argv[1])).models.values()
    load(first, Path(first.source))
    before, seen, loaded = held(), [0], threading.Event()

    def look() -> None:
        while not loaded.wait(0.002):
            seen.append(held())

    looker = threading.Thread(target=look)
    looker.start()
    try:
        engine = load(second, Path(second.source))
    finally:
        loaded.set()
        looker.join()
    kept = held()
    print(json.dumps({"most": max(*seen, kept) - before, "kept": kept - before, "device": str(engine.device)}))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
