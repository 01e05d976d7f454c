"""A failover in which the old primary lives on as a read-only replica, as managed Redis and Sentinel make it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from adaspa_jobs.settings import Settings
from redis_pair import Pair, running_pair
from running_gateway import serving, until


@pytest.fixture
def pair(short_folder: Path) -> Iterator[Pair]:
    with running_pair(short_folder) as running:
        yield running


def test_after_a_failover_everything_works_again_by_itself(pair: Pair, settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"redis_url": pair.url}), tmp_path) as service:
        first = service.create()["id"]
        with ThreadPoolExecutor(8) as many:  # many connections, which all lead to the old primary
            list(many.map(lambda _: service.http.get("/videos"), range(40)))
        assert events(service.url, first, 1) == ["queued"]
        pair.fail_over()
        assert service.http.post("/videos", json={"prompt": "a red circle"}).status_code == 503
        assert service.http.get("/readyz").status_code == 503, "nothing can be written there"
        pair.point_to_second()
        until(lambda: service.http.get("/readyz").status_code == 200, "the gateway is ready", 5)
        answers = [service.http.post("/videos", json={"prompt": "a red circle"}).status_code for _ in range(8)]
        assert answers == [200] * 8
        assert pair.second.llen("generate.demo") == 9, "and their messages are there too"
        pair.first.replicaof("NO", "ONE")
        pair.first.flushall()  # whoever still asked there would not hear of it
        assert service.http.post(f"/videos/{first}/cancel").json()["status"] == "cancelled"
        assert events(service.url, first, 2) == ["queued", "cancelled"]


def events(url: str, video_id: str, count: int) -> list[str]:
    """The first events of a job's stream."""
    with httpx.stream("GET", f"{url}/videos/{video_id}/events", timeout=20) as stream:
        lines = (line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: "))
        return [next(lines) for _ in range(count)]
