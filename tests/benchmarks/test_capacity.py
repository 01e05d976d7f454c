"""The simulation of a cluster against what queueing theory knows exactly."""

import json
import math
import random
import shutil
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from adaspa_jobs.settings import Settings

from benchmarks.capacity import __main__ as simulation
from benchmarks.capacity import groups, redis_cost
from benchmarks.capacity.bottlenecks import RedisCost, demand, most_workers
from benchmarks.capacity.cluster import Fleet, poisson, simulate
from benchmarks.capacity.measured_steps import take, text
from benchmarks.capacity.page import fill
from benchmarks.capacity.phases import Times
from benchmarks.capacity.questions import row
from benchmarks.capacity.sizing import MOST_BUSY, erlang_c, wait, workers_for

JOBS = 40_000
FILES = Path(__file__).parents[2] / "docs" / "scaling"


def exponential(per_hour: float, mean_seconds: float, seed: int) -> Iterator[tuple[float, float]]:
    numbers = random.Random(seed)
    for gap, _ in poisson(per_hour, mean_seconds, seed + 1000):
        yield gap, numbers.expovariate(1 / mean_seconds)


@pytest.mark.parametrize(("workers", "busy"), [(1, 0.7), (4, 0.8), (12, 0.8)])
def test_waits_are_those_of_m_m_c(workers: int, busy: float) -> None:
    seconds, load = 100.0, workers * busy
    expected = erlang_c(workers, load) * seconds / (workers - load)
    fleet, per_hour = Fleet(workers, workers), load / seconds * 3600
    outcomes = [simulate(exponential(per_hour, seconds, seed), fleet, JOBS) for seed in range(4)]
    waits = sorted(waited for outcome in outcomes for waited in outcome.waits)
    assert sum(waits) / len(waits) == pytest.approx(expected, rel=0.1)
    assert sum(waited > 0 for waited in waits) / len(waits) == pytest.approx(erlang_c(workers, load), rel=0.05)
    assert outcomes[0].busy_seconds / outcomes[0].gpu_seconds == pytest.approx(busy, rel=0.02)
    assert waits[int(0.95 * len(waits))] == pytest.approx(wait(0.95, workers, load, seconds), rel=0.1)


@pytest.mark.parametrize("busy", [0.5, 0.8])
def test_waits_are_those_of_m_d_1(busy: float) -> None:
    seconds = 600.0
    outcome = simulate(poisson(busy / seconds * 3600, seconds, seed=1), Fleet(1, 1), JOBS)
    assert outcome.mean_wait == pytest.approx(busy * seconds / (2 * (1 - busy)), rel=0.1)


def test_regular_arrivals_wait_for_nobody() -> None:
    outcome = simulate(repeat((100.0, 99.0)), Fleet(1, 1), 100)
    assert outcome.waits == [0.0] * 100
    assert outcome.span_seconds == 100 * 100 + 99


def test_the_share_of_cold_starts_is_that_of_gaps_longer_than_the_cooldown() -> None:
    """A worker that stays for T after each job misses the jobs whose gap to the last job's end is longer."""
    cooldown, per_hour = 1800.0, 0.5
    fleet = Fleet(0, 1, start_seconds=60, load_seconds=30, poll_seconds=30, cooldown_seconds=cooldown)
    outcome = simulate(poisson(per_hour, 10, seed=1), fleet, 2000)
    cold = sum(waited >= 60 for waited in outcome.waits) / 2000
    assert cold == pytest.approx(math.exp(-per_hour / 3600 * (cooldown + 10)), rel=0.05)
    assert outcome.starts == pytest.approx(cold * 2000, rel=0.02)  # two may come during one start


