"""``python -m adaspa_service.inputs.read_clip``: read the end of a video, with little time and memory to do it in.

It is asked the file, the one to write, frames and frames a second of the end, most pixels and most frames of the video,
and whether another shape is contained. It says ``{"size": [w, h]}``, reads the size to write from standard input, and
says ``{}`` once the file is there; or it says ``{"refused": why, "too_large": ...}``.
"""

import json
import sys
from bisect import bisect_left
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, NamedTuple

import av
from adaspa_api.words import Kind
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from adaspa_service.inputs.images import fitted
from adaspa_service.inputs.reader import MOV, codec_of, damaged, read, say
from adaspa_service.inputs.source import InputRefused

EBML = b"\x1a\x45\xdf\xa3"
DECODERS = ("h264", "hevc", "vp8", "vp9", "libdav1d", "av1")
CUT_OFF_SECONDS = 0.5
"""Seconds by which a file may be shorter than it says: the last frames' durations, and rounding."""
UNSAID = 2
"""Colour space of a frame that names none."""
HD_LINES = 720
"""Number of lines from which colours are BT.709's where a file does not say."""
CODEC = "libvpx-vp9"
LOSSLESS = {"lossless": "1", "deadline": "realtime", "cpu-used": "8", "row-mt": "1"}
BROKEN = "is damaged or incomplete; allowed: a complete video"


class Seen(NamedTuple):
    """A packet of the video: when it is shown, in units of the stream, and whether it can be decoded alone."""

    time: int
    alone: bool


def container_of(file: IO[bytes]) -> Any:
    """Open the file by one of the two formats that there are: others may name further files to read."""
    head = file.read(12)
    file.seek(0)
    kind = "matroska" if head[:4] == EBML else "mov" if head[4:8] in MOV else None
    if kind is None:
        raise InputRefused(f"is not a video; allowed: {Kind.video.taken}")
    return av.open(file, format=kind, options={"codec_whitelist": ",".join(DECODERS)})


