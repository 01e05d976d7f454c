"""Scenes of what a worker tells while it runs a job: phases, steps, previews, beats, and how it keeps its lease."""

import io
import os
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from adaspa_api.report import TokenCount
from adaspa_jobs.job import Progress, percent
from adaspa_worker import course as courses
from adaspa_worker import heartbeat, metrics
from adaspa_worker.course import Course
from adaspa_worker.lease import LeaseKeeper
from adaspa_worker.preview import Previews, to_webp
from drawn import corners
from PIL import Image

from chaos.scenes import Scene
from chaos.stage import Stage
from chaos.workshop import fading, params


class Courses(Scene):
    """The phases and steps of a job are told."""

    name = "by hand: what a worker tells"
    promise = "progress is what was done, and the time that is left is that of the latest steps"

    def play(self, stage: Stage) -> None:
        told, now, before = list[Progress](), [100.0], self.counted()
        plain, courses.time = courses.time, SimpleNamespace(monotonic=lambda: now[0])  # type: ignore[assignment]
        try:
            course = Course(params(steps=20), told.append)
            with course.phase("loading"):
                now[0] += 3
            with course.phase("encoding_prompt"):
                now[0] += 0.25
            course.tokens = {"prompt_tokens": TokenCount(used=3, cut=0, limit=9)}
            with course.phase("denoising"):
                now[0] += 0.5
                course.resume(4)
                for step, seconds in ((5, 9.0), (6, 1.0), (7, 3.0), (8, 2.0), (9, 2.5), (10, 5.5), (11, 4.0)):
                    now[0] += seconds
                    course.step(step, "sparse" if step % 2 else "search")
            with course.phase("decoding"):
                now[0] += 1.5
            with course.phase("uploading"):
                now[0] += 0.125
        finally:
            courses.time = plain
        took = [9.0, 1.0, 3.0, 2.0, 2.5, 5.5, 4.0]
        left = [round((20 - at) * median(took[max(0, at - 9) : at - 4]), 1) for at in range(5, 12)]
        wanted = [("loading", 0, None), ("encoding_prompt", 0, None), ("denoising", 0, None), ("denoising", 4, None)]
        wanted += [("denoising", at, left[at - 5]) for at in range(5, 12)]
        wanted += [("decoding", 20, None), ("uploading", 20, None)]
        found = [(each.phase, each.step, each.eta_seconds) for each in told]
        assert found == wanted, f"was told {found}, not {wanted}"
        assert {each.steps for each in told} == {20}
        assert [each.resumed_from_step for each in told] == [None] * 3 + [4] * (len(told) - 3), "where it resumed"
        assert [each.prompt_tokens is not None for each in told] == [False] * 2 + [True] * (len(told) - 2)
        assert [each.step_kind for each in told[4:11]] == [*("sparse", "search") * 3, "sparse"]
        phases = {"loading": 3.0, "encoding_prompt": 0.25, "denoising": 27.5, "decoding": 1.5, "uploading": 0.125}
        assert course.timings == phases, f"{course.timings}, not {phases}"
        kinds = {"sparse": 9.0 + 3.0 + 2.5 + 4.0, "search": 1.0 + 2.0 + 5.5}
        after = self.counted()
        grew = {labels: round(seconds - before.get(labels, 0.0), 6) for labels, seconds in after.items()}
        assert {labels: seconds for labels, seconds in grew.items() if seconds} == kinds | phases, f"metrics: {grew}"
        shares = {"queued": 0, "loading": 0, "encoding_prompt": 1, "decoding": 96, "uploading": 99}
        for phase, share in shares.items():
            assert percent(Progress(phase=phase, steps=4)) == share, f"{phase} is {share} percent"  # type: ignore[arg-type]
        for step, share in ((0, 2), (1, 25), (2, 48), (3, 71), (4, 95)):
            assert percent(Progress(phase="denoising", step=step, steps=4)) == share, f"step {step} of 4"
        self.previews()
        self.heartbeats()

    def counted(self) -> dict[str, float]:
        """Seconds of steps and phases by their kind, as the worker's metrics have them."""
        samples = [each for kept in (metrics.step_seconds, metrics.phase_seconds) for each in kept.collect()[0].samples]
        own = [each for each in samples if each.name.endswith("_sum") and each.labels["model"] == "stub"]
        return {each.labels.get("kind") or each.labels["phase"]: each.value for each in own}

    def heartbeats(self) -> None:
        """The file whose age says whether a worker is alive."""

        def alive(most: float) -> bool:
            try:
                with patch("sys.argv", ["heartbeat", "--max-age", str(most)]):
                    heartbeat.main()
            except SystemExit:
                return False
            return True

        with TemporaryDirectory() as folder:
            os.environ[heartbeat.VARIABLE] = f"{folder}/beat"
            assert not alive(600), "a worker that has never beaten is alive"
            heartbeat.beat()
            assert alive(600), "a worker that has just beaten is dead"
            os.utime(f"{folder}/beat", (time.time() - 100, time.time() - 100))
            assert alive(200) and not alive(50), "a hundred seconds after its latest beat"
            del os.environ[heartbeat.VARIABLE]
        heartbeat.beat()
        assert not alive(600), "without a file nothing is known"

    def previews(self) -> None:
        """Once a second at most, and of all the time a fiftieth."""
        now, costs = [0.0], iter([0.01, 0.01, 0.05, *[0.01] * 20])

        def make() -> np.ndarray:
            now[0] += next(costs)
            return np.stack([np.asarray(corners(300, 200))] * 20)

        previews, due, wanted = Previews(make, 2.5, clock=lambda: now[0]), list[float](), list[float]()
        last, spent, cost = 0.0, 0.0, 0.02
        for at in range(1, 61):
            now[0] = max(now[0], at * 0.25)
            if now[0] - last >= 1.0 and spent + cost <= 0.02 * now[0]:
                wanted.append(now[0])
            if previews.due():
                due.append(now[0])
                began = now[0]
                assert previews.take()
                last, cost = now[0], now[0] - began
                spent += cost
            assert due == wanted, f"previews at {due}, not at {wanted}"
        assert len(due) > 5 and abs(previews.spent - spent) < 1e-9, f"{len(due)} previews in {previews.spent} s"
        noise = np.random.default_rng(1).integers(0, 256, (20, 400, 640, 3), np.uint8)
        plain = np.stack(fading(20, 300, 200))
        for frames, most in ((plain, (8,)), (noise, (1, 8)), (noise[:1], (1,)), (plain[::7], (3,))):
            content = to_webp(frames, 2.5)
            with Image.open(io.BytesIO(content)) as shown:
                count = getattr(shown, "n_frames", 1)
                assert len(content) <= 48 * 1024, f"a preview of {len(content)} bytes"
                assert max(shown.size) == 192, f"a preview of {shown.size}"
                assert abs(shown.width / shown.height - frames.shape[2] / frames.shape[1]) < 0.02, shown.size
                assert count in most, f"a preview of {count} frames of {len(frames)}"
                if count > 1:
                    shown.load()
                    assert abs(shown.info["duration"] * count - 2500) < 20 * count, shown.info["duration"]


