"""Scenes of what changes while it is used: gateways that take turns, models, numbers, secrets and files on the way."""

import os
import stat
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import httpx
from adaspa_api.token_file import token_file
from adaspa_service.access import open_token
from adaspa_service.gateway import state
from pydantic import SecretStr
from receiver import receiving
from running_gateway import FILES, Service
from valkey_process import running_valkey
from waiting import PATIENCE, until

from chaos.by_networks import Slow
from chaos.desk import SAFELY, desk, refused, seat
from chaos.scenes import Scene
from chaos.stage import Stage


class Relieved(Scene):
    """A gateway stops in the middle of a delivery, of a stream and of a download, and another one goes on."""

    name = "by hand: a gateway that another one relieves"
    promise = "what a gateway had begun when it stopped, the next one does at once"

    def play(self, stage: Stage) -> None:
        own = {"webhook_http": True, "webhook_networks": "127.0.0.0/8", "webhook_retry_seconds": "3600"}
        with running_valkey(*SAFELY) as folder, receiving() as receiver:
            with seat(folder, **own) as service:
                receiver.answers = [receiver.hang]
                owed = service.create(webhook_url=f"{receiver.url}/a")["id"]
                done, waits = service.completed(), service.create()["id"]
                link = service.http.get(f"/videos/{done}/link").json()["url"].removeprefix(service.url)
                last: dict[str, str] = {}
                follows = threading.Thread(target=self.follow, args=(service, waits, last))
                follows.start()
                until(lambda: last, "it follows")
                service.http.post(f"/videos/{owed}/cancel")
                until(lambda: receiver.calls, "the receiver is asked, and says nothing")
            follows.join()
            with seat(folder, **own) as service:
                until(lambda: len(receiver.calls) == 2, "an event whose gateway stopped is sent again at once")
                assert len({*receiver.ids()}) == 1, "with another id"
                until(lambda: service.parts.deliveries.get(owed) is None, "it is taken")
                assert httpx.get(service.url + link, timeout=PATIENCE).content == FILES["video"][2], "a link is over"
                headers = {"Last-Event-ID": last["id"]}
                lease = service.claim(waits)
                service.complete(lease)
                with service.http.stream("GET", f"/videos/{waits}/events", headers=headers) as answer:
                    told = [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]
                assert told == ["in_progress", "completed"], f"whoever followed at another gateway gets {told}"
                receiver.released.set()

    def follow(self, service: Service, video_id: str, last: dict[str, str]) -> None:
        with httpx.stream("GET", f"{service.url}/videos/{video_id}/events", timeout=PATIENCE) as answer:
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    last["id"] = line.removeprefix("id: ")


