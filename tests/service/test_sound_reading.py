"""How a sound is read: by its first bytes, up to the asked length, and what tells that some of it is missing."""

import re
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from tempfile import NamedTemporaryFile
from typing import Any

import av
import numpy as np
import pytest
from adaspa_service.inputs import read_sound
from adaspa_service.inputs.read_sound import format_of, main
from adaspa_service.inputs.source import InputRefused
from recorded import recorded, tone


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"RIFF\0\0\0\0WAVE", "wav"),
        (b"RIFF\0\0\0\0AVI ", None),
        (b"RIFX\0\0\0\0WAVE", None),
        *((b"\0\0\0\x1c" + first + b"M4A ", "mov") for first in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
        (b"\0\0\0\x1cnone", None),
        (b"fLaC\0\0\0\0", "flac"),
        (b"OggS\0\0\0\0", "ogg"),
        (b"ID3\4\0\0", "mp3"),
        (b"\xff\xfb\x90\0", "mp3"),  # MPEG 1, layer III
        (b"\xff\xf3\x90\0", "mp3"),  # MPEG 2, layer III
        (b"\xff\xe3\x90\0", "mp3"),  # MPEG 2.5, layer III
        (b"\xff\xf1\x50\x80", "aac"),
        (b"\xff\xf9\x50\x80", "aac"),
        (b"\xff\xd8\xff\xe0", None),  # a JPEG
        (b"\xff", None),
        (b"", None),
        (b"<html>", None),
    ],
)
def test_a_format_is_known_by_the_first_bytes(head: bytes, name: str | None) -> None:
    assert format_of(head) == name


