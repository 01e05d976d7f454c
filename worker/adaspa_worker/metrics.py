"""Metrics of a worker. The child that runs the jobs writes, the parent serves: by files that both know.

prometheus_client keeps its values in files when ``PROMETHEUS_MULTIPROC_DIR`` names a folder as it is imported, which
``__main__`` sees to before Celery starts.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from adaspa_api.report import AttentionReport
from adaspa_jobs.listening import EVERYWHERE, bindable
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
PHASE_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
STEP_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120)
SHARES = tuple(i / 20 for i in range(1, 21))

attempts = Counter("adaspa_attempts", "Number of attempts that ended, by outcome.", ["model", "outcome"])
busy = Gauge(
    "adaspa_worker_busy", "Whether an attempt is running (1) or not (0).", ["model"], multiprocess_mode="livesum"
)
phase_seconds = Histogram(
    "adaspa_phase_seconds", "Duration of job phases in seconds.", ["model", "phase"], buckets=PHASE_SECONDS
)
step_seconds = Histogram(
    "adaspa_denoising_step_seconds", "Duration of denoising steps in seconds.", ["model", "kind"], buckets=STEP_SECONDS
)
density = Histogram(
    "adaspa_density", "Share of attention blocks computed in a job's sparse steps.", ["model"], buckets=SHARES
)
work = Histogram(
    "adaspa_attention_work",
    "Attention computed in a job, as a share of fully dense attention.",
    ["model"],
    buckets=SHARES,
)
fell_back = Counter("adaspa_fell_back", "Number of jobs whose attention did not run entirely as scheduled.", ["model"])
recall = Histogram("adaspa_recall", "Share of the attention mass in the computed blocks.", ["model"], buckets=SHARES)
cache_bytes = Gauge(
    "adaspa_cache_bytes",
    "Peak size of the LSE and index caches in the latest job, in bytes.",
    ["model"],
    multiprocess_mode="mostrecent",
)
gpu_bytes = Gauge(
    "adaspa_gpu_memory_bytes", "Memory of the GPU in bytes.", ["kind"], multiprocess_mode="livemostrecent"
)


def prepare() -> None:
    """Make the folder of the values; for the program that is about to become the worker."""
    os.environ[FOLDER] = tempfile.mkdtemp(prefix="adaspa-metrics-")


def serve(port: int) -> None:
    """Serve ``/metrics`` from a thread of the parent. Raises OSError."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    start_http_server(port, addr=bindable(EVERYWHERE), registry=registry)


def forget_earlier_child() -> None:
    """Remove what a child that was killed last said of the present; its counts stay."""
    for file in Path(os.environ[FOLDER]).glob("gauge_live*.db") if FOLDER in os.environ else ():
        file.unlink(missing_ok=True)


def remove() -> None:
    """Remove the folder, at the end of the worker."""
    if folder := os.environ.get(FOLDER):
        shutil.rmtree(folder, ignore_errors=True)


def observe_report(model: str, report: AttentionReport) -> None:
    """Record what AdaSpa did in a job that completed."""
    density.labels(model).observe(report.density)
    if report.attention_work is not None:
        work.labels(model).observe(report.attention_work)
    fell_back.labels(model).inc(bool(report.fell_back))
    if report.recall is not None:
        recall.labels(model).observe(report.recall)
    cache_bytes.labels(model).set(report.cache_bytes)


def observe_gpu() -> None:
    """Record the GPU's memory between two jobs and the latest one's peaks, if there is a GPU and the child uses it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        gpu_bytes.labels("total").set(total)
        gpu_bytes.labels("used").set(total - free)
        gpu_bytes.labels("allocated").set(torch.cuda.memory_allocated())
        gpu_bytes.labels("reserved").set(torch.cuda.memory_reserved())
        gpu_bytes.labels("peak").set(torch.cuda.max_memory_allocated())
        gpu_bytes.labels("peak_reserved").set(torch.cuda.max_memory_reserved())
