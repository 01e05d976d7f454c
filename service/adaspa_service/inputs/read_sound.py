"""``python -m adaspa_service.inputs.read_sound``: read the beginning of a sound, with little time and memory.

It is asked the file, the one to write, and how many seconds at most. It says ``{"seconds": ...}`` once the file is
there; or it says ``{"refused": why, "too_large": ...}``.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from adaspa_api.words import Kind

from adaspa_service.inputs.reader import MOV, codec_of, damaged, read, say
from adaspa_service.inputs.source import InputRefused

DECODERS = ("flac", "mp3float", "mp3", "aac", "alac", "opus", "vorbis")
PCM = ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le")
MEASURED = ("wav", "mov")
"""Formats that say how long they are. Of MP3, AAC and OGG that is a guess: of a file cut off, what is there counts."""
CUT_OFF_SECONDS = 0.5
"""Seconds by which a file may be shorter than it says: padding of its codec, and rounding."""
LAYOUTS = {1: "mono", 2: "stereo"}
"""Layouts by the number of channels."""
COUNTED = ("flac", "ogg")
"""Formats with checksums, by which FFmpeg leaves out what is damaged, and with the number of samples up to each part: a
gap is damage (RFC 9639, section 9.1; RFC 7845, section 4.1)."""
GAP_SECONDS = 0.015
"""Longest gap that is none: FFmpeg tells the time of some packets in Vorbis, or between two sounds, 10 ms late."""
STREAMED = (0, 0xFFFFFFFF)
"""Length of a WAV file that was not known when its head was written."""
RATES = range(8_000, 192_001)
LEAST_SECONDS = 0.5
"""Seconds of the shortest sound that says anything of a voice."""
BROKEN = "is damaged or incomplete; allowed: a complete sound"


def format_of(head: bytes) -> str | None:
    """Name FFmpeg's format for a file by its first bytes; others may name further files to read."""
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav"
    if head[4:8] in MOV:
        return "mov"
    if name := {b"fLaC": "flac", b"OggS": "ogg"}.get(head[:4]):
        return name
    if head[:3] == b"ID3":
        return "mp3"
    if head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0:
        return "mp3" if head[1] & 0x06 else "aac"  # AAC has no layer
    return None


def container_of(file: IO[bytes]) -> Any:
    """Open the file by one of these formats. Raises InputRefused."""
    head = file.read(12)
    kind = format_of(head)
    if kind is None:
        raise InputRefused(f"is not a sound; allowed: {Kind.audio.taken}")
    length = int.from_bytes(head[4:8], "little")
    if kind == "wav" and length not in STREAMED and file.seek(0, os.SEEK_END) < length:
        raise InputRefused(BROKEN)  # FFmpeg takes what is there
    file.seek(0)
    return av.open(file, format=kind, options={"codec_whitelist": ",".join((*DECODERS, *PCM))})


def stream_of(container: Any) -> Any:
    """Return the file's sound. Raises InputRefused if there is none that is supported."""
    if not container.streams.audio:
        raise InputRefused(f"contains no sound; allowed: {Kind.audio.taken}")
    stream = container.streams.audio[0]
    codec = codec_of(stream, Kind.audio, (*DECODERS, *PCM))
    if codec.channels not in LAYOUTS:
        raise InputRefused(f"has {codec.channels} channels; allowed: mono or stereo")
    if codec.sample_rate not in RATES:
        most = f"{RATES[0]} to {RATES[-1]}"
        raise InputRefused(f"has {codec.sample_rate} samples per second; allowed: {most}")
    return stream


def frames_of(container: Any, stream: Any) -> Iterator[list[Any] | None]:
    """Decode each packet to its frames; None for what cannot be read or decoded."""
    try:
        for packet in container.demux(stream):
            try:
                yield packet.decode()
            except av.InvalidDataError:
                yield None
    except av.InvalidDataError:
        yield None
        yield from (packet.decode() for packet in container.demux(stream))  # what is left, or nothing


def decoded(container: Any, stream: Any, count: int) -> Iterator[np.ndarray]:
    """Decode the first samples, float32 [channels, samples]. Damage with nothing behind it ends the sound.

    Raises:
        InputRefused: there is damage within it, or a sample is no number.
    """
    codec = stream.codec_context
    if codec.name == "flac":
        codec.options = {"err_detect": "crccheck+explode"}
    rate = codec.sample_rate
    as_float = av.AudioResampler(format="fltp", layout=LAYOUTS[codec.channels], rate=rate)
    counted = container.format.name in COUNTED
    found, due, broken = 0, None, False
    for frames in frames_of(container, stream):
        broken |= frames is None
        for frame in frames or ():
            time = due if frame.time is None else frame.time
            if broken or frame.is_corrupt or (counted and due is not None and time - due > GAP_SECONDS):
                raise damaged(Kind.audio, found / rate)
            due = None if time is None else time + frame.samples / rate
            if frame.sample_rate != rate:
                raise InputRefused(BROKEN)
            for part in as_float.resample(frame):
                samples = part.to_ndarray()[:, : count - found]
                if not np.isfinite(samples).all():
                    raise InputRefused("has samples that are no numbers; allowed: finite samples")
                found += samples.shape[1]
                yield samples
        # FFmpeg joins frames of FLAC into one packet where it finds a wrong one, which it leaves out.
        broken |= codec.name == "flac" and len(frames or ()) > 1
        if found == count:
            return


def beginning(file: IO[bytes], seconds: float) -> tuple[np.ndarray, int]:
    """Read the beginning of a sound: its samples, float32 [channels, samples], and their rate.

    Raises what libraries raise at broken files, and InputRefused.
    """
    with container_of(file) as container:
        stream = stream_of(container)
        rate: int = stream.codec_context.sample_rate
        parts = list(decoded(container, stream, int(seconds * rate)))
        samples = np.concatenate(parts, axis=1) if parts else np.zeros((1, 0), np.float32)
        found = samples.shape[1]
        if container.format.name == "flac" and found < min(int(seconds * rate), stream.duration or 0):
            told = f"it has {found} of the {stream.duration} samples that it says it has"
            raise InputRefused(f"is damaged or incomplete: {told}; allowed: a complete sound")
        said = (container.duration or 0) / av.time_base if container.format.name.split(",")[0] in MEASURED else 0
        if found / rate < min(seconds, said) - CUT_OFF_SECONDS or not parts:
            raise InputRefused(BROKEN)
        return samples, rate


def write(target: Path, samples: np.ndarray, rate: int) -> None:
    """Write them as FLAC."""
    # No random numbers: the same sound gives the same file.
    with av.open(str(target), "w", format="flac", options={"fflags": "+bitexact"}) as container:
        layout = LAYOUTS[len(samples)]
        stream = container.add_stream("flac", rate=rate, layout=layout, format="s32")
        assert isinstance(stream, av.AudioStream)
        whole = np.rint(samples.T.clip(-1, 1).astype(np.float64) * (2**23 - 1)).astype(np.int32) << 8
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(whole).reshape(1, -1), format="s32", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])


def main(asked: list[Any]) -> None:
    """Do what the module's docstring says. Raises what libraries raise at broken files, and InputRefused."""
    source, target, seconds = asked
    with Path(source).open("rb") as file:
        samples, rate = beginning(file, seconds)
    lasts = samples.shape[1] / rate
    if lasts < LEAST_SECONDS:
        raise InputRefused(f"lasts {lasts:.2f} s; allowed: {LEAST_SECONDS:g} s or more")
    write(Path(target), samples, rate)
    say(seconds=round(lasts, 3))


if __name__ == "__main__":
    read(main, BROKEN)
