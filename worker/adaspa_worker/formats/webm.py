"""WebM with VP9."""

from adaspa_worker.formats.stream import Stream


class WebM(Stream):
    """Smaller than MP4, and slower to write."""

    codec = "libvpx-vp9"
    longest = 65535
    options = {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"}  # noqa: RUF012
    # No random numbers as names of its parts.
    container_options = {"fflags": "+bitexact"}  # noqa: RUF012


FORMAT = WebM