class Keeps(Scene):
    """What a job's keeper asks of the store, by a clock that the audit sets."""

    name = "by hand: a lease that is kept"
    promise = "a cancel is heard within seconds, a lease never runs out, and every step is told once and in order"

    def play(self, stage: Stage) -> None:
        now, asked = [100.0], list[tuple[float, str, Any]]()

        def note(what: str) -> Callable[..., None]:
            return lambda _, *told: asked.append((now[0], what, told))

        store: Any = SimpleNamespace(
            lease_seconds=30.0, renew=note("renew"), hear=note("hear"), report_progress=note("told")
        )
        lease: Any = SimpleNamespace(job=SimpleNamespace(id="video_x"))
        clock = SimpleNamespace(monotonic=lambda: now[0], sleep=None)
        with patch("adaspa_worker.lease.time", clock):
            keeper = LeaseKeeper(
                store, lease, lambda: False, every=2.0, limit=1e9, unwind=30.0, abandon=print, tell_every=0.5
            )
            for _ in range(60):
                now[0] += 2.0
                assert keeper._hear()
            renewed = [at for at, what, _ in asked if what == "renew"]
            assert len(asked) == 60, f"in 120 s the store is asked {len(asked)} times whether the job may go on"
            gaps = [then - at for at, then in pairwise([100.0, *renewed])]
            assert gaps, "a lease of 30 s is never renewed"
            assert max(gaps) <= 10.0 and 10 <= len(renewed) <= 30, f"a lease of 30 s is renewed after {gaps}"
            asked.clear()
            for step in range(1, 41):
                now[0] += 0.1
                keeper.report(Progress(phase="denoising", step=step, steps=40))
            keeper._tell()
        times = [at for at, what, _ in asked if what == "told"]
        steps = [progress.step for _, what, told in asked if what == "told" for progress in told]
        assert steps == [*range(1, 41)], f"told of the steps {steps}"
        assert len(times) < 15 and all(then - at > 0.4 for at, then in pairwise(times[:-1])), f"told at {times}"


SCENES: list[Scene] = [Courses(), Keeps()]
