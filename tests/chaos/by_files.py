"""Scenes of the files that a worker writes: each is decoded again and held against what it was given."""

import json
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from adaspa_api.words import OutputFormat
from adaspa_worker.blank import Look
from adaspa_worker.encode import VideoWriter
from adaspa_worker.recipe import read_recipe
from adaspa_worker.sound import Sound
from clips import durations_of, frames_of, sound_of
from PIL import Image

from chaos.scenes import Scene
from chaos.stage import Stage
from chaos.workshop import fading


class Clips(Scene):
    """Clips of known frames in each format, with sound and without."""

    name = "by hand: files of every format"
    promise = "a file holds the frames, the sound and the words that it was given, and its pictures show them"

    def play(self, stage: Stage) -> None:
        with TemporaryDirectory(prefix="clips-") as name:
            folder = Path(name)
            for output in OutputFormat:
                self.written(folder, output, frames=9, fps=8)
            self.written(folder, OutputFormat.gif, frames=7, fps=30)
            for frames in (1, 2, 3, 5, 13, 16, 17, 21):
                self.pictures(folder, frames)
            self.pictures(folder, 4, width=640, height=400)
            for output in (OutputFormat.mp4, OutputFormat.webm):
                for seconds in (0.4, 2.0):
                    self.sounds(folder, output, seconds)
            self.wrong(folder)
            self.blank()

    def written(self, folder: Path, output: OutputFormat, frames: int, fps: int) -> None:
        given, path = fading(frames), folder / f"video.{output}"
        words = json.dumps({"model": "m", "prompt": "p" * 600, "seed": 1, "attention": {}})
        with VideoWriter(path, output, width=64, height=64, fps=fps, num_frames=frames, comment=words) as writer:
            for frame in given:
                writer.write(frame)
        found = frames_of(path)
        assert found.shape == (frames, 64, 64, 3), f"{output}: {found.shape} of {frames} frames"
        for at, (frame, wanted) in enumerate(zip(found, given, strict=True)):
            off = np.abs(frame.astype(float) - wanted)[8:24, 8:24].mean()
            assert off < 16, f"{output}: frame {at} is off by {off:.0f} of 255"
        assert read_recipe(path)["prompt"] == "p" * 600, f"{output}: carries other words"
        if output.content_type.startswith("image/"):
            unit = 10 if output is OutputFormat.gif else 1
            ends = [round(at * 1000 / fps / unit) * unit for at in range(frames + 1)]
            wanted = [end - begin for begin, end in pairwise(ends)]
            assert durations_of(path)[:-1] == wanted[:-1], (
                f"{output}: frames last {durations_of(path)} ms, not {wanted}"
            )
            with Image.open(path) as image:
                assert image.info.get("loop") == 0, f"{output}: plays {image.info.get('loop')} times"
        else:
            with av.open(str(path)) as container:
                (stream,) = container.streams.video
                assert stream.average_rate == fps and stream.frames in (0, frames), (
                    f"{output}: {stream.average_rate} fps"
                )
                lasts = float(container.duration or 0) / av.time_base
                assert abs(lasts - frames / fps) < 0.02, f"{output}: lasts {lasts} s, not {frames / fps}"

    def pictures(self, folder: Path, frames: int, width: int = 64, height: int = 64) -> None:
        given = fading(frames, width, height)
        writer = VideoWriter(folder / "v.mp4", width=width, height=height, fps=8, num_frames=frames)
        with writer:
            for frame in given:
                writer.write(frame)
        writer.write_thumbnail(folder / "t.webp")
        writer.write_spritesheet(folder / "s.webp")
        thumbnail = np.asarray(Image.open(folder / "t.webp").convert("RGB")).astype(float)
        assert thumbnail.shape == (height, width, 3), f"a thumbnail of {thumbnail.shape}"
        assert np.abs(thumbnail - given[0]).mean() < 10, "the thumbnail is not the first frame"
        scale = min(1.0, 320 / max(width, height))
        shown, cell = min(16, frames), (round(width * scale), round(height * scale))
        columns = min(4, shown)
        sheet = Image.open(folder / "s.webp").convert("RGB")
        size = columns * cell[0], -(-shown // columns) * cell[1]
        assert sheet.size == size, f"a spritesheet of {frames} frames has {sheet.size}, not {size}"
        for at in range(shown):
            wanted = given[round(at * (frames - 1) / max(shown - 1, 1))]
            left, top = at % columns * cell[0], at // columns * cell[1]
            found = np.asarray(sheet.crop((left + 4, top + 4, left + 20, top + 20))).astype(float).mean()
            assert abs(found - wanted[4:20, 4:20].mean()) < 6, f"picture {at} of {shown} of {frames} frames is another"

    def sounds(self, folder: Path, output: OutputFormat, seconds: float) -> None:
        rate, path, frames, fps = 24_000, folder / f"sound.{output}", 9, 8
        time_of = np.arange(round(rate * seconds)) / rate
        tone = (0.5 * np.sin(2 * np.pi * 440 * time_of)).astype(np.float32)
        with VideoWriter(path, output, width=64, height=64, fps=fps, num_frames=frames) as writer:
            writer.add_sound(Sound(np.stack([tone, tone]), rate))
            for frame in fading(frames):
                writer.write(frame)
        found, own = sound_of(path)
        lasts = found.shape[1] / own
        assert own == (48_000 if output is OutputFormat.webm else rate), f"{output}: a sound of {own} Hz"
        assert len(found) == 2 and abs(lasts - frames / fps) < 0.03, f"{output}: {len(found)} channels for {lasts} s"
        loud = [float(np.abs(found[0, round(own * at) : round(own * (at + 0.05))]).max()) for at in (0.2, 0.9)]
        assert loud[0] > 0.3, f"{output}: a tone of 0.5 is {loud[0]:.2f} loud"
        assert (loud[1] > 0.3) == (seconds > 1), f"{output}: at 0.9 s a sound of {seconds} s is {loud[1]:.2f} loud"

    def wrong(self, folder: Path) -> None:
        def write(frames: int, shape: tuple[int, ...] = (64, 64, 3), kind: Any = np.uint8) -> None:
            with VideoWriter(folder / "w.mp4", width=64, height=64, fps=8, num_frames=3) as writer:
                for _ in range(frames):
                    writer.write(np.zeros(shape, kind))

        for given in ((2,), (4,), (3, (64, 32, 3)), (3, (64, 64, 3), np.float32)):
            try:
                write(*given)
            except ValueError:
                continue
            raise AssertionError(f"a clip of 3 frames of 64x64 takes {given}")
        for size in ((63, 64), (64, 65), (0, 64), (16_386, 64)):
            try:
                VideoWriter(folder / "w.mp4", width=size[0], height=size[1], fps=8, num_frames=1)
            except ValueError:
                continue
            raise AssertionError(f"an MP4 of {size} is begun")

    def blank(self) -> None:
        grey, noise = (
            np.full((64, 64, 3), 90, np.uint8),
            np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8),
        )
        flat, edges = grey.copy(), np.where(noise > 127, 255, 0).astype(np.uint8)
        flat[::4] += 4
        some = grey.copy()
        some[::8] += 5
        for frames, wanted in (
            ([grey, grey, noise], ["2 of 3 frames are a single colour"]),
            ([grey, noise], []),
            ([flat, flat], ["2 of 2 frames are a single colour"]),
            ([some, some], []),
            ([edges, edges, noise], ["2 of 3 frames are only black and white"]),
            ([noise], []),
        ):
            look = Look()
            for frame in frames:
                look.at(frame)
            assert look.warnings() == wanted, f"{look.warnings()}, not {wanted}"


SCENES: list[Scene] = [Clips()]
