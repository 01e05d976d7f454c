"""MP4 with H.264 and AAC."""

from adaspa_worker.formats.stream import Stream
from adaspa_worker.sound import Sound


class Mp4(Stream):
    """Plays everywhere."""

    codec, sound_codec = "libx264", "aac"
    longest = 16384
    # Without "mbtree", x264's look-ahead: with it the same frames now and then come out a few bytes different.
    options = {"preset": "veryfast", "crf": "18", "x264-params": "mbtree=0"}  # noqa: RUF012
    # The index first, so that players start before the download ends.
    container_options = {"movflags": "+faststart"}  # noqa: RUF012

    def add_sound(self, sound: Sound) -> None:
        super().add_sound(sound)
        # The file's clock, by which it says how long the sound is, and without this has thousandths of a second.
        self._container.options["movie_timescale"] = str(sound.rate)


FORMAT = Mp4
