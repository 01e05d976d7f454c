"""`python -m benchmarks.damage --output docs/damage.json`: which damage to a file of a request is found, by its kind.

A picture, a clip and a sound are drawn, and real encoders write them. Damaged copies of each file are read as the
gateway reads them. It refuses a copy, or takes it. What is shown or heard is then as without damage, or it is not.
`benchmarks.readme` writes the table of docs/api.md. There is no Vorbis: PyAV has no encoder of it but FFmpeg's
experimental one, which writes wrong times.
"""

import argparse
import platform
from collections import Counter
from collections.abc import Callable
from datetime import date
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import av
import numpy as np
import PIL
from adaspa_service.inputs.images import fitted, opened
from adaspa_service.inputs.read_clip import last_frames
from adaspa_service.inputs.read_sound import beginning
from adaspa_service.inputs.source import InputRefused
from PIL import Image, features

from benchmarks import markdown
from benchmarks.results import Result, add

WIDTH, HEIGHT, FRAMES, FPS = 192, 112, 24, 12
RATE, SECONDS = 48_000, 8
COPIES = 100
"""Damaged copies of each file, by each kind of damage."""
BITEXACT = {"fflags": "+bitexact"}
"""Options of a container without random ids, for each run to damage the same files."""
LOST = 512
"""Bytes of a sector of a disk."""
TOLD = {"refused": "refused", "other": "taken, but wrong"}
"""What may become of a copy, and the head of its column; the rest is the ``same`` as without damage."""


def one_bit(content: bytearray, drawn: Random) -> None:
    """Turn one bit around."""
    content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)


def a_sector(content: bytearray, drawn: Random) -> None:
    """Lose a sector: its bytes become zeros."""
    begin = drawn.randrange(len(content) - LOST)
    content[begin : begin + LOST] = bytes(LOST)


DAMAGES = {"a wrong bit": one_bit, f"{LOST} lost bytes": a_sector}


@cache
def scene() -> np.ndarray:
    """Draw noise at several scales, uint8 [height, width, 3], larger than a frame, which moves over it."""
    drawn, size = np.random.default_rng(0), (WIDTH + 2 * FRAMES, HEIGHT + FRAMES)
    layers = [
        np.asarray(
            Image.fromarray(drawn.integers(0, 256, (size[1] // cell, size[0] // cell, 3), np.uint8)).resize(
                size, Image.Resampling.BICUBIC
            ),
            np.float32,
        )
        * share
        for cell, share in ((48, 0.6), (12, 0.25), (3, 0.15))
    ]
    return np.sum(layers, axis=0).clip(0, 255).astype(np.uint8)


def frame(number: int) -> Image.Image:
    """Return a frame of the clip."""
    return Image.fromarray(scene()[number : number + HEIGHT, 2 * number : 2 * number + WIDTH])


def picture(kind: str) -> bytes:
    """Encode the first frame by Pillow."""
    file = BytesIO()
    frame(0).save(file, kind, max_threads=1)  # for AVIF: the same on any number of cores
    return file.getvalue()


def clip(kind: str, codec: str, **options: str) -> bytes:
    """Encode the clip by FFmpeg, with a keyframe every second."""
    file = BytesIO()
    with av.open(file, "w", format=kind, options=BITEXACT) as container:
        stream: Any = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = FPS
        stream.codec_context.thread_count = 1  # the same on any number of cores
        for number in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_image(frame(number))))
        container.mux(stream.encode(None))
    return file.getvalue()


@cache
def voice() -> np.ndarray:
    """Draw something like a voice: syllables of a tone with overtones, and breath, float32 [channels, samples]."""
    times = np.arange(RATE * SECONDS) / RATE
    phase = 2 * np.pi * np.cumsum(140 + 12 * np.sin(2 * np.pi * 0.7 * times)) / RATE
    tone = sum(np.sin(n * phase) / n for n in range(1, 24))
    breath = 0.05 * np.random.default_rng(0).standard_normal(len(times))
    loud = np.sin(2 * np.pi * 1.5 * times) ** 2
    return np.stack([0.3 * loud * (tone + breath)] * 2).clip(-1, 1).astype(np.float32)


