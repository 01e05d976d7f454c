"""Scenes of answers that are lost, and of gateways that go: who asks again gets what was asked for, once."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from adaspa_jobs.scripts import StoreUnavailable
from adaspa_service.gateway import connections
from adaspa_service.gateway.draining import Server
from drawn import picture
from running_gateway import Service, data_uri
from waiting import PATIENCE, until

from chaos.desk import desk
from chaos.scenes import Scene
from chaos.stage import Stage
from chaos.watch import look, violations

MOST_CALLS = 12
"""More than any request makes."""


@dataclass
class Cut:
    """Redis is away at one call of a request: before it comes, or its answer is lost."""

    at: int
    when: Literal["before", "after"]
    calls: int = 0

    def run(self, effect: Callable[[], Any]) -> Any:
        if threading.current_thread().name.startswith("janitor"):
            return effect()
        self.calls += 1
        if self.calls - 1 != self.at:
            return effect()
        if self.when == "after":
            effect()
        raise StoreUnavailable("cut")


@contextmanager
def cut(service: Service, at: int, when: Literal["before", "after"]) -> Iterator[Cut]:
    """For the length of a block, one script of the store is cut off."""
    scripts, now = service.store._scripts, Cut(at, when)
    plain = scripts.run
    scripts.run = lambda *args, **more: now.run(lambda: plain(*args, **more))  # type: ignore[method-assign]
    try:
        yield now
    finally:
        scripts.run = plain  # type: ignore[method-assign]


class LostAnswers(Scene):
    """Each call that a request makes to Redis is cut off once, before it comes or behind it."""

    name = "by hand: lost answers of Redis"
    promise = "a request that is told to come again does what it asked for once, whatever became of its first try"

    def play(self, stage: Stage) -> None:
        image = data_uri(picture(64, 64))
        with desk(queue_cap=5000) as service:
            for what, asked, count in (
                ("a video", {}, 1),
                ("a video of an image", {"input_reference": image}, 1),
                ("three videos of an image", {"input_reference": image, "n": 3}, 3),
            ):
                self.of(service, what, "/videos", {"prompt": "a", "model": "first"} | asked, count)
            source = service.create(model="first", input_reference=image)["id"]
            self.of(service, "a remix", f"/videos/{source}/remix", {"prompt": "b"}, 1)
            for method, route, ends in (("POST", "/cancel", "cancelled"), ("DELETE", "", None)):
                for running in (False, True):
                    self.ends(service, method, route, ends, running=running)

    def of(self, service: Service, what: str, path: str, body: dict[str, Any], count: int) -> None:
        """Ask with a key, and once more with the same."""
        for when in ("before", "after"):
            for at in range(MOST_CALLS):
                key = {"Idempotency-Key": f"{what} {when} {at}"}
                with cut(service, at, when) as found:  # type: ignore[arg-type]
                    first = service.http.post(path, json=body, headers=key)
                said = f"{what}, with call {at} cut {when}"
                assert first.status_code in (200, 503), f"{said}: {first.status_code} {first.text[:200]}"
                assert (first.status_code == 503) == ("retry-after" in first.headers), f"{said}: {first.headers}"
                made = service.http.post(path, json=body, headers=key)
                assert made.status_code == 200, f"{said}: the second time {made.status_code} {made.text[:200]}"
                videos = made.json().get("data", [made.json()])
                if first.status_code == 200:
                    before = [video["id"] for video in first.json().get("data", [first.json()])]
                    assert before == [video["id"] for video in videos], f"{said}: another one the second time"
                there = service.store.unfinished("open")
                own = [job for job in there if job.id in {video["id"] for video in videos}]
                assert len(own) == count, f"{said}: {len(own)} jobs, not {count}"
                self.whole(service, said, [video["id"] for video in videos])
                if found.calls <= at:
                    break
            else:
                raise AssertionError(f"{what} makes more than {MOST_CALLS} calls")
        kept = service.http.get("/videos?limit=100").json()["data"]
        for video in kept:
            service.http.delete(f"/videos/{video['id']}")

    def whole(self, service: Service, said: str, ids: list[str]) -> None:
        broken = [*violations(look(service.store.client))]
        assert not broken, f"{said}: {broken}"
        for video_id in ids:
            for given in service.http.get(f"/videos/{video_id}").json()["inputs"]:
                found = service.http.get(given["url"]).status_code
                assert found == 200, f"{said}: its image is gone ({found})"

    def ends(self, service: Service, method: str, route: str, ends: str | None, *, running: bool) -> None:
        """Cancel or delete, and once more."""
        for when in ("before", "after"):
            for at in range(MOST_CALLS):
                video_id = service.create()["id"]
                lease = service.claim(video_id) if running else None
                with cut(service, at, when) as found:  # type: ignore[arg-type]
                    first = service.http.request(method, f"/videos/{video_id}{route}")
                said = f"{method} {route} of a job that {'runs' if running else 'waits'}, with call {at} cut {when}"
                assert first.status_code in (200, 503), f"{said}: {first.status_code} {first.text[:200]}"
                again = service.http.request(method, f"/videos/{video_id}{route}")
                assert again.status_code in ((200,) if ends else (200, 404)), f"{said}: then {again.status_code}"
                if lease:
                    service.store.release_cancelled(lease)
                shown = service.http.get(f"/videos/{video_id}")
                told = shown.json().get("status") if shown.status_code == 200 else None
                assert told == ends, f"{said}: is {told} in the end"
                self.whole(service, said, [])
                if found.calls <= at:
                    break
            else:
                raise AssertionError(f"{method} {route} makes more than {MOST_CALLS} calls")


class Drained(Scene):
    """A gateway drains, while somebody waits for an answer and somebody follows a job."""

    name = "by hand: a gateway that drains"
    promise = "a gateway that is told to stop serves on, then answers whoever waits, and ends"

    def play(self, stage: Stage) -> None:
        with desk() as service:
            app: Any = service.server.config.app
            config = connections.configure(app, service.parts.settings)
            server = Server(config, app.state.draining, app.state.stopping, 1.0)
            listener = socket.create_server(("127.0.0.1", 0))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            until(lambda: server.started, "it serves")
            made: list[httpx.Response] = []
            waits = threading.Thread(
                target=lambda: made.append(
                    httpx.post(f"{url}/videos", json={"prompt": "a"}, headers={"Prefer": "wait=50"}, timeout=PATIENCE)
                )
            )
            waits.start()
            until(lambda: len(service.store.unfinished("open")) == 1, "its job is there")
            (job,) = service.store.unfinished("open")
            with httpx.stream("GET", f"{url}/videos/{job.id}/events", timeout=PATIENCE) as stream:
                lines = stream.iter_lines()
                assert next(lines).startswith(("event: queued", "id: "))
                server.handle_exit(15, None)
                until(app.state.draining.is_set, "it drains")
                left = [*lines]  # it ends, and is not cut off
            assert not any("error" in line for line in left), left
            waits.join()
            (answer,) = made
            assert answer.status_code == 200, f"whoever waits for a job gets {answer.status_code}: {answer.text[:200]}"
            assert (answer.json()["id"], answer.json()["status"]) == (job.id, "queued"), answer.text[:200]
            thread.join()
            assert app.state.stopping.is_set(), "a gateway ends, and does not say so"


SCENES: list[Scene] = [LostAnswers(), Drained()]
