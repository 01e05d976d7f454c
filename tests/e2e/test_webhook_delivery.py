"""Webhooks of the real service: ``adaspa serve``, a job of a real worker, a gateway that is killed between attempts."""

import json
import subprocess
from pathlib import Path

from receiver import receiving
from service_process import ADASPA, Service, environment
from waiting import until

LOCAL = {"webhook_http": "true", "webhook_networks": "127.0.0.0/8"}


def test_an_event_outlives_the_gateway_that_failed_to_deliver_it(catalog: Path, tmp_path: Path) -> None:
    env = environment(catalog, **LOCAL, webhook_retry_seconds="4,1", log_format="json")
    with receiving(503) as receiver:
        service = Service(tmp_path / "data", env).start()
        try:
            video = service.run(webhook_url=f"{receiver.url}/hooks")
            until(lambda: receiver.calls, "the first attempt is made")
            until(lambda: "HTTP 503" in service.log("gateway"), "and its outcome noted")
            service.kill_part("adaspa_service.gateway")
            until(lambda: len(receiver.calls) == 2, "the next gateway makes the next attempt")
            until(lambda: "delivered to" in service.log("gateway"), "and notes it")
            command = [ADASPA, "webhooks", "secret", "--data-dir", service.data_dir]
            shown = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True).stdout
            lines = [json.loads(line) for line in service.log("gateway").splitlines() if line.startswith("{")]
        finally:
            service.stop()
    first, second = receiver.calls
    assert first.headers["webhook-id"] == second.headers["webhook-id"] and first.body == second.body
    event = second.verify(shown.strip())
    assert (event["type"], event["data"]["id"], event["data"]["status"]) == ("video.completed", video.id, "completed")
    told = [line for line in lines if line["logger"].endswith("webhooks.deliverer")]
    assert [line["level"] for line in told] == ["WARNING", "INFO"]
    assert {line["job"] for line in told} == {video.id}
