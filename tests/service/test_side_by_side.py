"""Parts of a gateway that do the work of many at a time, while some of these come, go, hang or fail."""

import asyncio
import threading
from collections import Counter
from itertools import pairwise
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.settings import Settings
from adaspa_service.errors import ApiError
from adaspa_service.gateway import feed, listing, state
from adaspa_service.gateway.feed import Feed, Follower
from adaspa_service.gateway.rounds import Rounds
from adaspa_service.gateway.state import AppState
from adaspa_service.inputs import turns
from adaspa_service.inputs.turns import Turns
from adaspa_service.webhooks import deliverer
from adaspa_service.webhooks.attempt import Result
from adaspa_service.webhooks.deliverer import Deliverer
from adaspa_service.webhooks.deliveries import Delivery, Outcome
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError
from virtual_time import Clock, run
from waiting import PATIENCE, until


class Pipes:
    """Stands for Redis: each command is answered by itself, once that is let through."""

    def __init__(self) -> None:
        self.lost = False
        self.sent: list[list[tuple[Any, ...]]] = []
        self.through = asyncio.Event()
        self.through.set()

    def pipeline(self, transaction: bool) -> Any:
        asked: list[tuple[Any, ...]] = []

        async def execute(raise_on_error: bool) -> list[Any]:
            self.sent.append(asked)
            await self.through.wait()
            if self.lost:
                raise ConnectionLost("away")
            return [ResponseError("no") if command[0] == "WRONG" else command for command in asked]

        assert not transaction
        return SimpleNamespace(execute_command=lambda *command: asked.append(command), execute=execute)


