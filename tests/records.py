"""Everything that one version of the service left in Redis, as a file: what the versions after it have to go on with.

python tests/records.py > tests/service/records/version_N.json     # before SCHEMA_VERSION is raised above N
"""

import json
import socket
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis
from adaspa_api.report import JobError
from adaspa_api.words import ErrorCode
from adaspa_jobs.job import Artifact, Job, JobParams, Progress
from adaspa_jobs.queue import make_celery, ring
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobStore, Lease
from admitting import admit
from claiming import claim as claim_job
from running_gateway import REPORT
from valkey_process import start_valkey

TIMES = 1e11
"""Scores above this are times in milliseconds."""
PARAMS: dict[str, Any] = {
    "model": "demo",
    "prompt": "a red circle moves right",
    "width": 128,
    "height": 128,
    "num_frames": 33,
    "fps": 8,
    "steps": 10,
    "guidance_scale": 4.0,
    "seed": 1,
}
"""Of a job of the demo model."""


def capture(client: redis.Redis) -> dict[str, Any]:
    """Every key, with the server's time in milliseconds."""
    seconds, microseconds = client.time()  # type: ignore[misc]
    keys = sorted(key.decode() for key in client.scan_iter())
    return {"captured_ms": seconds * 1000 + microseconds // 1000, "keys": {key: _read(client, key) for key in keys}}


def _read(client: redis.Redis, key: str) -> dict[str, Any]:
    kind: str = client.type(key).decode()  # type: ignore[union-attr]
    found: Any = {
        "string": lambda: client.get(key),
        "hash": lambda: client.hgetall(key),
        "list": lambda: client.lrange(key, 0, -1),
        "set": lambda: sorted(client.smembers(key)),  # type: ignore[arg-type]
        "zset": lambda: client.zrange(key, 0, -1, withscores=True),
        "stream": lambda: client.xrange(key),
    }[kind]()
    return {"type": kind, "value": _text(found)}


def _text(value: Any) -> Any:
    """The same with strings for bytes, and without this machine's name, which Celery writes into its messages."""
    if isinstance(value, dict):
        return {_text(key): _text(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_text(item) for item in value]
    return value.decode().replace(socket.gethostname(), "host") if isinstance(value, bytes) else value


def restore(client: redis.Redis, captured: dict[str, Any]) -> None:
    """Put everything back as if it had been captured just now."""
    age = time.time() * 1000 - captured["captured_ms"]
    for key, found in captured["keys"].items():
        value = found["value"]
        match found["type"]:
            case "string":
                client.set(key, value)
            case "hash":
                client.hset(key, mapping=value)
            case "list":
                client.rpush(key, *value)
            case "set":
                client.sadd(key, *value)
            case "zset":
                client.zadd(key, {name: score + age if score > TIMES else score for name, score in value})
            case "stream":
                for event_id, fields in value:
                    client.xadd(key, fields, id=event_id)


def make_jobs(store: JobStore, broker_url: str) -> dict[str, str]:
    """A job in every state that a store can hold, and a message for each that waits; their ids by state."""
    made: dict[str, str] = {}
    celery = make_celery(Settings(redis_url=broker_url))

    def job(state: str, idempotency: tuple[str, str] | None = None, **changes: Any) -> Job:
        params = JobParams.model_validate(PARAMS | {"prompt": f"a red circle, {state}"} | changes)
        made_job, _ = admit(store, params, idempotency)
        made[state] = made_job.id
        return made_job

    def send(job: Job) -> None:
        ring(celery, job.params.model, job.priority)

    def claim(state: str) -> Lease:
        lease = claim_job(store, job(state).id)
        assert lease is not None
        return lease

    def video(lease: Lease) -> dict[str, Artifact]:
        key = f"videos/{lease.job.id}/{lease.token}/video.mp4"
        return {"video": Artifact(key=key, content_type="video/mp4", bytes=5, sha256="ab" * 32)}

    send(job("queued", ("key", "digest"), negative_prompt="grey", sparsity=0.5))
    job("without_bell")
    store.report_progress(claim("in_progress"), Progress(phase="denoising", step=3, steps=10, step_kind="sparse"))
    lease = claim("completed")
    store.complete(lease, video(lease), REPORT, {"denoising": 1.5})
    store.fail(claim("failed"), JobError(code=ErrorCode.out_of_memory, message="no room"))
    lease = claim("cancelled")
    store.request_cancel(lease.job.id)
    store.release_cancelled(lease)
    lease = claim("asked_to_stop")
    store.request_cancel(lease.job.id)
    lease = claim("released")
    store.release(lease)
    send(lease.job)
    lease = claim("deleted")
    store.complete(lease, video(lease), REPORT, {})
    store.discard(lease.job.id)
    celery.close()
    return made


def main() -> None:
    """Write this version's records to standard output."""
    with TemporaryDirectory(prefix="adaspa-") as folder:
        server = start_valkey(Path(folder))
        try:
            address = Path(folder) / "valkey.sock"
            with redis.Redis(unix_socket_path=str(address)) as client:
                made = make_jobs(JobStore(client), f"unix://{address}?db=0")
                json.dump({"jobs": made, **capture(client)}, sys.stdout, indent=1)
                sys.stdout.write("\n")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