class Changed(Scene):
    """A model's limits, its load and its jobs change between two requests."""

    name = "by hand: models that change"
    promise = "a request is judged by what its model allows now, and told of what is known now"

    def play(self, stage: Stage) -> None:
        with desk() as service:
            self.remixes(service)
        self.recent()
        with desk(metrics_port=1) as service:
            refused(service, 404, "not_found", "GET", "/metrics")  # they have a port of their own

    def remixes(self, service: Service) -> None:
        catalog = service.parts.catalog
        catalog.follow = lambda announced: None  # type: ignore[method-assign]  it takes over what stands there for a moment
        spec = catalog.models["first"]
        source = service.create(model="first", steps=40, quality="fast", guidance_scale=9.0, priority="bulk")
        path = f"/videos/{source['id']}/remix"
        for changes, field in (
            ({"steps_range": (1, 30)}, "steps"),
            ({"qualities": ["exact"]}, "quality"),
            ({"guidance_range": (1.0, 8.0)}, "guidance_scale"),
            ({"sizes": ["96x64"]}, "size"),
            ({"frames": [5], "default_frames": 5}, "num_frames"),
            ({"output_formats": ["gif"]}, "output_format"),
        ):
            with patch.dict(catalog.models, {"first": spec.model_copy(update=changes)}):
                refused(service, 400, field, "POST", path, json={"prompt": "b"})
        with patch.dict(catalog.models):
            del catalog.models["first"]
            refused(service, 400, "model", "POST", path, json={"prompt": "b"})
        answer = service.http.post(path, json={"prompt": "b"})
        assert answer.is_success, answer.text
        remix = answer.json()
        assert (remix["steps"], remix["priority"], remix["remixed_from_video_id"]) == (40, "bulk", source["id"]), remix

    def recent(self) -> None:
        """What is known of a model is asked for anew half a second later, for each model by itself."""
        now, asked = [100.0], list[str]()
        known: Any = state.Recent(lambda model: asked.append(model) or (model, now[0]))
        with patch.object(state, "time", SimpleNamespace(monotonic=lambda: now[0])):
            for at, model, wanted in (
                (100.0, "a", ("a", 100.0)),
                (100.4, "a", ("a", 100.0)),
                (100.4, "b", ("b", 100.4)),
                (100.6, "a", ("a", 100.6)),
                (100.8, "b", ("b", 100.4)),
                (200.0, "b", ("b", 200.0)),
            ):
                now[0] = at
                found = known.get(model)
                assert found == wanted, f"at {at} of {model} is told {found}, not {wanted}"
        assert asked == ["a", "b", "a", "b"], asked


class Plainly(Scene):
    """Clients of HTTP/1.0, which know no chunks."""

    name = "by hand: clients of HTTP/1.0"
    promise = "a client that knows no chunks gets each answer as it is, up to the connection's end"

    def play(self, stage: Stage) -> None:
        with desk() as service:
            video_id = service.completed()
            for path, kind in (
                (f"/videos/{video_id}/content", b"video/mp4"),
                (f"/videos/{video_id}/events", b"text/event-stream"),
                ("/videos", b"application/json"),
                ("/metrics", b"text/plain"),
            ):
                asked = f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()
                head, _, content = Slow().ask(service, asked).partition(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                assert lines[0].split()[1] == b"200" and any(kind in line for line in lines), f"{path}: {head!r}"
                assert b"transfer-encoding: chunked" not in lines, f"{path} comes in chunks"
                if path.endswith("/events"):
                    assert content.startswith((b"event: ", b"id: ")) and content.count(b"event: ") == 3, content[:200]
                else:
                    whole = service.http.get(path).content
                    assert kind == b"text/plain" or content == whole, f"{path}: {content[:100]!r}, not {whole[:100]!r}"


class Kept(Scene):
    """The token of a gateway without keys, in its user's folder."""

    name = "by hand: a token for this machine's user"
    promise = "only its user can read a gateway's token, which goes with that gateway and not with another one's"

    def play(self, stage: Stage) -> None:
        with TemporaryDirectory() as name, patch.dict(os.environ, {"XDG_STATE_HOME": name}):
            ours, others = SecretStr("ours"), SecretStr("another gateway's")
            for token in (ours, others):
                open_token.leave(token, 7000)
                file = token_file(7000)
                assert file.read_text().strip() == token.get_secret_value()
                mode = stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)
                assert mode == (0o600, 0o700), f"others may read the token: {[oct(each) for each in mode]}"
            page = open_token.leave_redirect("http://127.0.0.1:7000", others.get_secret_value())
            assert stat.S_IMODE(page.stat().st_mode) == 0o600, "others may read the page's address"
            open_token.take_away(ours, 7000)
            assert token_file(7000).exists() and page.exists(), "a gateway that stops takes another's token away"
            open_token.leave(ours, 7001)
            open_token.take_away(others, 7000)
            left = [path.name for path in Path(name).rglob("*") if path.is_file()]
            assert left == [token_file(7001).name], f"a gateway that stops leaves {left}"


SCENES: list[Scene] = [Relieved(), Changed(), Plainly(), Kept()]