async def settled() -> None:
    """All that can be done without anybody else is done."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_whoever_shares_a_round_trip_gets_its_own_answers_whoever_else_goes_or_is_wrong() -> None:
    async def play(random: Random) -> None:
        pipes = Pipes()
        rounds = Rounds(pipes)  # type: ignore[arg-type]
        for _ in range(12):
            pipes.through.clear()
            first = asyncio.create_task(rounds.ask([("FIRST",)]))
            await settled()
            commands = [
                [(random.choice(("GET", "GET", "WRONG")), asker, each) for each in range(random.randrange(1, 4))]
                for asker in range(6)
            ]
            askers = [asyncio.create_task(rounds.ask(each)) for each in commands]
            await settled()
            gone = random.sample(range(6), 2)
            for asker in gone:
                askers[asker].cancel()
            before, pipes.lost = len(pipes.sent), random.random() < 0.2
            pipes.through.set()
            await asyncio.gather(first, *askers, return_exceptions=True)
            assert len(pipes.sent) == before + 1, "what is asked at a time goes in one piece"
            for asker, (task, asked) in enumerate(zip(askers, commands, strict=True)):
                if asker in gone:
                    assert task.cancelled()
                elif pipes.lost:
                    assert isinstance(task.exception(), StoreUnavailable)
                elif any(command[0] == "WRONG" for command in asked):
                    assert isinstance(task.exception(), StoreUnavailable | ResponseError)
                else:
                    assert task.result() == asked, "somebody gets the answers of another"
            pipes.lost = False
            assert await rounds.ask([("LAST",)]) == [("LAST",)], "it goes on afterwards"

    for seed in range(3):
        asyncio.run(play(Random(seed)))


class Streams:
    """Stands for Redis: streams of events, read behind an id."""

    def __init__(self) -> None:
        self.kept: dict[str, list[int]] = {}
        self.reads: list[dict[str, str]] = []
        self.lost = False

    async def xread(self, streams: dict[str, str], count: int, block: int) -> list[tuple[bytes, list[tuple[str, Any]]]]:
        self.reads.append(dict(streams))
        await asyncio.sleep(0.001)
        if self.lost:
            raise ConnectionLost("away")
        found = {key: [at for at in self.kept.get(key, []) if at > int(last)][:count] for key, last in streams.items()}
        return [(key.encode(), [(str(at), {}) for at in new]) for key, new in found.items() if new]


def test_who_follows_hears_of_all_that_comes_whoever_else_comes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PAUSE_SECONDS", 0.001)

    async def play(random: Random) -> None:
        streams = Streams()
        news = Feed(streams)  # type: ignore[arg-type]
        following: list[tuple[str, Any, Follower]] = []
        for at in range(1, 120):
            act = random.choice(("come", "come", "go", "tell", "tell", "tell"))
            job = random.choice("abc")
            key = f"adaspa:events:{job}"
            if act == "come":
                read = news._read.get(key)
                block = news.following(job, str(random.choice((0, max(0, at - 3)))))
                follower = block.__enter__()
                assert read is None or news._read[key] == read, "who comes moves where the others are"
                assert await follower.wait(), "who comes looks by itself at first"
                following.append((key, block, follower))
            elif act == "go" and following:
                _, block, _ = following.pop(random.randrange(len(following)))
                block.__exit__(None, None, None)
            elif act == "tell":
                for _, _, follower in following:  # whoever was told of an earlier one asks for it
                    follower._woken.clear()
                    follower._news = False
                streams.kept.setdefault(key, []).append(at)
                for one, _, follower in following:
                    if one == key:
                        assert await asyncio.wait_for(heard(follower), PATIENCE), (
                            "who follows does not hear of an event"
                        )
            followed = {each for each, _, _ in following}
            assert set(news._read) == followed, f"{set(news._read)} are read, and {followed} are followed"
        streams.lost = True
        for _, _, follower in following:
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(forever(follower), PATIENCE)

    async def heard(follower: Follower) -> bool:
        while not await follower.wait():
            pass
        return True

    async def forever(follower: Follower) -> None:
        while True:
            await follower.wait()

    for seed in range(3):
        asyncio.run(play(Random(seed)))


def test_a_gateway_that_is_over_looks_up_no_host(settings: Settings) -> None:
    parts = AppState.of(settings)
    lookups = [addresses._threads for addresses in (parts.addresses, parts.inputs._addresses)]
    assert [threads.submit(int).result() for threads in lookups] == [0, 0]
    asyncio.run(parts.close())
    for threads in lookups:
        with pytest.raises(RuntimeError):
            threads.submit(int)


def test_who_goes_while_news_of_its_job_come_takes_nobody_along() -> None:
    class Held(Streams):
        """Answers once that is let through."""

        through = asyncio.Event()

        async def xread(self, streams: Any, count: int, block: int) -> list[Any]:
            await self.through.wait()
            self.through.clear()
            return await super().xread(streams, count, block)

    async def play() -> None:
        streams = Held()
        streams.kept = {"adaspa:events:a": [1], "adaspa:events:b": [2]}
        news = Feed(streams)  # type: ignore[arg-type]
        with news.following("b", "0") as stays:
            assert await stays.wait()
            with news.following("a", "0"):
                await settled()  # a read for both is under way
            streams.through.set()
            assert await asyncio.wait_for(stays.wait(), PATIENCE)
            streams.kept["adaspa:events:b"].append(3)
            streams.through.set()
            assert await asyncio.wait_for(stays.wait(), PATIENCE), "and it goes on"

    asyncio.run(play())


def test_each_follower_is_woken_about_every_second_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, woken, count = Clock(), list[list[float]](), 25
    monkeypatch.setattr(feed, "time", clock)

    class Quiet(Streams):
        async def xread(self, streams: Any, count: int, block: int) -> list[Any]:
            await asyncio.sleep(block / 1000)
            return []

    async def follow(news: Feed, job: str, times: list[float]) -> None:
        with news.following(job, "0") as follower:
            assert await follower.wait(), "there may be news at first"
            while not await follower.wait():
                times.append(clock.now)

    async def play() -> None:
        news = Feed(Quiet())  # type: ignore[arg-type]
        woken.extend([] for _ in range(count))
        follows = [asyncio.create_task(follow(news, f"job {number % 7}", woken[number])) for number in range(count)]
        await asyncio.sleep(20.5)
        assert not any(task.done() for task in follows), "what is no news is told for some"
        for task in follows:
            task.cancel()
        await asyncio.gather(*follows, return_exceptions=True)
        await asyncio.sleep(1)
        assert news._reading is None and not news._followers, "it reads on for nobody"

    run(clock, play())
    for times in woken:
        gaps = [later - sooner for sooner, later in pairwise([0.0, *times])]
        assert all(0.5 < gap < 2.3 for gap in gaps) and times[-1] > 18, times
    at_once = Counter(round(at, 3) for times in woken for at in times)
    assert max(at_once.values()) <= -(-count // feed.GROUPS), "one round trip would be for all of them"


def test_turns_that_are_waited_for_in_vain_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.01)

    async def play() -> None:
        given = Turns()
        for _ in range(2):
            with given.of("a") as first, given.of("b") as other:
                await first.take()
                await first.take()  # it has come
                held = [given.of("a") for _ in range(turns.OF_AN_OWNER)]
                taken = [each.__enter__() for each in held]
                for turn in taken[1:]:
                    await turn.take()
                with pytest.raises(ApiError) as refused:
                    await taken[0].take()
                assert (refused.value.status, refused.value.code) == (503, "too_many_images")
                await other.take()  # another owner's is not held up
                for block in held:
                    block.__exit__(None, None, None)
        owners = [given.of(f"owner {number}") for number in range(turns.AT_A_TIME + 1)]
        everybody = [each.__enter__() for each in owners]
        for turn in everybody[1:]:
            await turn.take()
        with pytest.raises(ApiError):
            await everybody[0].take()
        everybody[1].end()
        await everybody[0].take()

    asyncio.run(play())


def test_what_is_known_of_a_model_is_as_old_as_its_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late the answer came."""
    now, asked = [100.0], list[float]()

    def ask(_: str) -> float:
        asked.append(now[0])
        now[0] += 0.4
        return asked[-1]

    monkeypatch.setattr(state, "time", SimpleNamespace(monotonic=lambda: now[0]))
    known = state.Recent(ask)
    for at, wanted in ((100.0, 100.0), (100.5, 100.0), (100.6, 100.6), (101.1, 100.6), (101.2, 101.2)):
        now[0] = at
        assert known.get("demo") == wanted, at
    assert asked == [100.0, 100.6, 101.2]


