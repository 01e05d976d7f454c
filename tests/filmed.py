"""Videos as clients send them."""

from fractions import Fraction
from io import BytesIO
from tempfile import NamedTemporaryFile
from typing import Any

import av
import numpy as np
from drawn import corners
from PIL import Image

STEP = 6
"""How much lighter each frame's middle is than that of the one before: it tells which one it is."""


def filmed(
    frames: int = 40,
    fps: int | Fraction = 8,
    size: tuple[int, int] = (200, 104),
    *,
    kind: str = "mp4",
    codec: str = "libx264",
    turned: int = 0,
    pixels: Fraction | None = None,
    sound: float = 0.0,
    options: dict[str, str] | None = None,
) -> bytes:
    """A video of the corners, with a grey middle.

    Args:
        frames, fps, size, kind, codec: of the file.
        turned: how far a player is to turn it against the clock, in degrees.
        pixels: width of a pixel by its height; they are square if None.
        sound: seconds of a silent sound beside it.
        options: of the container.
    """
    still = corners(*size)
    with NamedTemporaryFile() as file:  # to put the index in front, FFmpeg opens it a second time
        with av.open(file.name, "w", format=kind, options=options or {}) as container:
            stream: Any = container.add_stream(codec, rate=fps)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            stream.codec_context.gop_size = 12
            if pixels:
                stream.codec_context.sample_aspect_ratio = pixels
            if sound:
                heard: Any = container.add_stream("libopus" if kind == "webm" else "aac", rate=48_000, layout="mono")
            if turned:
                stream.set_display_rotation(turned)
            for number in range(frames):
                image = still.copy()
                image.paste((STEP * number,) * 3, tuple(side * at // 8 for at in (3, 5) for side in size))
                container.mux(stream.encode(av.VideoFrame.from_image(image)))
            container.mux(stream.encode(None))
            if sound:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, round(sound * 48_000)), np.float32), "fltp", "mono")
                silence.sample_rate, silence.pts = 48_000, 0
                parts, as_asked = av.AudioFifo(), av.AudioResampler(heard.codec_context.format, "mono", 48_000)
                parts.write(silence)
                while (part := parts.read(heard.codec_context.frame_size or 1024, partial=True)) is not None:
                    for frame in as_asked.resample(part):
                        container.mux(heard.encode(frame))
                container.mux(heard.encode(None))
        return file.read()


def frames_in(content: bytes) -> list[Image.Image]:
    """A file's frames."""
    with av.open(BytesIO(content)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def number_of(frame: Image.Image) -> int:
    """Which frame of ``filmed`` it is."""
    x, y = frame.width // 2, frame.height // 2
    return round(float(np.asarray(frame.crop((x - 3, y - 3, x + 3, y + 3))).mean()) / STEP)