class Reading:
    """What is read of a sound, and what is said of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.said = folder, list[dict[str, Any]]()
        monkeypatch.setattr(read_sound, "say", lambda **answer: self.said.append(answer))

    def content(self, sound: bytes, seconds: float) -> bytes:
        """The file that is kept of it."""
        (self.folder / "kept.flac").unlink(missing_ok=True)
        (sent := self.folder / "sent").write_bytes(sound)
        main([str(sent), str(self.folder / "kept.flac"), seconds])
        return (self.folder / "kept.flac").read_bytes()

    def samples(self, sound: bytes, seconds: float) -> np.ndarray:
        with av.open(BytesIO(self.content(sound, seconds))) as container:
            parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
            channels = container.streams.audio[0].codec_context.channels
        whole = np.concatenate([part.reshape(-1, channels) for part in parts]) / 2**31
        assert self.said.pop() == {"seconds": round(len(whole) / self.rate(sound), 3)}
        return whole.T

    def rate(self, sound: bytes) -> int:
        with av.open(BytesIO(sound)) as container:
            return int(container.streams.audio[0].rate or 0)

    def refused(self, sound: bytes, seconds: float) -> str:
        with pytest.raises((InputRefused, av.FFmpegError)) as caught:
            self.content(sound, seconds)
        assert not self.said and not (self.folder / "kept.flac").exists()
        return str(caught.value)


@pytest.fixture
def reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reading:
    return Reading(tmp_path, monkeypatch)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.2345, 2.0, 5.0])
@pytest.mark.parametrize(("kind", "codec", "channels"), [("wav", "pcm_s24le", 1), ("flac", "flac", 2)])
def test_as_much_is_kept_as_is_asked_for_or_is_there(
    reading: Reading, kind: str, codec: str, channels: int, seconds: float
) -> None:
    found = reading.samples(recorded(kind, codec, channels=channels, seconds=2), seconds)
    wanted = tone(2, 44_100, channels)[:, : int(seconds * 44_100)]
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2**-14)


def test_a_sound_gives_the_same_file_each_time(reading: Reading) -> None:
    assert reading.content(recorded(), 2) == reading.content(recorded(), 2)


@pytest.mark.parametrize(("rate", "taken"), [(7999, False), (8000, True), (192_000, True), (192_001, False)])
def test_a_sound_has_a_rate_of_sounds(reading: Reading, rate: int, taken: bool) -> None:
    sound = recorded(rate=rate, seconds=0.6)
    if taken:
        assert reading.samples(sound, 1).shape[1] == round(0.6 * rate)
    else:
        assert f"has {rate} samples per second; allowed: 8000 to 192000" in reading.refused(sound, 1)


@pytest.mark.parametrize(("lasts", "taken"), [(0.5, True), (0.49, False), (0.01, False)])
def test_a_sound_is_long_enough_to_say_anything(reading: Reading, lasts: float, taken: bool) -> None:
    sound = recorded(seconds=lasts)
    if taken:
        assert reading.samples(sound, 3).shape[1] == 22_050
    else:
        assert reading.refused(sound, 3) == f"lasts {lasts:.2f} s; allowed: 0.5 s or more"


@pytest.mark.parametrize(("kind", "codec"), [("flac", "flac"), ("mov", "alac")])
def test_a_sound_that_was_cut_off_is_taken_as_far_as_what_is_asked_for_is_there(
    reading: Reading, kind: str, codec: str
) -> None:
    options = {"movflags": "+faststart"} if kind == "mov" else {}
    whole = sound_file(kind, codec, 6, options)
    with av.open(BytesIO(whole)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        at = next(packet for packet in packets if float((packet.pts or 0) * (packet.time_base or 0)) >= 3).pos
    assert at
    for seconds in (1.0, 2.9) if kind == "flac" else (1.0, 2.9, 3.4):  # FLAC says how many samples it has
        assert abs(reading.samples(whole[:at], seconds).shape[1] / 44_100 - min(seconds, 3)) < 0.1
    for seconds in (3.7, 6.0, 60.0):
        assert "is damaged or incomplete" in reading.refused(whole[:at], seconds)
    assert reading.samples(whole, 60).shape[1] == 6 * 44_100


def cut_as_it_is(flac: bytes, seconds: float) -> bytes:
    """The beginning of a FLAC, not encoded anew: its head is that of the whole."""
    found = BytesIO()
    with av.open(BytesIO(flac)) as whole, av.open(found, "w", format="flac") as container:
        stream = container.add_stream_from_template(whole.streams.audio[0])
        for packet in whole.demux(audio=0):
            if packet.size and (packet.pts or 0) * (packet.time_base or 0) < seconds:
                packet.stream = stream
                container.mux(packet)
    return found.getvalue()


def test_a_flac_that_was_cut_as_it_is_lacks_samples_unless_it_does_not_say_how_many_it_has(reading: Reading) -> None:
    cut = cut_as_it_is(recorded("flac", "flac", seconds=3), 1.5)
    assert reading.samples(cut, 1.5).shape[1] == 66_150
    told = re.fullmatch(
        r"is damaged or incomplete: it has (\d+) of the 132300 samples that it says it has; allowed: a complete sound",
        reading.refused(cut, 3),
    )
    assert told and 66_150 <= int(told[1]) < 72_000
    rate_to_total = slice(18, 26)  # its last 36 bits are the number of samples (RFC 9639, section 8.2)
    unknown = int.from_bytes(cut[rate_to_total], "big") >> 36 << 36
    streamed = cut[:18] + unknown.to_bytes(8, "big") + cut[26:]
    assert reading.samples(streamed, 3).shape[1] == int(told[1])


KINDS = [("flac", "flac"), ("ogg", "libopus"), ("mp3", "libmp3lame"), ("adts", "aac"), ("ipod", "aac")]


@cache
def six_seconds(kind: str, codec: str) -> tuple[bytes, list[tuple[int, float]]]:
    """A sound, and where its packets are: the byte and the second at which each begins."""
    whole = recorded(kind, codec, rate=48_000, seconds=6)
    with av.open(BytesIO(whole)) as container:
        found = [
            (packet.pos, float((packet.pts or 0) * (packet.time_base or 0)))
            for packet in container.demux(audio=0)
            if packet.size and packet.pos is not None
        ]
    return whole, found


@pytest.mark.parametrize(("kind", "codec"), KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_a_sound_is_refused_where_it_is_damaged(reading: Reading, kind: str, codec: str, seed: int) -> None:
    """FLAC and Ogg by their checksums: FFmpeg leaves out what is wrong. Others where they cannot be decoded."""
    whole, packets = six_seconds(kind, codec)
    at, seconds = Random(seed).choice([each for each in packets if 1.5 < each[1] < 4.5])
    damaged = bytearray(whole)
    if kind in ("flac", "ogg"):
        damaged[at + 60] ^= 1 << seed
    else:
        damaged[at + 4 : at + 400] = bytes(396)
    told = re.fullmatch(
        r"is damaged at (\d\.\d\d) s; allowed: a sound without damage", reading.refused(bytes(damaged), 6)
    )
    assert told and abs(float(told[1]) - seconds) < (1.1 if kind == "ogg" else 0.5), "a page of an Ogg has a second"
    assert reading.samples(bytes(damaged), 0.5).shape[1] == 24_000, "what is not needed is not looked at"


@pytest.mark.parametrize("number", range(8))
def test_a_flac_is_refused_where_one_of_its_first_frames_is_damaged(reading: Reading, number: int) -> None:
    """FFmpeg joins the first frames up to a wrong one, leaves that out, and gives the others a time behind it."""
    whole, packets = six_seconds("flac", "flac")
    at, seconds = packets[number]
    for bit in range(8):
        damaged = bytearray(whole)
        damaged[at + 60] ^= 1 << bit
        told = re.fullmatch(r"is damaged at (\d\.\d\d) s; .*", reading.refused(bytes(damaged), 6))
        assert told and abs(float(told[1]) - seconds) < 0.2


@pytest.mark.parametrize(("kind", "codec"), KINDS[:-1])
def test_damage_at_the_end_of_a_sound_ends_it(reading: Reading, kind: str, codec: str) -> None:
    """As if it had been cut off there."""
    whole, packets = six_seconds(kind, codec)
    damaged = bytearray(whole)
    damaged[packets[-1][0] + 10 : -1] = bytes(len(whole) - packets[-1][0] - 11)
    if kind == "flac":  # says how many samples it has
        assert reading.refused(bytes(damaged), 60).startswith("is damaged or incomplete")
        return
    assert 4.5 < reading.samples(bytes(damaged), 60).shape[1] / 48_000 < 6.1


@pytest.mark.parametrize("number", [60, 100, 150, -1])
def test_a_sound_may_end_within_a_frame(reading: Reading, number: int) -> None:
    whole, packets = six_seconds("adts", "aac")
    at, seconds = packets[number]
    assert reading.samples(whole[: at + 40], 60).shape[1] / 48_000 == pytest.approx(seconds, abs=0.05)


@pytest.mark.parametrize(
    "more", [b"TAG" + bytes(125), bytes(1000), Random(1).randbytes(300)], ids=["tag", "0", "noise"]
)
@pytest.mark.parametrize(("kind", "codec"), KINDS)
def test_what_follows_a_sound_is_none_of_it(reading: Reading, kind: str, codec: str, more: bytes) -> None:
    whole, _ = six_seconds(kind, codec)
    assert reading.samples(whole + more, 60).shape == reading.samples(whole, 60).shape


def test_an_ogg_may_have_one_sound_after_another(reading: Reading) -> None:
    """As radio stations chain them (RFC 3533, section 4); the time of the second one begins anew."""
    whole, _ = six_seconds("ogg", "libopus")
    alone, both = (reading.samples(sound, 60).shape[1] for sound in (whole, whole + whole))
    assert both == pytest.approx(2 * alone, abs=1000)


def sound_file(kind: str, codec: str, seconds: float, options: dict[str, str]) -> bytes:
    with NamedTemporaryFile() as file:
        with av.open(file.name, "w", format=kind, options=options) as container:
            stream: Any = container.add_stream(codec, rate=44_100, layout="mono")
            noise = np.random.default_rng(1).uniform(-0.5, 0.5, (1, round(seconds * 44_100))).astype(np.float32)
            whole = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            whole.sample_rate, whole.pts = 44_100, 0
            fifo = av.AudioFifo()
            fifo.write(whole)
            fit = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=44_100)
            while (part := fifo.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
                for frame in fit.resample(part):
                    container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return file.read()


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
def test_a_wav_file_from_a_pipe_says_no_length(reading: Reading, length: int) -> None:
    plain = recorded(seconds=2)
    data = plain.index(b"data") + 4
    told = length.to_bytes(4, "little")
    sound = plain[:4] + told + plain[8:data] + b"\xff" * 4 + plain[data + 4 :]
    assert reading.samples(sound, 1.5).shape[1] == 66_150


def test_a_wav_file_that_lacks_a_byte_is_refused(reading: Reading) -> None:
    plain = recorded(seconds=2)
    assert int.from_bytes(plain[4:8], "little") == len(plain) - 8
    for lacking in (9, 100):
        assert "damaged or incomplete" in reading.refused(plain[:-lacking], 1)
    assert reading.samples(plain + b"more of another program", 1).shape[1] == 44_100


def test_samples_that_are_no_numbers_are_refused_and_loud_ones_are_cut(reading: Reading) -> None:
    head = recorded(codec="pcm_f32le", seconds=1)[: -44_100 * 4]

    def wav(samples: list[float]) -> bytes:
        return head + np.resize(np.array(samples, "<f4"), 44_100).tobytes()

    for other in (np.nan, np.inf, -np.inf):
        assert "has samples that are no numbers" in reading.refused(wav([0.0] * 44_099 + [other]), 1)
    found = reading.samples(wav([0.0, 1.0, -1.0, 9.0, -9.0]), 1)[0]
    np.testing.assert_allclose(found[:5], [0, 1, -1, 1, -1], atol=2**-22)