class Queue:
    """Stands for the deliveries: those that are due, and what became of each."""

    def __init__(self, *due: str) -> None:
        self.due, self.limits, self.noted = [*due], list[int](), dict[str, tuple[Outcome, Any]]()

    def take(self, limit: int) -> list[Delivery]:
        self.limits.append(limit)
        taken, self.due = self.due[:limit], self.due[limit:]
        return [
            Delivery(name, "video.completed", "open", f"http://{name}/", f"{name}#1", 1, None, "{}", "", None)
            for name in taken
        ]

    def note(self, delivery: Delivery, outcome: Outcome, *, again_in: float | None, **_: Any) -> None:
        self.noted[delivery.job_id] = outcome, again_in

    def secrets(self) -> list[str]:
        return ["whsec_c2VjcmV0"]


def test_a_receiver_that_hangs_holds_up_no_other_and_is_asked_again_by_the_next_gateway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once, most = 0, 0
    hangs = threading.Event()

    class Sender:
        def __init__(self, _: object) -> None:
            pass

        async def send(self, url: str, *_: object) -> Result:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            try:
                if "hangs" in url:
                    hangs.set()
                    await asyncio.Event().wait()
                if "away" in url:
                    raise StoreUnavailable("away")
                await asyncio.sleep(0)
                return Result(Outcome.rejected if "no" in url else Outcome.delivered, retry_after=5.0)
            finally:
                at_once -= 1

    monkeypatch.setattr(deliverer, "Sender", Sender)
    monkeypatch.setattr(deliverer, "CONCURRENCY", 3)
    monkeypatch.setattr(deliverer, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(deliverer, "STOP_SECONDS", 0.01)
    queue = Queue("hangs", *(f"video_{number}" for number in range(12)), "no", "away")
    settings: Any = SimpleNamespace(webhook_keys=["whsec_c2VjcmV0"], webhook_retry_seconds=(0.5,))
    addresses: Any = SimpleNamespace(close=lambda: None)
    with Deliverer(queue, settings, addresses):  # type: ignore[arg-type]
        until(lambda: hangs.is_set() and not queue.due and len(queue.noted) == 13, "all others are delivered")
    assert most <= 3 and max(queue.limits[1:]) <= 2, f"{most} at a time, {queue.limits[:9]} are taken"
    assert queue.noted.pop("hangs") == (Outcome.interrupted, 0.0), "what a stop breaks off is made again at once"
    assert queue.noted.pop("no") == (Outcome.rejected, 5.0)
    assert queue.noted == {f"video_{number}": (Outcome.delivered, None) for number in range(12)}


@pytest.mark.parametrize(
    ("made_us", "was"),
    [
        (listing.FIRST_ID_US - 1, False),
        (listing.FIRST_ID_US, True),
        (1_900_000_000_000_000, True),
        (1_900_003_599_000_000, True),  # the clock may be set back by as much
        (1_900_003_601_000_000, False),
        (1_900_009_000_000_000, True),  # no later than the latest id: it was set back by more
        (1_900_009_000_000_001, False),
    ],
)
def test_a_cursor_is_an_id_that_may_have_been_given(made_us: int, was: bool) -> None:
    latest = 1_900_009_000_000_000 if made_us >= 1_900_009_000_000_000 else 0
    store: Any = SimpleNamespace(now=lambda: 1_900_000_000.0, last_id_us=lambda: latest)
    assert listing.was_an_id(f"video_{made_us:014x}{'0' * 18}", store) == was
    assert not listing.was_an_id(f"video_{made_us:014x}{'0' * 17}", store)
    assert not listing.was_an_id(f"Video_{made_us:014x}{'0' * 18}", store)
