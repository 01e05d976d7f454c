"""A sound from a client: its beginning, as long as the video, kept without loss.

It is read in a process of its own, ``adaspa_service.inputs.read_sound``.
"""

from pathlib import Path

from adaspa_api.words import Kind

from adaspa_service.inputs.apart import apart

MODULE = "adaspa_service.inputs.read_sound"
CONTENT_TYPE = "audio/flac"


def write_beginning(source: Path, target: Path, seconds: float) -> float:
    """Write the beginning of a sound as a FLAC file of 24 bits, at its own sample rate; the seconds that it lasts.

    Args:
        source: what a client sent.
        target: the file to write.
        seconds: of it, at most.

    Raises:
        InputRefused: it is no such sound, is broken, or goes over a limit.
    """
    with apart(MODULE, Kind.audio, str(source), str(target), seconds) as reader:
        lasts: float = reader.answer()["seconds"]
    return lasts
