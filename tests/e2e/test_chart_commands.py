"""The commands of the chart's pods, run for real with the pods' own environment."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from adaspa_client.local_token import read_token
from adaspa_service.local.supervisor import free_port
from adaspa_service.local.valkey import socket_path
from rendered_chart import container, pods, render
from s3_servers import URL, S3Server, s3_server
from service_process import Service, environment
from tiny_wan import SIZE, write_catalog
from waiting import PATIENCE, until

WORKERS = {"id": "demo", "replicas": 1, "resources": {}}


def command(name: str, **replaced: str) -> list[str]:
    """A container's command line, on this Python; ``replaced`` are whole arguments. The worker serves one queue."""
    values = {"models": [WORKERS | {"only": queue} for queue in ("interactive", "bulk")]}
    found = container([item for item in render(values) if not item["metadata"]["name"].endswith("-bulk")], name)
    line = [*found["command"], *found.get("args", [])]
    return [sys.executable, *(replaced.get(part, part) for part in line[1:])]


def pod_environment(name: str, catalog: Path | None, **settings: str) -> dict[str, str]:
    """The container's variables, those that speak of the cluster's addresses and folders replaced."""
    variables = {entry["name"]: entry["value"] for entry in container(render({}), name)["env"] if "value" in entry}
    return environment(catalog) | variables | environment(catalog, **settings)


def grace() -> float:
    """Seconds that the chart gives a worker to stop."""
    (pod,) = [pod for pod in pods(render({})) if pod["containers"][0]["name"] == "worker"]
    return float(pod["terminationGracePeriodSeconds"])


@pytest.mark.parametrize(("served", "made"), [(("demo-image", "tiny"), True), (("demo-image",), False)])
def test_the_helm_test_makes_a_video_with_a_model_that_needs_no_image(
    service: Service, tmp_path: Path, served: tuple[str, ...], made: bool
) -> None:
    models = [WORKERS | {"id": name} for name in ("demo-image", "demo")]
    python, option, script, _, _, *ids = container(render({"models": models}), "client")["command"]
    assert (python, ids) == ("python", ["demo-image", "demo"])
    arguments = [f"http://127.0.0.1:{service.port}", str(tmp_path / "video"), *served]
    done = subprocess.run(
        [sys.executable, option, script, *arguments],
        env=service.env | {"ADASPA_API_KEY": service.token},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0, done.stdout.startswith("video_")) == (made, made), done.stderr
    assert made or "none of demo-image makes a video of a text alone" in done.stderr


def is_ready(http: httpx.Client) -> bool:
    """Whether a gateway takes requests; one that just starts refuses connections."""
    with suppress(httpx.TransportError):
        return http.get("/readyz").is_success
    return False


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    """A real S3-compatible server; tests/service/test_storage_s3.py asks more of the storage, and of two servers."""
    with s3_server("nanio", tmp_path / "server") as server:
        yield server


def test_gateway_and_worker_pods_make_a_video_together_in_a_bucket_and_stop_in_time(
    service: Service, catalog: Path, s3: S3Server, tmp_path: Path
) -> None:
    port, gateway_metrics, worker_metrics = (free_port("127.0.0.1") for _ in range(3))
    shared = {
        "redis_url": f"unix://{socket_path(service.data_dir)}?db=5",
        "storage_url": URL,
        "data_dir": str(tmp_path / "data"),
    }
    gateway_settings = {
        "port": str(port),
        "metrics_port": str(gateway_metrics),
        "host": "127.0.0.1",
        "drain_seconds": "1",
    }
    spec = json.loads(catalog.read_text())[0] | {"bulk_above": 1000}  # so that long jobs come to this worker too
    own_catalog = write_catalog(tmp_path / "catalog.json", spec)
    heartbeat = tmp_path / "heartbeat"
    worker_settings = {"metrics_port": str(worker_metrics), "heartbeat_file": str(heartbeat)}
    started = [
        subprocess.Popen(
            command("gateway"), env=pod_environment("gateway", None, **shared, **gateway_settings) | s3.environment
        ),
        subprocess.Popen(
            command("worker", demo="tiny"),
            env=pod_environment("worker", own_catalog, **shared, **worker_settings) | s3.environment,
        ),
    ]
    try:
        until(heartbeat.exists, "the worker takes jobs")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            until(lambda: is_ready(http), "the gateway is ready")
            http.headers["Authorization"] = f"Bearer {read_token(http.base_url)}"  # the pod has a key, from a Secret
            until(lambda: http.get("/models/tiny").is_success, "the worker's model is known")
            body = {"prompt": "a red circle", "model": "tiny", "size": f"{SIZE}x{SIZE}"}
            bulk = http.post("/videos", json=body | {"priority": "bulk"}).raise_for_status().json()["id"]
            video = http.post("/videos", json=body).raise_for_status().json()["id"]
            until(lambda: http.get(f"/videos/{video}").json()["status"] == "completed", "the video is made")
            assert http.get(f"/videos/{bulk}").json()["status"] == "queued", "this worker serves the other queue"
            assert http.delete(f"/videos/{bulk}").is_success
            names = [key.rsplit("/", 1)[1] for key in s3.objects()]
            assert names == ["spritesheet.webp", "thumbnail.webp", "video.mp4"]
            content = f"/videos/{video}/content"
            part = http.get(content, headers={"Range": "bytes=100-199"})
            assert (part.status_code, part.content) == (206, http.get(content).content[100:200])
            assert http.delete(f"/videos/{video}").is_success
            until(lambda: s3.objects() == [], "the objects are gone")
            assert http.get("/metrics").status_code == 404  # only at the port that the outside does not reach
            scraped = httpx.get(f"http://127.0.0.1:{gateway_metrics}/metrics").text
            assert 'adaspa_jobs_unfinished{model="tiny"} 0.0' in scraped
            until(
                lambda: "adaspa_attempts_total" in httpx.get(f"http://127.0.0.1:{worker_metrics}/metrics").text,
                "the worker has counted the attempt",
            )
            # An update ends the worker before another one comes: its job waits for that, with what was done.
            job = http.post("/videos", json=body | {"steps": 2000}).raise_for_status().json()["id"]
            until(lambda: http.get(f"/videos/{job}").json()["step"] > 2, "the job is denoised")
            started[1].terminate()
            assert started[1].wait(timeout=grace()) == 0
            assert http.get(f"/videos/{job}").json()["status"] == "queued"
            assert any(f"/checkpoints/{job}/" in key for key in s3.objects())
    finally:
        for process in started:
            process.terminate()
        # uvicorn ends in order, and then by the signal that stopped it
        assert [process.wait(timeout=PATIENCE) for process in started] == [-signal.SIGTERM, 0]
