"""WebM with VP9 and Opus."""

from adaspa_worker.formats.stream import Stream


class WebM(Stream):
    """Smaller than MP4, and slower to write."""

    codec, sound_codec = "libvpx-vp9", "libopus"
    sound_rate = 48_000  # Opus's own: at others FFmpeg has the video begin some milliseconds late
    longest = 65535
    options = {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"}  # noqa: RUF012
    # No random numbers as names of its parts.
    container_options = {"fflags": "+bitexact"}  # noqa: RUF012


FORMAT = WebM
