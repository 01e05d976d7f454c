"""Sound: of a clip, for a file, at a rate that it can have and as long as the frames; or given, for a model."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

LAYOUTS = {1: "mono", 2: "stereo"}
"""Channel layouts by the number of channels."""


@dataclass(frozen=True)
class Sound:
    """A sound.

    Args:
        samples: float32 in [-1, 1], shape [channels, samples], of one channel or two.
        rate: samples a second.
    """

    samples: np.ndarray
    rate: int

    @classmethod
    def read(cls, file: Path) -> "Sound":
        """Read the sound of a file. Raises FFmpeg's errors."""
        with av.open(str(file)) as container:
            stream = container.streams.audio[0]
            rate = stream.codec_context.sample_rate
            as_float = av.AudioResampler(format="fltp", layout=LAYOUTS[stream.codec_context.channels], rate=rate)
            frames = (part for frame in container.decode(stream) for part in as_float.resample(frame))
            return cls(np.concatenate([frame.to_ndarray() for frame in frames], axis=1), rate)

    @property
    def layout(self) -> str:
        """FFmpeg's word for its channels."""
        return LAYOUTS[len(self.samples)]

    def at(self, rate: int) -> "Sound":
        """Resample the sound to another number of samples a second."""
        if rate == self.rate:
            return self
        resampler = av.AudioResampler(format="fltp", layout=self.layout, rate=rate)
        frames = [*resampler.resample(self.part(0, self.samples.shape[1])), *resampler.resample(None)]
        return Sound(np.concatenate([frame.to_ndarray() for frame in frames], axis=1), rate)

    def part(self, begin: int, end: int) -> av.AudioFrame:
        """Return the samples from one place up to another; silence after the sound's end."""
        samples = self.samples[:, begin:end]
        missing = end - begin - samples.shape[1]
        whole = np.pad(samples, ((0, 0), (0, missing)))
        frame = av.AudioFrame.from_ndarray(whole, format="fltp", layout=self.layout)
        frame.sample_rate, frame.pts, frame.time_base = self.rate, begin, Fraction(1, self.rate)
        return frame
