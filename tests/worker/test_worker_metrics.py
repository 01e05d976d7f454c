"""What a worker's metrics say of its GPU, and where they are served."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adaspa_api.report import AttentionReport
from adaspa_worker import __main__ as program
from adaspa_worker import metrics
from adaspa_worker.attempt import Attempt
from gateway_process import taken_port
from prometheus_client import REGISTRY

GIB = 2**30
SAID = {
    **{"total": 80 * GIB, "used": 50 * GIB, "allocated": 40 * GIB},
    **{"reserved": 45 * GIB, "peak": 60 * GIB, "peak_reserved": 70 * GIB},
}
CALLS = {
    **{"memory_allocated": "allocated", "memory_reserved": "reserved"},
    **{"max_memory_allocated": "peak", "max_memory_reserved": "peak_reserved"},
}


def gauges() -> dict[str, float]:
    return {each.labels["kind"]: each.value for each in metrics.gpu_bytes.collect()[0].samples}


@pytest.mark.parametrize("there", [True, False])
def test_a_gpus_memory_is_noted_once_a_job_has_left_it(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    done: list[str] = []
    nobodys: Any = None
    engine: Any = SimpleNamespace(reset=lambda: done.append("reset"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (done.append("noted"), (30 * GIB, 80 * GIB))[1])
    for call, kind in CALLS.items():
        monkeypatch.setattr(torch.cuda, call, lambda kind=kind: SAID[kind])
    metrics.gpu_bytes.clear()
    try:
        Attempt(nobodys, nobodys).reset()
        assert done == [], "an attempt that has loaded nothing holds nothing"
        Attempt(nobodys, nobodys, engine).reset()
        assert done == (["reset", "noted"] if there else ["reset"]) and gauges() == (SAID if there else {})
    finally:
        metrics.gpu_bytes.clear()


def test_each_job_counts_once_with_what_its_report_says() -> None:
    """A figure that the report lacks is none, and not zero; jobs that fell back are counted, not their reasons."""
    steps = {"dense_steps": 1, "search_steps": 1, "sparse_steps": 2}
    common = steps | {"dense_seconds": 0.1, "search_seconds": 0.1, "sparse_seconds": 0.1}
    reports = [
        {"density": 0.5, "attention_work": 0.6, "recall": 0.9, "cache_bytes": 70},
        {"density": 1.0, "fell_back": ["layer 1: no room", "layer 2: no room"], "cache_bytes": 0},
        {"density": 0.25, "recall": 0.0, "attention_work": 0.3, "fell_back": ["layer 0: no pattern"], "cache_bytes": 9},
    ]
    model = "each-job-counts-once"
    for report in reports:
        metrics.observe_report(model, AttentionReport.model_validate(common | report))
    wanted = {
        "density_sum": 1.75,
        "density_count": 3,
        "attention_work_sum": pytest.approx(0.9),
        "attention_work_count": 2,
        "recall_sum": pytest.approx(0.9),
        "recall_count": 2,
        "fell_back_total": 2,
        "cache_bytes": 9,
    }
    assert {name: REGISTRY.get_sample_value(f"adaspa_{name}", {"model": model}) for name in wanted} == wanted


def test_a_port_that_is_taken_is_named_before_the_worker_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with taken_port() as port, pytest.raises(SystemExit) as ended:
        program.check_port(port)
    assert ended.value.code == 1
    for _ in range(2):
        program.check_port(port)  # it is only looked at
    assert capsys.readouterr().err.startswith(f"adaspa worker: ADASPA_METRICS_PORT: cannot use port {port} (")


CHILDREN = """
    import os, signal, sys
    from adaspa_worker import metrics
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    def child(run, ends):
        if (pid := os.fork()) == 0:
            run()
            ends()
        os.waitpid(pid, 0)

    def scrape():
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        names = ("adaspa_attempts_total", "adaspa_worker_busy", "adaspa_cache_bytes", "adaspa_gpu_memory_bytes")
        print(*(sum(s.value for m in registry.collect() for s in m.samples if s.name == name) for name in names))

    def first():
        metrics.attempts.labels("m", "completed").inc()
        metrics.busy.labels("m").set(1)
        metrics.cache_bytes.labels("m").set(70)
        metrics.gpu_bytes.labels("total").set(80)

    def second():
        metrics.attempts.labels("m", "failed").inc(2)
        metrics.busy.labels("m").set(0)
        metrics.cache_bytes.labels("m").set(50)

    child(first, lambda: os.kill(os.getpid(), signal.SIGKILL))
    scrape()
    metrics.forget_earlier_child()
    scrape()
    child(second, lambda: os._exit(0))
    scrape()
"""


def test_the_counts_of_a_killed_child_stay_and_what_it_said_of_the_present_goes(tmp_path: Path) -> None:
    line = [sys.executable, "-c", dedent(CHILDREN)]
    said = subprocess.check_output(line, env=os.environ | {metrics.FOLDER: str(tmp_path)}, text=True)
    attempts_busy_cache_gpu = [[float(word) for word in row.split()] for row in said.splitlines()]
    assert attempts_busy_cache_gpu == [[1, 1, 70, 80], [1, 0, 70, 0], [3, 0, 50, 0]]