def stream_of(container: Any, max_pixels: int) -> Any:
    """Return the file's video. Raises InputRefused if there is none that is supported."""
    streams = [each for each in container.streams.video if not each.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise InputRefused(f"contains no video; allowed: {Kind.video.taken}")
    stream = streams[0]
    codec = codec_of(stream, Kind.video, DECODERS)
    check_pixels(codec.width, codec.height, max_pixels)
    return stream


def check_pixels(width: int, height: int, most: int) -> None:
    """Raise InputRefused for a frame that is too large, or none."""
    if width * height > most:
        why = f"is {width}x{height}, {width * height} pixels; allowed: up to {most}"
        raise InputRefused(why, too_large=True)
    if width < 1 or height < 1:
        raise InputRefused(BROKEN)


def packets_of(container: Any, stream: Any, most: int) -> list[Seen]:
    """All of the video's packets, none of them decoded. Raises InputRefused: too many, or some are missing."""
    found: list[Seen] = []
    count, end = 0, 0.0
    for packet in container.demux():
        if packet.is_corrupt:
            raise InputRefused(BROKEN)
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index:
                count += 1
                if not packet.is_discard:  # a beginning that was cut away is there for what follows it
                    found.append(Seen(packet.pts, packet.is_keyframe))
        if len(found) > most:
            raise InputRefused(f"has over {most} frames; allowed: up to {most}", too_large=True)
    # What FFmpeg calls the duration of a Matroska file is when it ends.
    start = 0 if "matroska" in container.format.name else (container.start_time or 0)
    ends = (start + (container.duration or 0)) / av.time_base
    if not found or count < len(stream.index_entries) or end < ends - CUT_OFF_SECONDS:
        raise InputRefused(BROKEN)
    return found


def last_times(packets: list[Seen], unit: Fraction, frames: int, fps: int) -> list[int]:
    """Return the times of the last frames at ``fps``: those next to each moment, counted from the last one.

    Raises:
        InputRefused: it is too short, or has fewer frames a second.
    """
    times = sorted({packet.time for packet in packets})
    step = 1 / (fps * unit)
    if times[-1] - (frames - 1) * step < times[0] - step / 2:
        lasts = round((times[-1] - times[0]) / step) + 1
        raise InputRefused(f"has {lasts} frames at {fps} FPS; allowed: {frames} or more")
    found = [nearest(times, times[-1] - number * step) for number in reversed(range(frames))]
    if len(set(found)) < frames:
        raise InputRefused(f"has fewer than {fps} frames per second; allowed: {fps} or more, or a lower fps")
    return found


def nearest(times: list[int], wanted: Fraction) -> int:
    """Return whichever of the times is nearest to another one."""
    at = bisect_left(times, wanted)
    return min(times[max(0, at - 1) : at + 1], key=lambda time: abs(time - wanted))


def last_frames(file: IO[bytes], frames: int, fps: int, max_pixels: int, max_frames: int) -> Iterator[Image.Image]:
    """Decode the last frames of a video, upright. Raises what libraries raise at broken files, and InputRefused."""
    with container_of(file) as container:
        stream = stream_of(container, max_pixels)
        packets = packets_of(container, stream, max_frames)
        wanted = last_times(packets, stream.time_base, frames, fps)
    file.seek(0)
    yield from decoded(file, packets, wanted, max_pixels)


def decoded(file: IO[bytes], packets: list[Seen], wanted: list[int], max_pixels: int) -> Iterator[Image.Image]:
    """Decode the upright frames of these times.

    Raises:
        InputRefused: the decoder tells of damage to one of them, or to a frame before them that they are decoded by.
    """
    alone = [number for number, packet in enumerate(packets) if packet.alone and packet.time <= wanted[0]]
    begin = max(alone, default=0)  # those before it may be among what is not shown
    shown = min(packet.time for packet in packets)
    missing = set(wanted)
    with container_of(file) as container:
        stream = stream_of(container, max_pixels)
        stream.codec_context.thread_count = 1  # each would hold frames of its own
        number = 0
        for packet in container.demux(stream):
            counted = packet.pts is not None and not packet.is_discard
            number += counted
            if counted and number <= begin:
                continue
            try:
                frames = packet.decode()
            except av.InvalidDataError as error:
                if packet.pts is None:
                    raise
                raise damaged(Kind.video, (packet.pts - shown) * stream.time_base) from error
            for frame in frames:
                if frame.is_corrupt:
                    raise damaged(Kind.video, (frame.pts - shown) * stream.time_base)
                if frame.pts not in missing:
                    continue
                missing.remove(frame.pts)
                check_pixels(frame.width, frame.height, max_pixels)
                yield upright(frame, stream.sample_aspect_ratio)
            if not missing:
                return
        raise damaged(Kind.video, (min(missing) - shown) * stream.time_base)


def upright(frame: Any, aspect: Fraction | None) -> Image.Image:
    """A frame in RGB as a player shows it: square pixels, turned."""
    said = {}
    if frame.colorspace == UNSAID:
        said["src_colorspace"] = Colorspace.ITU709 if frame.height >= HD_LINES else Colorspace.ITU601
    image: Image.Image = frame.to_image(dst_color_range=ColorRange.JPEG, **said)
    if aspect and aspect != 1:
        image = image.resize((max(1, round(image.width * aspect)), image.height), Image.Resampling.LANCZOS)
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def write(target: Path, images: Iterator[Image.Image], first: Image.Image, fps: int, contain: bool) -> None:
    """Write frames in the size that standard input says."""
    size = tuple(json.loads(sys.stdin.readline()))
    # No random numbers as names of its parts: the same video gives the same file.
    with av.open(str(target), "w", format="webm", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(CODEC, rate=fps, options=LOSSLESS)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, "gbrp"
        for image in (first, *images):
            container.mux(stream.encode(av.VideoFrame.from_image(fitted(image, size, "black" if contain else None))))
        container.mux(stream.encode(None))


def main(asked: list[Any]) -> None:
    """Do what the module's docstring says. Raises what libraries raise at broken files, and InputRefused."""
    source, target, frames, fps, max_pixels, max_frames, contain = asked
    with Path(source).open("rb") as file:
        images = last_frames(file, frames, fps, max_pixels, max_frames)
        first = next(images)
        say(size=first.size)
        write(Path(target), images, first, fps, contain)
    say()


if __name__ == "__main__":
    read(main, BROKEN)
