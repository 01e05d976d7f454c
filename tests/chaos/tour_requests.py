"""Scenes of a client that is strict: keys and their limits, batches, lists, places in the queue, times."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
from adaspa_service.access.acts import OperatorActs
from waiting import until

from chaos.fleet import QUEUE_CAP
from chaos.guests import Guest
from chaos.scenes import Scene
from chaos.stage import Stage

AFTER_ITS_END = 12.0
"""Seconds after which a stream that still says something has not looked at its key."""


class Keys(Scene):
    """Keys of all scopes, that are rotated, revoked or expire."""

    name = "keys rotated, revoked and expired"
    promise = "a key opens what its scopes say until it ends, and streams end with it"

    def play(self, stage: Stage) -> None:
        reader, writer = Guest(stage, ("read",)), Guest(stage, ("write",))
        reader.refused(403, "missing_scope", "POST", "/videos", json={"prompt": "a red circle"})
        reader.ask("GET", "/videos")
        made = writer.http.post(
            writer.url("/videos"), headers=writer.headers(), json={"prompt": "a", "model": "idle-keys"}
        )
        assert made.status_code == 200, made.text
        writer.refused(403, "missing_scope", "GET", f"/videos/{made.json()['id']}")
        writer.refused(403, "missing_scope", "GET", "/videos")
        stage.store.discard(made.json()["id"])
        guest = Guest(stage)
        old = guest.token
        guest.create(model="idle-keys")
        new = guest.keys.rotate(guest.key.id, 3600)
        for token in (old, new):
            guest.token = token
            assert len(guest.ids()) == 1, "a rotated key has other jobs"
        guest.token = old
        last = guest.keys.rotate(guest.key.id, 0)
        for token in (old, new):
            guest.token = token
            guest.ask("GET", "/videos", 401)
        guest.token = last
        guest.leave()
        for wrong in ("", "Bearer x", f"Bearer {last[:-1]}", f"Bearer {last[:-2]}zz", f"Basic {last}"):
            answer = httpx.get(guest.url("/videos"), headers={"Authorization": wrong} if wrong else {}, timeout=60)
            assert answer.status_code == 401, f"{answer.status_code} with the key {wrong[:12]!r}"
        self.ends(stage, lambda guest: stage.store.now() > (guest.key.expires_at or 0), lifetime_seconds=3)
        self.ends(stage, lambda guest: guest.keys.revoke(guest.key.id))

    def ends(self, stage: Stage, end: Callable[[Guest], object], **limits: Any) -> None:
        """A key ends while a stream is open with it."""
        guest = Guest(stage, **limits)
        video = guest.create(model="idle-keys")
        ended_at: list[float] = []
        late: list[str] = []

        def follow() -> None:
            headers = guest.headers()
            url = guest.url(f"/videos/{video['id']}/events")
            with suppress(httpx.TransportError), httpx.stream("GET", url, headers=headers, timeout=None) as answer:
                for line in answer.iter_lines():
                    if ended_at and time.monotonic() > ended_at[0] + AFTER_ITS_END:
                        late.append(line)
                        return

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        until(lambda: end(guest), f"{stage.name}: its key ends")
        ended_at.append(time.monotonic())
        guest.ask("GET", f"/videos/{video['id']}", 401)
        guest.ask("GET", "/videos", 401)
        guest.ask("POST", "/videos", 401, json={"prompt": "a red circle"})
        until(lambda: not thread.is_alive(), "the stream ends")
        assert not late, f"{video['id']}: its stream goes on after its key has ended: {late}"
        stage.store.discard(video["id"])


class Limits(Scene):
    """Keys with limits."""

    name = "limits of a key"
    promise = "a key gets what its limits allow, not less and not more"

    def play(self, stage: Stage) -> None:
        guest = Guest(stage, max_in_flight=3)
        asked: dict[str, Any] = {"prompt": "a red circle", "model": "idle-limits"}
        two = guest.create(n=2, model="idle-limits")["data"]
        guest.refused(429, "too_many_in_flight", "POST", "/videos", json=asked | {"n": 2})
        guest.refused(400, "n", "POST", "/videos", json=asked | {"n": 4})
        assert len(guest.ids()) == 2, "what was refused was made"
        guest.create(model="idle-limits")
        guest.refused(429, "too_many_in_flight", "POST", "/videos", json=asked)
        guest.json("POST", f"/videos/{two[0]['id']}/cancel")
        guest.create(n=1, model="idle-limits")
        guest.refused(429, "too_many_in_flight", "POST", "/videos", json=asked)
        guest.delete(two[1]["id"])
        guest.create(model="idle-limits")
        guest.refused(429, "too_many_in_flight", "POST", "/videos", json=asked)
        guest.leave()
        self.of_requests(stage)

    def of_requests(self, stage: Stage) -> None:
        guest, began = Guest(stage, requests_per_minute=3), time.monotonic()
        told = []
        for _ in range(3):
            answer = guest.ask("GET", "/models")
            told.append(int(answer.headers["X-RateLimit-Remaining-Requests"]))
            assert answer.headers["X-RateLimit-Limit-Requests"] == "3"
        answer = guest.http.get(guest.url("/models"), headers=guest.headers())
        if time.monotonic() - began < 15:  # the next one comes back after 20 s
            assert told == [2, 1, 0], f"a key with 3 requests a minute is told {told} are left"
            assert answer.status_code == 429, f"{answer.status_code} for the fourth of 3 requests a minute"
            assert 1 <= int(answer.headers["Retry-After"]) <= 20, answer.headers["Retry-After"]


class Batches(Scene):
    """Several videos with one request, and one key."""

    name = "batches with a key"
    promise = "an Idempotency-Key stands for one request of one owner until its job is deleted"

    def play(self, stage: Stage) -> None:
        guest, other = Guest(stage), Guest(stage)
        body = {"model": "idle-batches", "n": 3, "seed": 7, "metadata": {"of": "batch"}}
        first = [video["id"] for video in guest.create(key="k", **body)["data"]]
        assert first == sorted(first) and len(set(first)) == 3, first
        assert [guest.get(each)["queue_position"] for each in first] == [1, 2, 3]
        for _ in range(2):
            answer = guest.ask(
                "POST", "/videos", json={"prompt": "a red circle", "steps": 4} | body, headers={"Idempotency-Key": "k"}
            )
            assert answer.headers.get("Idempotent-Replayed") == "true"
            assert [video["id"] for video in answer.json()["data"]] == first
        for change in ({"n": 2}, {"seed": 8}, {"steps": 5}, {"metadata": {"of": "other"}}, {"prompt": "a blue circle"}):
            changed = {"prompt": "a red circle", "steps": 4} | body | change
            guest.refused(
                422, "idempotency_key_reused", "POST", "/videos", json=changed, headers={"Idempotency-Key": "k"}
            )
        foreign = [video["id"] for video in other.create(key="k", **body)["data"]]
        assert not set(foreign) & set(first), "two owners share a key's jobs"
        guest.delete(first[1])
        left = guest.json(
            "POST", "/videos", json={"prompt": "a red circle", "steps": 4} | body, headers={"Idempotency-Key": "k"}
        )
        assert [video["id"] for video in left["data"]] == [first[0], first[2]], "a replay without the deleted one"
        remix = guest.create(key="r", path=f"/videos/{first[0]}/remix")
        assert guest.create(key="r", path=f"/videos/{first[0]}/remix")["id"] == remix["id"]
        source = guest.get(first[0])
        for name in ("model", "seed", "steps", "size", "num_frames", "fps", "guidance_scale", "output_format"):
            assert remix[name] == source[name], f"{name} of a remix is {remix[name]}, and of its source {source[name]}"
        assert remix["metadata"] == {} and remix["remixed_from_video_id"] == first[0], remix["metadata"]
        bulk = guest.create(model="idle-batches", priority="bulk")
        assert guest.create(path=f"/videos/{bulk['id']}/remix")["priority"] == "bulk"
        asked = {"json": {"prompt": "a blue circle"}, "headers": {"Idempotency-Key": "r"}}
        guest.refused(422, "idempotency_key_reused", "POST", f"/videos/{first[2]}/remix", **asked)
        guest.refused(404, "video_not_found", "POST", f"/videos/{foreign[0]}/remix", json={"prompt": "a"})
        guest.delete(first[0])
        again = [video["id"] for video in guest.create(key="k", **body)["data"]]
        assert not set(again) & set(first), "a key whose job is deleted gives it again"
        plain = guest.create(key="single", model="idle-batches")
        assert plain["object"] == "video" and guest.create(n=1, model="idle-batches")["object"] == "list"
        for each in (guest, other):
            each.leave()


class Lists(Scene):
    """Lists are walked in every way while jobs are waiting, ended and deleted."""

    name = "lists walked in every way"
    promise = "pages show each job once, in order, and those that are asked for"

    def play(self, stage: Stage) -> None:
        guest = Guest(stage)
        made = []
        for number in range(9):
            labels = {"of": "odd" if number % 2 else "even", "third": str(number % 3)}
            made.append(guest.create(model="idle-lists", metadata=labels, user=f"user {number}")["id"])
        guest.json("POST", f"/videos/{made[4]}/cancel")
        for gone in (made[2], made[7]):
            guest.delete(gone)
        kept = [each for each in made if each not in (made[2], made[7])]
        for query, wanted in (
            ("", kept),
            ("&metadata[of]=odd", [each for number, each in enumerate(made) if number % 2 and each in kept]),
            ("&metadata[third]=1", [each for number, each in enumerate(made) if number % 3 == 1 and each in kept]),
            ("&metadata[of]=even&metadata[third]=0", [made[0], made[6]]),
            ("&metadata[of]=neither", []),
        ):
            for limit in (1, 2, 3, len(wanted) or 1, 100):
                for order, expected in (("", wanted[::-1]), ("&order=desc", wanted[::-1]), ("&order=asc", wanted)):
                    found = guest.pages(limit, query + order)
                    assert found == expected, f"limit={limit}{query}{order}: {found}, not {expected}"
        assert len(guest.ids("")) == len(kept)
        page = guest.json("GET", f"/videos?limit=2&after={made[7]}")
        assert [video["id"] for video in page["data"]] == [made[6], made[5]], "a page after a deleted job"
        for wrong in ("limit=0", "limit=101", "order=up", "after=x"):
            guest.refused(400, wrong.partition("=")[0], "GET", f"/videos?{wrong}")
        guest.leave()


class Places(Scene):
    """Two owners wait; some are cancelled, deleted or waited too long."""

    name = "places in a queue"
    promise = "places in the queue are as told, owners take turns, and who leaves lets the others move up"

    def play(self, stage: Stage) -> None:
        one, other = Guest(stage), Guest(stage)
        asks = [(one, one.create(model="idle-places")["id"]) for _ in range(4)]
        asks.append((other, other.create(model="idle-places")["id"]))
        bulk = one.create(model="idle-places", priority="bulk")
        assert bulk["queue_position"] == 1, f"place {bulk['queue_position']} in an empty queue"
        places = self.places(asks)
        assert sorted(places) == [1, 2, 3, 4, 5], f"places {places}"
        assert places[4] <= 2, f"who has one job waits behind another's four: {places}"
        assert places[:4] == sorted(places[:4]), f"an owner's jobs change places: {places}"
        self.counts(one, 6)
        one.json("POST", f"/videos/{asks[0][1]}/cancel")
        assert one.get(asks[0][1])["status"] == "cancelled"
        moved = self.places(asks[1:])
        assert sorted(moved) == [1, 2, 3, 4] and moved[3] <= 2 and moved[:3] == sorted(moved[:3]), f"places {moved}"
        one.delete(asks[1][1])
        assert sorted(self.places(asks[2:])) == [1, 2, 3], self.places(asks[2:])
        late = asks[2][1]
        stage.store.client.zadd("adaspa:arrivals:idle-places", {late: 0})
        assert one.end(late, "failed")["error"]["code"] == "queue_timeout"
        assert sorted(self.places(asks[3:])) == [1, 2], self.places(asks[3:])
        assert one.json("POST", f"/videos/{late}/cancel")["status"] == "failed"
        self.counts(one, 3)
        for each in (one, other):
            each.leave()
        assert stage.store.load("idle-places").waiting == 0

    def counts(self, guest: Guest, waiting: int) -> None:
        """The model's load, which gateways read now and then."""

        def told() -> tuple[int, int, int]:
            model = guest.json("GET", "/models/idle-places")
            return model["waiting"], model["running"], model["workers"]

        until(lambda: told() == (waiting, 0, 0), f"{waiting} jobs are told to wait")

    def places(self, asks: list[tuple[Guest, str]]) -> list[int]:
        found = [guest.get(video_id)["queue_position"] for guest, video_id in asks]
        listed = {
            video["id"]: video["queue_position"] for guest, _ in asks for video in guest.json("GET", "/videos")["data"]
        }
        assert found == [listed[video_id] for _, video_id in asks], f"places {found}, and in a list {listed}"
        return found