def test_no_busy_worker_is_ended_unless_that_is_allowed() -> None:
    fleet = Fleet(0, 10, start_seconds=60, load_seconds=30, cooldown_seconds=300)
    assert simulate(poisson(30, 600, seed=1), fleet, 2000).given_back == 0
    hit = simulate(poisson(30, 600, seed=1), Fleet(1, 10, 60, 30, cooldown_seconds=300, ending="any"), 2000)
    assert hit.given_back > 0
    assert hit.gpu_seconds < simulate(poisson(30, 600, seed=1), fleet, 2000).gpu_seconds
    # a job that is given back loses no work, but for the loading of the model
    assert 600 * 2000 - 1 < hit.busy_seconds < 600 * 2000 + 30 * hit.starts


def test_every_job_is_run_once_and_the_accounts_agree() -> None:
    outcome = simulate(poisson(50, 300, seed=3), Fleet(1, 8, 100, 50, ending="any"), 1000)
    assert len(outcome.waits) == 1000 and min(outcome.waits) >= 0
    assert outcome.busy_seconds <= outcome.gpu_seconds <= 8 * outcome.span_seconds


def test_one_worker_less_would_break_the_promise() -> None:
    found = workers_for(100, 600, target_seconds=120)
    assert found.p95_seconds <= 120 and found.utilisation <= MOST_BUSY
    for workers, kept in ((found.workers, True), (found.workers - 1, False)):
        outcome = simulate(exponential(100, 600, seed=1), Fleet(workers, workers), 20_000)
        assert (outcome.wait(0.95) <= 120) is kept


def test_jobs_that_are_equally_long_never_wait_longer_than_promised() -> None:
    for per_hour, target in ((5, 300), (20, 60), (100, 60)):
        found = workers_for(per_hour, 533, target)
        outcome = simulate(poisson(per_hour, 533, seed=1), Fleet(found.workers, found.workers), 4000)
        assert outcome.wait(0.95) <= target


def test_a_fleet_of_hundreds_is_sized_too() -> None:
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert workers_for(2000, 533, 60).workers == 312


def test_a_jobs_seconds_are_those_of_its_schedule() -> None:
    model = Times.load(FILES / "phases.json").models[0]
    seconds = model.seconds
    around = seconds.encoding_prompt.value + seconds.decoding.value + seconds.uploading.value
    assert model.job_seconds(sparse=False) == pytest.approx(around + model.steps * seconds.dense.value)
    steps = model.warmup * seconds.dense.value + model.searches * seconds.search.value
    steps += (model.steps - model.warmup - model.searches) * seconds.sparse.value
    assert model.job_seconds() == pytest.approx(around + steps)


def test_a_groups_steps_alone_are_faster() -> None:
    model = Times.load(FILES / "phases.json").models[0]
    group = next(group for group in model.groups if group.gpus == 2)
    seconds = model.seconds
    around = seconds.encoding_prompt.value + seconds.decoding.value + seconds.uploading.value
    dense = around + model.steps * seconds.dense.value / group.dense.value
    assert model.job_seconds(sparse=False, gpus=2) == pytest.approx(dense)
    assert model.job_seconds() / 2 < model.job_seconds(gpus=2) < model.job_seconds()


def test_two_gpus_on_one_video_are_for_latency_and_two_workers_for_throughput() -> None:
    model = Times.load(FILES / "phases.json").models[0]
    both, apart = model.job_seconds(gpus=2), model.job_seconds()
    # One group and Poisson arrivals are M/M/1: a video takes 1 / (1 / both - rate).
    assert groups.until_done(model, 2, 2, 4.0) == pytest.approx(1 / (1 / both - 4 / 3600), abs=0.1)
    assert groups.until_done(model, 2, 2, 1.0) < groups.until_done(model, 2, 1, 1.0)  # type: ignore[operator]
    assert groups.until_done(model, 2, 2, 10.0) > groups.until_done(model, 2, 1, 10.0)  # type: ignore[operator]
    rate = 0.95 * 2 * 3600 / apart
    assert groups.until_done(model, 2, 1, rate - 0.01) and groups.until_done(model, 2, 2, rate - 0.01) is None


