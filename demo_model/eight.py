"""How close the demo model's videos stay with attention in eight bits.

    python -m demo_model.eight --output videos-eight.json

Each setting makes the videos of the same held-out captions from the same noise: in bfloat16, with sparse attention in
eight bits, and with sparse and dense attention in eight bits. Eight bits attend to the blocks that bfloat16 chose,
search by search, and in the end to those that searches in eight bits choose. Each is compared with the dense video in
bfloat16, and those in eight bits with their own setting's in bfloat16.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from adaspa import BlockIndex
from adaspa.cache import CacheEntry
from adaspa.ops.call import Precision
from torch import Tensor

from benchmarks.results import add, write
from demo_model.evaluation import share_right
from demo_model.fidelity import distances, judge, readers, run
from demo_model.linears import asked, begun, pipeline
from demo_model.scenes import sample_scenes
from demo_model.variants import variants

SETTINGS = {
    "fast": "preset fast",
    "balanced": "preset balanced",
    "30 dB": "price 2.2, warm-up 3 at mass 0.95, blocks of 128 x 64, shared lists",
    "40 dB": "price 0.8, warm-up 3, blocks of 128 x 64, shared lists",
}
"""Rows of fidelity.json: presets, and those in query blocks of 128 by the PSNR that they had there."""
KINDS: dict[str, dict[str, Precision]] = {
    "sparse": {"sparse_precision": "int8_fp8"},
    "sparse and dense": {"sparse_precision": "int8_fp8", "dense_precision": "int8_fp8"},
    "searches, too": {"sparse_precision": "int8_fp8", "dense_precision": "int8_fp8"},
}
OWN_LISTS = "searches, too"
CORE = import_module("adaspa.attention")  # the package has a function of this name

Select = Callable[..., BlockIndex]


@contextmanager
def kept(lists: list[BlockIndex]) -> Iterator[None]:
    """Note the lists of each search."""
    select: Select = CORE._select

    def noting(*args: Any, **options: Any) -> BlockIndex:
        lists.append(select(*args, **options))
        return lists[-1]

    with patch.object(CORE, "_select", noting):
        yield


@contextmanager
def given(lists: list[BlockIndex]) -> Iterator[None]:
    """Have each search end with the lists noted for it, whatever it finds itself."""
    select: Select = CORE._select
    left = iter(lists)

    def replaying(q: Tensor, k: Tensor, mass: Tensor, lse: Tensor, site: Any, **options: Any) -> BlockIndex:
        select(q, k, mass, lse, site, **options)
        index = next(left)
        site.state.cache.put(site.key, CacheEntry(lse=lse if site.state.keeps_lse else None, index=index))
        return index

    with patch.object(CORE, "_select", replaying):
        yield
    assert next(left, None) is None, "as many searches as in bfloat16"


def main() -> None:
    args = asked(__doc__, SETTINGS, batch=8)
    device = torch.device(args.device)
    scenes = sample_scenes(random.Random(f"evaluation {args.seed}"), args.captions, held_out=True)
    result = begun(args)
    pipe = pipeline("bfloat16", device)
    dense = run(pipe, None, scenes, args)[0]
    with readers(device) as pool:
        for name in args.settings:
            # Of the grid, no recall is measured.
            variant, lists = replace(variants()[SETTINGS[name]], groups=("grid",)), list[BlockIndex]()

            def told(kind: str, videos: Tensor, own: Tensor | None = None, **row: Any) -> None:
                right = share_right(list(pool.map(judge, videos.numpy(), scenes)))
                row |= {"setting": name, "eight_bits": kind, "right": right["all_attributes"]}  # noqa: B023 - of now
                row["to_dense"] = distances(videos.to(device), dense.to(device), None)
                if own is not None:
                    row["to_own"] = distances(videos.to(device), own.to(device), None)
                add(result, row, args.output)

            with kept(lists):
                own, figures = run(pipe, variant, scenes, args)
            told("none", own, variant=variant.name, density=figures["density"])
            for kind, precisions in KINDS.items():
                changed = replace(variant, config=variant.config.replace(**precisions))
                with nullcontext() if kind == OWN_LISTS else given(lists):
                    told(kind, run(pipe, changed, scenes, args)[0], own)
    result["complete"] = True
    write(result, args.output)


if __name__ == "__main__":
    main()
