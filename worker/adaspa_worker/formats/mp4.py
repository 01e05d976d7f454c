"""MP4 with H.264."""

from adaspa_worker.formats.stream import Stream


class Mp4(Stream):
    """Plays everywhere."""

    codec = "libx264"
    longest = 16384
    # Without "mbtree", x264's look-ahead: with it the same frames now and then come out a few bytes different.
    options = {"preset": "veryfast", "crf": "18", "x264-params": "mbtree=0"}  # noqa: RUF012
    # The index first, so that players start before the download ends.
    container_options = {"movflags": "+faststart"}  # noqa: RUF012


FORMAT = Mp4
