"""What an operator sees of the running service: metrics, traces, logs, heartbeat."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from collector import Collector
from prometheus_text import value
from service_process import Service
from tiny_wan import FAILING_PROMPT
from waiting import PATIENCE, until

PHASES = ("loading", "encoding_prompt", "denoising", "decoding", "encoding", "uploading")


@pytest.fixture
def worker_metrics(service: Service, metrics_port: int) -> "Scrape":
    return Scrape(f"http://127.0.0.1:{metrics_port}/metrics")


@pytest.fixture
def gateway_metrics(service: Service) -> "Scrape":
    return Scrape(f"http://127.0.0.1:{service.port}/metrics", service.headers)


class Scrape:
    """Samples of one target, scraped anew each time."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        self.url, self.headers = url, headers

    def __call__(self, name: str, **labels: str) -> float | None:
        answer = httpx.get(self.url, headers=self.headers, timeout=PATIENCE)
        assert answer.headers["Content-Type"].startswith("text/plain")
        return value(answer.raise_for_status().text, name, **labels)


def test_a_scrape_shows_what_jobs_did(service: Service, worker_metrics: Scrape, gateway_metrics: Scrape) -> None:
    service.run()  # so that its worker, which others may have just killed, has counted something

    def counts() -> dict[str, float]:
        once = {phase: worker_metrics("adaspa_phase_seconds_count", model="tiny", phase=phase) for phase in PHASES}
        once["ended"] = gateway_metrics("adaspa_jobs_ended_total", model="tiny", status="completed", code="")
        once["attempts"] = worker_metrics("adaspa_attempts_total", model="tiny", outcome="completed")
        for figure in ("adaspa_density_count", "adaspa_attention_work_count"):
            once[figure] = worker_metrics(figure, model="tiny")
        return {name: found or 0 for name, found in once.items()}

    def steps() -> float:
        kinds = ("dense", "search", "sparse")
        counted = (worker_metrics("adaspa_denoising_step_seconds_count", model="tiny", kind=kind) for kind in kinds)
        return sum(found or 0 for found in counted)

    until(lambda: worker_metrics("adaspa_worker_busy", model="tiny") == 0, "nothing is counted any more")
    before, stepped = counts(), steps()
    assert service.run(steps=6).status == "completed"
    expected = {name: count + 1 for name, count in before.items()}
    until(lambda: counts() == expected, "each is counted once; the attempt comes after the job's end")
    assert steps() == stepped + 6
    assert worker_metrics("adaspa_fell_back_total", model="tiny") == 0
    created = gateway_metrics("adaspa_http_requests_total", method="POST", route="/videos", status="200")
    assert created is not None and created >= 1
    assert gateway_metrics("adaspa_store_up") == 1


def test_waiting_and_running_jobs_are_counted(
    service: Service, worker_metrics: Scrape, gateway_metrics: Scrape
) -> None:
    until(lambda: gateway_metrics("adaspa_jobs_unfinished", model="tiny") == 0, "all others have ended")
    running = service.client.create("a red circle", steps=2000)
    waiting = service.client.create("a blue square", steps=2000)
    service.until_step(running.id, 1)
    assert gateway_metrics("adaspa_jobs_unfinished", model="tiny") == 2
    assert gateway_metrics("adaspa_jobs_running", model="tiny") == 1
    assert worker_metrics("adaspa_worker_busy", model="tiny") == 1
    for video in (waiting, running):
        service.client.delete(video.id)
    until(lambda: gateway_metrics("adaspa_jobs_unfinished", model="tiny") == 0, "both have ended")
    until(lambda: worker_metrics("adaspa_worker_busy", model="tiny") == 0, "the worker is idle")


def test_a_failure_is_counted_by_its_code(service: Service, worker_metrics: Scrape, gateway_metrics: Scrape) -> None:
    labels = {"model": "tiny", "status": "failed", "code": "generation_failed"}

    def counted() -> list[float]:
        found = gateway_metrics("adaspa_jobs_ended_total", **labels)
        return [found or 0, worker_metrics("adaspa_attempts_total", model="tiny", outcome="failed") or 0]

    before = counted()
    assert service.run(FAILING_PROMPT).status == "failed"
    until(lambda: counted() == [count + 1 for count in before], "job and attempt are counted")


def test_a_killed_child_is_no_longer_busy_and_its_lease_is_counted(
    service: Service, worker_metrics: Scrape, gateway_metrics: Scrape
) -> None:
    before = gateway_metrics("adaspa_leases_lost_total", model="tiny") or 0
    video = service.client.create("a red circle", steps=1000)
    service.until_step(video.id, 1)
    _, [child] = service.part("adaspa_worker")
    os.kill(child, signal.SIGKILL)
    until(lambda: gateway_metrics("adaspa_leases_lost_total", model="tiny") == before + 1, "the lease is lost")
    assert service.client.wait(video.id).status == "completed"
    until(lambda: worker_metrics("adaspa_worker_busy", model="tiny") == 0, "nobody is busy")


def test_one_trace_leads_from_the_request_through_the_queue_into_the_phases(
    service: Service, collector: Collector
) -> None:
    assert service.run().status == "completed"
    wanted = {
        ("adaspa-gateway", "POST /videos"),
        ("adaspa-worker", "run/adaspa.generate"),
        *(("adaspa-worker", phase) for phase in PHASES if phase != "encoding"),
    }

    def traced() -> bool:
        spans = list(collector.spans)
        return any(wanted <= {(s, name) for s, name, other in spans if other == trace} for _, _, trace in spans)

    until(traced, "a whole trace has come")
    assert not [name for _, name, _ in collector.spans if "healthz" in name]


def test_every_log_line_is_json_and_those_of_a_job_name_it_and_its_attempt(service: Service) -> None:
    before = {name: len(service.log(name)) for name in ("gateway", "worker")}
    video = service.run()
    until(lambda: f"{video.id}: completed" in service.log("worker"), "the worker has logged the job's end")
    lines = [json.loads(line) for name, begin in before.items() for line in service.log(name)[begin:].splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    of_the_job = [line for line in lines if line.get("job") == video.id]
    assert [line["attempt"] for line in of_the_job if line["message"].endswith("completed")] == [1]
    assert {line.get("attempt") for line in of_the_job if line["logger"].startswith("adaspa_worker")} == {1}


def test_the_probe_follows_the_heartbeat(service: Service) -> None:
    file = service.data_dir / "run" / "worker.heartbeat"
    until(lambda: probe(file, 20).returncode == 0, "it is heard of lately")
    video = service.client.create("a red circle", steps=2000)
    service.until_step(video.id, 1)
    before = file.stat().st_mtime
    until(lambda: file.stat().st_mtime > before, "a busy worker's heart beats")
    service.client.delete(video.id)


def test_the_probe_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"
    assert "no heartbeat yet" in probe(file, 20).stderr
    file.touch()
    os.utime(file, (time.time() - 100, time.time() - 100))
    assert re.search(r"was 1\d\d s ago", probe(file, 20).stderr)


def probe(file: Path, max_age: int) -> subprocess.CompletedProcess[str]:
    """The worker's liveness probe, as Kubernetes runs it."""
    command = [sys.executable, "-m", "adaspa_worker.heartbeat", "--max-age", str(max_age)]
    env = os.environ | {"ADASPA_HEARTBEAT_FILE": str(file)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