def sound(kind: str, codec: str) -> bytes:
    """Encode the sound by FFmpeg."""
    file = BytesIO()
    with av.open(file, "w", format=kind, options=BITEXACT) as container:
        stream: Any = container.add_stream(codec, rate=RATE, layout="stereo")
        whole = av.AudioFrame.from_ndarray(voice(), format="fltp", layout="stereo")
        whole.sample_rate, whole.pts = RATE, 0
        parts = av.AudioFifo()
        parts.write(whole)
        as_asked = av.AudioResampler(format=stream.codec_context.format, layout="stereo", rate=RATE)
        while (part := parts.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
            for each in as_asked.resample(part):
                container.mux(stream.encode(each))
        container.mux(stream.encode(None))
    return file.getvalue()


def shown(content: bytes) -> list[bytes]:
    """Read a picture as the gateway does: its pixels."""
    size = (WIDTH, HEIGHT)
    return [fitted(opened(BytesIO(content), WIDTH * HEIGHT), size, None).tobytes()]


def played(content: bytes) -> list[bytes]:
    """Read all of a clip as the gateway does: the pixels of each frame."""
    frames = last_frames(BytesIO(content), FRAMES, FPS, WIDTH * HEIGHT, FRAMES)
    return [image.tobytes() for image in frames]


def heard(content: bytes) -> list[bytes]:
    """Read all of a sound as the gateway does: its samples."""
    samples, _ = beginning(BytesIO(content), SECONDS)
    return [samples.tobytes()]


class File(NamedTuple):
    """Kind of file: its encoder, and how the gateway reads it."""

    encoded: Callable[[], bytes]
    read: Callable[[bytes], list[bytes]]


FILES = {
    "PNG": File(partial(picture, "PNG"), shown),
    "JPEG": File(partial(picture, "JPEG"), shown),
    "WebP": File(partial(picture, "WEBP"), shown),
    "AVIF": File(partial(picture, "AVIF"), shown),
    # With its assembly, x264 writes other files by what was in its memory before.
    "H.264 (MP4)": File(partial(clip, "mp4", "libx264", **{"x264-params": "asm=0"}), played),
    "H.265 (MP4)": File(partial(clip, "mp4", "libx265", **{"x265-params": "log-level=none"}), played),
    "VP8 (WebM)": File(partial(clip, "webm", "libvpx"), played),
    "VP9 (WebM)": File(partial(clip, "webm", "libvpx-vp9"), played),
    "AV1 (MP4)": File(partial(clip, "mp4", "libsvtav1", preset="8"), played),
    "WAV": File(partial(sound, "wav", "pcm_s16le"), heard),
    "FLAC": File(partial(sound, "flac", "flac"), heard),
    "MP3": File(partial(sound, "mp3", "libmp3lame"), heard),
    "AAC": File(partial(sound, "adts", "aac"), heard),
    "AAC (M4A)": File(partial(sound, "ipod", "aac"), heard),
    "ALAC (M4A)": File(partial(sound, "ipod", "alac"), heard),
    "Opus (OGG)": File(partial(sound, "ogg", "libopus"), heard),
}


def outcome(file: File, content: bytes, whole: list[bytes]) -> str:
    """Read a damaged copy, and tell what becomes of it."""
    try:
        found = file.read(content)
    except (InputRefused, av.FFmpegError, ValueError):  # those by which the gateway refuses a file
        return "refused"
    return "same" if found == whole else "other"


def measured(name: str, copies: int) -> dict[str, Any]:
    """Count what becomes of damaged copies of one file, by the damage."""
    file = FILES[name]
    content = file.encoded()
    whole = file.read(content)
    row: dict[str, Any] = {"file": name, "bytes": len(content), "copies": copies}
    for damage, act in DAMAGES.items():
        found = Counter[str]()
        for number in range(copies):
            damaged = bytearray(content)
            act(damaged, Random(f"{name}, {damage}, {number}"))
            found[outcome(file, bytes(damaged), whole)] += 1
        row[damage] = {what: found[what] for what in (*TOLD, "same")}
    return row


def percent(part: int, whole: int) -> str:
    """Format a share."""
    return f"{100 * part / whole:.0f} %"


def section(result: Result) -> str:
    """The table of docs/api.md: shares of the damaged copies that are refused, and that are taken as something else."""
    columns = ["file", *(f"{damage}: {told}" for damage in DAMAGES for told in TOLD.values())]
    rows = (
        [row["file"], *(percent(row[damage][what], row["copies"]) for damage in DAMAGES for what in TOLD)]
        for row in result["rows"]
    )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    copies = min(row["copies"] for row in result["rows"])
    head = (
        f"{copies} copies of each file were damaged in each way ([damage.json](damage.json)).\n"
        f"Read on {result['date']} by {versions}:"
    )
    return f"{head}\n\n{markdown.table(columns, rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.damage", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the JSON file, written after every row")
    parser.add_argument("--files", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--copies", type=int, default=COPIES, help="damaged copies of each file for each damage")
    asked = parser.parse_args()
    libraries = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    versions = {"PyAV": av.__version__, "libavcodec": libraries["libavcodec"], "Pillow": PIL.__version__}
    versions["libjpeg-turbo"] = str(features.version("libjpeg_turbo"))
    versions |= {f"lib{name}": str(features.version(name)) for name in ("webp", "avif")}
    result: Result = {
        "date": date.today().isoformat(),
        "versions": versions,
        "python": platform.python_version(),
        "rows": [],
    }
    for name in asked.files:
        add(result, measured(name, asked.copies), asked.output)


if __name__ == "__main__":
    main()
