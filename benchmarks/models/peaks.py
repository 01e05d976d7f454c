"""`python -m benchmarks.models.peaks --output peaks.json`: what memory a step takes at most, by its attention.

Models of full size with random weights in bfloat16, not compiled, of which two blocks of each kind run: a dense step by
FlashAttention-3, and AdaSpa's kinds of step in bfloat16 and with all attention in eight bits. To the peak of each, the
weights of the other blocks and their share of AdaSpa's caches are added. The table is the work of `benchmarks.readme`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import diffusers
import torch
from adaspa.ops.call import Precision
from adaspa_worker.engines.linears import blocks_of
from adaspa_worker.engines.weights import by_type

from benchmarks import markdown
from benchmarks.models import command_line
from benchmarks.models.blocks import layers_of
from benchmarks.models.full_models import FullModel
from benchmarks.models.linears import ALL_MODELS, EIGHT, free
from benchmarks.models.steps import WALK, Subject, dense_row, walk_rows
from benchmarks.models.tables import by_model
from benchmarks.results import add, ran_on, write

BLOCKS = 2
DENSITY = 0.2
"""What the searches of `WALK` keep."""
WALKED = 3
"""Of `walk_rows`: a dense step, the first search, a sparse step."""
PRECISIONS: tuple[Precision, ...] = ("full", EIGHT)


def rows(model: FullModel, device: torch.device) -> Iterator[dict[str, Any]]:
    """Peaks of one model, of the whole of it."""
    transformer: Any = model.few_blocks(BLOCKS).build(device, torch.bfloat16)
    subject = Subject(transformer, model.inputs(device, torch.bfloat16))
    whole = model.build(torch.device("meta"), torch.bfloat16)
    others = bytes_of(whole) - bytes_of(transformer)
    share = layers_of(model).total() / len(list(blocks_of(transformer)))
    row = dense_row(subject, "fa3" if device.type == "cuda" else "diffusers")
    yield {"step": "dense", "attention": "fa3", **peak(row, others, share)}
    for precision in PRECISIONS:
        config = replace(WALK, dense_precision=precision, sparse_precision=precision)
        for row in islice(walk_rows(subject, config), WALKED):
            yield {"step": row["step"], "precision": precision, **peak(row, others, share)}
        transformer.adaspa.reset()


def bytes_of(transformer: torch.nn.Module) -> int:
    """Bytes of the weights."""
    return sum(by_type(transformer).values())


def peak(row: dict[str, Any], others: int, share: float) -> dict[str, Any]:
    """Peak and caches of a whole model.

    Args:
        row: peak and caches of a few of its blocks; the peak is None where it is not known.
        others: bytes of the weights of its other blocks.
        share: how many times as many blocks it has.
    """
    caches, of_few = row.get("cache_bytes", 0), row["peak_bytes"]
    known = None if of_few is None else of_few + others + round((share - 1) * caches)
    return {"peak_bytes": known, "cache_bytes": round(share * caches)}


def table(found: Sequence[dict[str, Any]]) -> str:
    """Peaks in GiB, of AdaSpa the highest of its steps, and how much more than dense that is."""
    lines = markdown.head(["model", "dense, FlashAttention-3, GiB", "AdaSpa in bf16", "in eight bits", "caches, GB"])
    for model, own in by_model(list(found)).items():
        dense = next(row["peak_bytes"] for row in own if row["step"] == "dense")
        cells = [f"{dense / 2**30:.1f}"]
        for precision in PRECISIONS:
            most = max(row["peak_bytes"] for row in own if row.get("precision") == precision)
            cells.append(f"{most / 2**30:.1f} ({100 * (most / dense - 1):+.1f} %)")
        caches = max(row["cache_bytes"] for row in own)
        lines.append(markdown.line([model, *cells, f"{caches / 1e9:.2f}"]))
    return "\n".join(lines)


def main() -> None:
    parser = command_line.parser("peaks", __doc__)
    parser.add_argument("--models", nargs="+", choices=list(ALL_MODELS), default=list(ALL_MODELS))
    arguments, device = command_line.read(parser)
    result: dict[str, Any] = {**ran_on(quick=arguments.quick), "diffusers": diffusers.__version__}
    result |= {"density": DENSITY, "blocks": BLOCKS, "quick": arguments.quick, "complete": False, "rows": []}
    with torch.no_grad():
        for name in arguments.models:
            model = ALL_MODELS[name].quick() if arguments.quick else ALL_MODELS[name]
            for row in rows(model, device):
                add(result, {"model": name} | row, arguments.output)
            free()
    write(result | {"complete": True}, arguments.output)


if __name__ == "__main__":
    main()
