"""Frames and sounds to write; and those of a file of any format, as its players show and play them."""

from pathlib import Path

import av
import numpy as np
from adaspa_worker.sound import Sound
from PIL import Image

COLOURS = [(0, 255, 0), (255, 0, 0), (0, 0, 255), (200, 100, 50), (20, 90, 160), (128, 128, 128), (255, 255, 255)]


def stripes(width: int, height: int) -> np.ndarray:
    """The colours side by side."""
    return np.repeat(np.array(COLOURS, np.uint8)[None, np.arange(width) * len(COLOURS) // width], height, axis=0)


def tones(seconds: float, rate: int, channels: int = 2) -> Sound:
    """A tone for each channel."""
    times = np.arange(round(seconds * rate)) / rate
    waves = [np.sin(2 * np.pi * 440 * (1 + channel) * times) / 2 for channel in range(channels)]
    return Sound(np.stack(waves).astype(np.float32), rate)


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


def sound_of(path: Path) -> tuple[np.ndarray, int]:
    """Decode a video file's sound: float32 [channels, samples], as long as players play it, and samples a second."""
    with av.open(str(path)) as container:
        (stream,) = container.streams.audio
        samples = np.concatenate([frame.to_ndarray() for frame in container.decode(stream)], axis=1)
        # MP4 says where it ends, within the last packet; of WebM the decoder gives no more than there is.
        return samples[:, : stream.duration], stream.rate


def durations_of(path: Path) -> list[int]:
    """Return how long each frame of a moving picture is shown, in milliseconds."""
    durations = []
    with Image.open(path) as image:
        for index in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(index)
            image.load()
            durations.append(image.info["duration"])
    return durations
