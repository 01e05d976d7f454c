"""The frames of a video file of any format, as its players show them."""

from pathlib import Path

import av
import numpy as np
from PIL import Image


def frames_of(path: Path) -> np.ndarray:
    """Decode a file, a moving picture by Pillow and a video by FFmpeg: uint8 RGB [frames, height, width, 3]."""
    if path.suffix not in (".gif", ".webp"):
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    frames = []
    with Image.open(path) as image:
        for index in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
    return np.stack(frames)


def durations_of(path: Path) -> list[int]:
    """Return how long each frame of a moving picture is shown, in milliseconds."""
    durations = []
    with Image.open(path) as image:
        for index in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(index)
            image.load()
            durations.append(image.info["duration"])
    return durations
