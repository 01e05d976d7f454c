"""What the soak takes for growth, and whom it hears."""

import math
from random import Random
from typing import Any, cast

from chaos.gpu_soak import requests, verdicts
from chaos.samples import Sample
from chaos.service import TENANTS
from chaos.trend import trends
from chaos.visitors import Visitors

LIFE = 450.0
"""Seconds that a process runs which is started again."""


def samples(kilobytes_a_job: float = 0.0, megabytes_a_life: float = 0.0, files_a_job: float = 0.0) -> list[Sample]:
    """One every 5 s for half an hour, with 3,600 jobs an hour: of a process that runs all the time, and another.

    Args:
        kilobytes_a_job: leaked by both.
        megabytes_a_life: that the other one takes more each time that it is started.
        files_a_job: left open by both.
    """
    random = Random(1)

    def memory(age: float, more: float) -> int:
        warm = 5e6 * (1 - math.exp(-age / 200))
        return round(1e8 + warm + 1000 * kilobytes_a_job * age + more + random.gauss(0, 3e5))

    def sample(number: int) -> Sample:
        at = number * 5.0
        life, age = divmod(at, LIFE)
        parts = {
            "gateway-0": (1, at, memory(at, 0), 50 + int(files_a_job * at)),
            "gateway-1": (1 + int(life), age, memory(age, 1e6 * megabytes_a_life * life), 50 + int(files_a_job * age)),
        }
        stored = random.randrange(100, 120)
        return Sample(at, parts, stored, 5 * number, 5 * stored, 60, 3_000_000, 3 * stored, 10**6, 900 * number)

    return [sample(number) for number in range(360)]


def grows(found: list[Sample]) -> set[str]:
    trends_of = trends(found)
    assert {trend["verdict"] for trend in trends_of.values()} <= {"flat", "grows"}
    return {name for name, trend in trends_of.items() if trend["verdict"] == "grows"}


def test_a_process_that_warms_up_again_and_again_is_no_leak() -> None:
    assert grows(samples()) == set()


def test_some_kilobytes_a_job_are_found() -> None:
    found = trends(samples(kilobytes_a_job=3))["resident memory of gateway-0"]
    assert found["verdict"] == "grows" and 2000 < found["bytes_a_job"] < 4000
    assert grows(samples(kilobytes_a_job=3)) == {"resident memory of gateway-0"}


def test_a_file_left_open_by_some_jobs_is_found_and_a_pool_that_fills_is_not() -> None:
    assert grows(samples(files_a_job=0.03)) == {"open files of gateway-0"}
    assert grows(samples(files_a_job=0.003)) == set()


def test_what_a_process_takes_more_each_time_that_it_is_started_is_found() -> None:
    assert grows(samples(megabytes_a_life=2)) == {"resident memory of gateway-1"}


def test_the_receiver_of_a_soak_hears_of_every_tenants_jobs() -> None:
    visitors = Visitors(cast(Any, None), seed=1)
    try:
        assert len({visitors._receiver.url(tenant) for tenant in TENANTS}) == len(TENANTS)
    finally:
        visitors._receiver.close()


def rows(model: str, **grown: float) -> list[dict[str, Any]]:
    """A GPU's jobs of a model: each request twice, in whose second half figures are higher, in percent."""
    base = {"allocated": 3e9, "reserved": 4e9, "peak": 6e9, "peak_reserved": 7e9, "resident": 2e9, "files": 50}
    sizes = (0.4, 1.0, 0.7)
    return [
        {"model": model, "half": half}
        | {
            figure: value * (size if figure.startswith("peak") else 1) * (1 + grown.get(figure, 0) / 100 * (half == 2))
            for figure, value in base.items()
        }
        for half, order in ((1, sizes), (2, sizes[::-1]))
        for size in order
    ]


def test_what_a_gpus_second_half_needs_beyond_the_first_is_found_of_each_model() -> None:
    found = verdicts(rows("demo", reserved=2) + rows("wan", peak=3, allocated=0.5))
    grows = {name for name, each in found.items() if each["verdict"] == "grows"}
    assert grows == {"reserved of demo", "peak of wan", "allocated of wan"}
    assert {each["verdict"] for name, each in found.items() if name not in grows} == {"flat"}


def test_half_of_a_gpus_run_tells_nothing() -> None:
    found = verdicts(rows("wan")[:3])
    assert {each["verdict"] for each in found.values()} == {"open"}


def test_a_gpu_is_asked_for_fifty_videos_of_mixed_sizes_presets_and_adapters() -> None:
    asked = [*requests("demo"), *requests("wan")]
    assert 2 * len(asked) == 50 and len({str(each) for each in asked}) == 25
    assert len({(each["size"], each.get("num_frames")) for each in asked}) > 15
    assert {each.get("quality") for each in asked} >= {"exact", "quality", "balanced", "fast"}
    assert {lora["name"] for each in asked for lora in each.get("loras", [])} == {"eight-steps", "four-steps"}