class Caps(Scene):
    """A queue is filled."""

    name = "a queue filled to its cap"
    promise = "the cap holds, and keeps no other owner out"

    def play(self, stage: Stage) -> None:
        one, other = Guest(stage), Guest(stage)
        asked = {"prompt": "a red circle", "model": "idle-caps"}
        for _ in range(QUEUE_CAP // 8):
            one.create(n=8, model="idle-caps")
        one.refused(429, "queue_full", "POST", "/videos", json=asked)
        one.refused(429, "queue_full", "POST", "/videos", json=asked | {"n": 2})
        assert stage.store.load("idle-caps").waiting == QUEUE_CAP
        video = other.create(model="idle-caps")
        assert video["queue_position"] <= 2, video["queue_position"]
        one.refused(429, "queue_full", "POST", "/videos", json=asked)
        one.create(model="idle-caps", priority="bulk")
        assert len(one.pages(7)) == QUEUE_CAP + 1
        one.leave()
        other.leave()


class Refusals(Scene):
    """Requests that are wrong."""

    name = "wrong requests"
    promise = "a wrong field is refused by its name, and nothing is queued"

    def play(self, stage: Stage) -> None:
        guest = Guest(stage)
        for wrong in (
            *({"steps": 0}, {"steps": 2001}, {"size": "65x64"}, {"num_frames": 6}, {"fps": 31}, {"n": 0}, {"n": 9}),
            *(
                {"prompt": ""},
                {"prompt": "a" * 201},
                {"model": "none"},
                {"priority": "low"},
                {"seed": -1},
                {"colour": 1},
            ),
            *({"metadata": {str(n): "x" for n in range(17)}}, {"webhook_url": "ftp://x"}, {"guidance_scale": 11}),
        ):
            (field,) = wrong
            guest.refused(400, field, "POST", "/videos", json={"prompt": "a red circle"} | wrong)
        guest.refused(
            400, "Idempotency-Key", "POST", "/videos", json={"prompt": "a"}, headers={"Idempotency-Key": "x" * 256}
        )
        assert guest.ids() == [], "what was refused was made"
        video = guest.create(model="idle-refusals", steps=2000, num_frames=5, fps=30, size="64x64")
        assert video["seconds"] == "0.167", video["seconds"]
        guest.leave()


class KeysCut(Scene):
    """Power goes right after a key was revoked, and after another got a new secret."""

    name = "power cut: keys"
    promise = "a key that was revoked or rotated stays so through a power cut"

    def play(self, stage: Stage) -> None:
        guest, other = Guest(stage), Guest(stage)
        for each in (guest, other):
            each.ask("GET", "/videos")
        until(stage.store.file.synced, "Redis' file is on the disk")
        old = other.token
        for act in (lambda: guest.keys.revoke(guest.key.id), lambda: other.keys.rotate(other.key.id, 0)):
            new = act()
            stage.fleet.cut_power(stage.clients.history)
            stage.fleet.wait_until_ready()
        for each in (guest, other):
            each.ask("GET", "/videos", 401)
        assert isinstance(new, str) and other.token == old
        other.token = new
        other.leave()


class Noted(Scene):
    """What people did is in the gateways' logs, and what they said is not."""

    name = "acts in the audit log"
    promise = "each creation, cancellation and deletion is noted with who did it, and no line has a prompt or a secret"

    def play(self, stage: Stage) -> None:
        guest, words = Guest(stage), "an otter that nobody may read of"
        one, two = (guest.create(model="idle-limits", prompt=words, seed=number)["id"] for number in (1, 2))
        guest.json("POST", f"/videos/{one}/cancel")
        guest.json("POST", f"/videos/{one}/cancel")
        guest.delete(two)
        OperatorActs(stage.fleet.client()).add("key.made up", key="a key")
        until(lambda: self.lines(stage, "a key"), "a gateway writes down what an operator did")
        for video_id, wanted in ((one, ["job.created", "job.cancelled"]), (two, ["job.created", "job.deleted"])):
            found = self.lines(stage, video_id)
            assert [line["event"] for line in found] == wanted, f"{video_id}: {[line['event'] for line in found]}"
            assert {(line["actor"], line["actor_name"]) for line in found} == {(guest.key.id, guest.key.name)}, found
            assert all(line["request_id"] and line["address"] == "127.0.0.1" for line in found), found
        whole = "".join(text for _, text in self.logs(stage))
        for secret in (words, guest.token, *stage.fleet.keys.values()):
            assert secret not in whole, f"the logs have {secret[:20]}"
        guest.leave()

    def logs(self, stage: Stage) -> list[tuple[str, str]]:
        return [(path.stem, path.read_text()) for path in sorted(stage.fleet.folder.glob("gateway-*.log"))]

    def lines(self, stage: Stage, about: str) -> list[dict[str, Any]]:
        """Lines of the audit log that name something, in the order of their time."""
        lines = [line for _, text in self.logs(stage) for line in text.splitlines() if about in line and "{" in line]
        found = [json.loads(line) for line in lines]
        own = [line for line in found if "event" in line]
        return sorted(own, key=lambda line: str(line.get("time", line.get("timestamp", ""))))


ALONE: list[Scene] = [KeysCut()]
SCENES: list[Scene] = [Noted(), Keys(), Batches(), Lists(), Places(), Limits(), Caps(), Refusals()]