def test_every_number_says_where_it_comes_from() -> None:
    data = json.loads((FILES / "phases.json").read_text())
    for model in data["models"]:
        for name, figure in model["seconds"].items():
            assert figure["basis"] in ("measured", "computed", "assumed") and figure["source"], (model["id"], name)


def test_the_page_shows_the_results_and_these_come_from_the_files() -> None:
    results = json.loads((FILES / "results.json").read_text())
    page = (FILES / "README.md").read_text()
    assert fill(page, results) == page
    times, redis = Times.load(FILES / "phases.json"), RedisCost.load(FILES / "redis.json")
    assert results["jobs"][0]["seconds"] == pytest.approx(times.models[0].job_seconds(), abs=0.1)
    asked = demand(10_000, times.models[0], redis, Settings())
    assert results["sharing"][-1] == row(asked)
    assert results["groups"] == [row for model in times.models if model.groups for row in groups.beside(model)]
    assert results["most_workers"]["usual settings"] == most_workers(times.models[0], redis, Settings(), times.limits)


def test_the_command_answers_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name in ("phases.json", "redis.json", "README.md"):
        shutil.copy(FILES / name, tmp_path)
    smaller = {"REQUESTS": (20,), "TARGETS": (300,), "RATES": (1,), "SCALED_JOBS": 50, "WORKERS": (10, 10_000)}
    for name, value in smaller.items():
        monkeypatch.setattr(simulation, name, value)
    monkeypatch.setattr("sys.argv", ["simulation", str(tmp_path)])
    simulation.main()
    results = json.loads((tmp_path / "results.json").read_text())
    assert fill((tmp_path / "README.md").read_text(), results) == (tmp_path / "README.md").read_text()
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "redis connections" in capsys.readouterr().out


def test_steps_are_taken_from_the_gpu_benchmark() -> None:
    benchmarks = sorted((FILES.parent / "kernels").glob("models-*.json"))
    written = (FILES / "phases.json").read_text()
    taken = Times.model_validate_json(
        text(take(json.loads(written), benchmarks, FILES.parent / "kernels/parallel.json"))
    )
    assert taken.models[0].groups == Times.load(FILES / "phases.json").models[0].groups
    assert [group.sparse.basis for group in taken.models[0].groups] == ["measured", "computed"]
    for model in taken.models:
        seconds = model.seconds
        assert {figure.basis for figure in (seconds.dense, seconds.search, seconds.sparse)} == {"measured"}
        assert seconds.sparse.value < seconds.dense.value
    for figure in (figure for model in Times.load(FILES / "phases.json").models for figure in (model.seconds.dense,)):
        assert (FILES.parent / "kernels" / figure.source.split(":")[0]).is_file()


def test_what_redis_costs_is_measured_as_the_answers_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In small; a real worker, whose connections are counted, would take its time."""
    smaller = {"JOBS": 5, "STEPS": 3, "IDLE_SECONDS": 0.5, "FOLLOWERS": 3, "FOLLOWED_SECONDS": 1}
    smaller |= {"IDLE_WORKERS": 3, "ROUNDS": 1, "BEAT_SECONDS": 1.0}
    for name, value in smaller.items():
        monkeypatch.setattr(redis_cost, name, value)
    counted = {"idle": 5, "busy": 6, "memory_bytes": 1700}
    monkeypatch.setattr(redis_cost, "connections_of_a_worker", lambda *_: counted)
    monkeypatch.setattr("sys.argv", ["redis_cost", str(tmp_path / "redis.json")])
    redis_cost.main()
    measured, usual = RedisCost.load(tmp_path / "redis.json"), RedisCost.load(FILES / "redis.json")
    assert measured.costs.keys() == usual.costs.keys()
    for name in ("submit", "look", "step", "renew", "complete"):
        assert measured.costs[name].commands == pytest.approx(usual.costs[name].commands, abs=1), name
    assert measured.memory_bytes.ended > measured.memory_bytes.running > 0
    assert demand(100, Times.load(FILES / "phases.json").models[0], measured, Settings()).redis_commands > 0
