"""`python -m benchmarks.models.between --output between.json`: how long no step is denoised between two jobs.

Jobs of the demo model, one after the other in one process: from the last step of one until the denoising of the next
begins it is decoded and encoded, and the next one's prompt is encoded; claim and upload are not in it. Four ways in
turns: frames encoded while the VAE decodes, or after it; the prompt of the job before, or one encoded anew.
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adaspa_jobs.catalog import Catalog
from adaspa_worker.encode import encode
from adaspa_worker.pipeline import load
from adaspa_worker.source import resolve
from adaspa_worker.tasks.clip import writer_of
from adaspa_worker.warm_up import default_params

from benchmarks.results import add, ran_on

WAYS = [(False, False), (False, True), (True, False), (True, True)]
"""Encoded while the VAE decodes, and of a prompt that was encoded before."""


def between(engine: Any, params: Any, folder: Path, *, at_once: bool, shared: bool) -> dict[str, float]:
    """Run a job, and end where the next one's denoising would begin: the seconds since its last step."""
    latents = engine.denoise(params, engine.encode_prompt(params, {}), lambda *_: None)
    start = time.perf_counter()
    frames = engine.frames(latents, lambda: None)
    encode(frames if at_once else list(frames), writer_of(folder / "video.mp4", params, engine.attention(params)))
    engine.reset()
    written = time.perf_counter()
    if not shared:
        engine.encodings.clear()
    engine.encode_prompt(params, {})
    return {"decode_and_encode": written - start, "encode_prompt": time.perf_counter() - written}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.between", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="on the CPU")
    asked = parser.parse_args()
    spec = Catalog.load(None).default
    engine: Any = load(spec, resolve(spec.source))
    params = default_params(spec).model_copy(update={"steps": 2})
    result = {**ran_on(quick=asked.quick), "rows": []}
    found: dict[tuple[bool, bool], list[dict[str, float]]] = {way: [] for way in WAYS}
    with TemporaryDirectory() as folder:
        for number in range(asked.rounds + 1):  # the first warms up
            for at_once, shared in WAYS:
                seconds = between(engine, params, Path(folder), at_once=at_once, shared=shared)
                if number:
                    found[at_once, shared].append(seconds)
    first = None
    for (at_once, shared), rounds in found.items():
        row = {part: statistics.median(seconds[part] for seconds in rounds) for part in rounds[0]}
        idle = statistics.median(sum(seconds.values()) for seconds in rounds)
        first = first or idle
        told = {name: round(seconds, 3) for name, seconds in {**row, "idle": idle}.items()}
        ratio = round(idle / first, 3)
        add(result, {"encodes_while_decoding": at_once, "shares_prompt": shared, **told, "ratio": ratio}, asked.output)


if __name__ == "__main__":
    main()
