"""Webhooks of the real service: a job of a real worker, a gateway that is killed between attempts."""

import json

from adaspa_command import adaspa
from receiver import receiving
from service_process import Service
from waiting import until


def test_an_event_outlives_the_gateway_that_failed_to_deliver_it(service: Service) -> None:
    with receiving(503) as receiver:
        video = service.run(webhook_url=f"{receiver.url}/hooks")
        until(lambda: receiver.calls, "the first attempt is made")
        until(lambda: "HTTP 503" in service.log("gateway"), "and its outcome noted")
        service.kill_part("adaspa_service.gateway")
        until(lambda: len(receiver.calls) >= 2, "the next gateway makes the next attempt")
        until(lambda: "delivered to" in service.log("gateway"), "and notes it")
    shown = adaspa("webhooks", "secret", "--data-dir", service.data_dir).stdout
    first, second, *_ = receiver.calls
    assert first.headers["webhook-id"] == second.headers["webhook-id"] and first.body == second.body
    event = second.verify(shown.strip())
    assert (event["type"], event["data"]["id"], event["data"]["status"]) == ("video.completed", video.id, "completed")
    lines = [json.loads(line) for line in service.log("gateway").splitlines() if line.startswith("{")]
    told = [line for line in lines if line["logger"].endswith("webhooks.deliverer")]
    assert [line["level"] for line in told] == ["WARNING", "INFO"]
    assert {line["job"] for line in told} == {video.id}
