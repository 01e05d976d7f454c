"""The catalog entry of the tiny Wan pipeline, for those who need no PyTorch."""

import json
from pathlib import Path
from typing import Any

SIZE = 64
FRAMES = 9


def model_spec(source: Path | str, **changes: Any) -> dict[str, Any]:
    """A catalog entry for the tiny pipeline."""
    spec: dict[str, Any] = {
        "id": "tiny",
        "source": str(source),
        "description": "Untrained, for tests",
        "sizes": [f"{SIZE}x{SIZE}"],
        "frames": [FRAMES, 5],
        "default_frames": FRAMES,
        "fps": 8,
        "fps_range": [1, 30],
        "steps_range": [1, 2000],
        "default_steps": 4,
        "guidance_range": [1.0, 10.0],
        "default_guidance": 4.0,
        "max_prompt_chars": 200,
        "attention": {"block_size": 16, "sparsity": 0.5},
        "call": {"max_sequence_length": 16},
    }
    return spec | changes


def write_catalog(path: Path, *specs: dict[str, Any]) -> Path:
    """Write a catalog file with these models, the first being the default."""
    path.write_text(json.dumps(list(specs)))
    return path
