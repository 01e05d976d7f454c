"""Sounds as clients send them."""

from io import BytesIO
from typing import Any

import av
import numpy as np

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
HERTZ = 440


def tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """A tone of half the greatest loudness, and an octave more in each further channel, [channels, samples]."""
    times = np.arange(round(seconds * rate)) / rate
    return np.stack([np.sin(2 * np.pi * HERTZ * 2**n * times) / 2 for n in range(channels)]).astype(np.float32)


def recorded(
    kind: str = "wav", codec: str = "pcm_s16le", *, rate: int = 44_100, channels: int = 1, seconds: float = 3.0
) -> bytes:
    """A tone as a file of a format and a codec of FFmpeg."""
    found = BytesIO()
    with av.open(found, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=LAYOUTS[channels])
        whole = av.AudioFrame.from_ndarray(tone(seconds, rate, channels), format="fltp", layout=LAYOUTS[channels])
        whole.sample_rate, whole.pts = rate, 0
        parts = av.AudioFifo()
        parts.write(whole)
        as_asked = av.AudioResampler(format=stream.codec_context.format, layout=LAYOUTS[channels], rate=rate)
        while (part := parts.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
            for frame in as_asked.resample(part):
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return found.getvalue()
