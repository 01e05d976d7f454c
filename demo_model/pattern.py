"""Record which blocks the demo model's heads keep, for the benchmark of the kernels to have a real pattern too.

    python -m demo_model.pattern

The last search of one clip at retained mass 0.9, a picture of zeros and ones for each of the 40 heads.
"""

import json

import adaspa
import torch
from adaspa_demo_model import PIPELINE_FOLDER
from diffusers import WanPipeline

from benchmarks.attention.inputs import DEMO_PATTERN
from demo_model.evaluation import generate

PROMPT, SEED, STEPS, GUIDANCE = (
    "a large red circle moves left and a blue star rotates on a white background",
    0,
    24,
    4.0,
)
MASS = 0.9
CONFIG = adaspa.AdaSpaConfig(selection="retained_mass", mass=MASS, record_maps=True)


def main() -> None:
    pipe = WanPipeline.from_pretrained(PIPELINE_FOLDER, dtype=torch.float32, local_files_only=True)
    handle = adaspa.apply(pipe.transformer, CONFIG)
    generate(pipe, [PROMPT], [SEED], STEPS, GUIDANCE)
    patterns = handle.record.patterns
    maps: dict[int, torch.Tensor] = {}
    for pattern in patterns:
        if pattern.map is not None and pattern.step == patterns[-1].step:
            maps.setdefault(pattern.layer, pattern.map)  # of the prompt's branch; the negative prompt's comes later
    heads = [
        ["".join("01"[bool(kept)] for kept in row) for row in head]
        for _, layer in sorted(maps.items())
        for head in layer.tolist()
    ]
    source = {"prompt": PROMPT, "seed": SEED, "steps": STEPS, "guidance": GUIDANCE, "mass": MASS}
    DEMO_PATTERN.write_text(json.dumps({**source, "heads": heads}, indent=1) + "\n")
    print("wrote", DEMO_PATTERN.name, "with", len(heads), "heads")


if __name__ == "__main__":
    main()
