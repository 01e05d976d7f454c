"""Whose turn it is among deliveries, beside what the documents say of it in plain Python: what is due, one at a time in
a lane, so many of an owner, and nothing that could be tried is left waiting."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
import redis
from adaspa_jobs.job import JobParams
from adaspa_jobs.store import JobStore
from adaspa_service.webhooks.deliveries import Delivery, DeliveryStore, Outcome
from admitting import admit

Params = Callable[..., JobParams]
ATTEMPT, DEAD = 305_000.0, 9_005_000.0
AGAIN = (0.0, 35_000.0, 105_000.0, 605_000.0)
PASSING = (10_000, 10_000, 50_000, 310_000, 2_000_000)
"""Seconds that pass: no moment at which something ends is near one at which somebody looks, however slowly."""
OWNERS, OF_OWNER = ("one", "other"), 3


def let_time_pass(client: redis.Redis, seconds: float, taken: Sequence[Delivery] = ()) -> list[Delivery]:
    """Make every moment that deliveries have this much earlier; those that were taken, with it."""
    moved = round(seconds * 1000)
    for pattern in (
        "webhooks",
        "webhooks_dead",
        "webhook_lanes",
        "webhook_lane:*",
        "webhook_trying:*",
        "webhook_secrets",
    ):
        for name in client.scan_iter(f"adaspa:{pattern}", count=1000):
            members: Any = client.zrange(name, 0, -1, withscores=True)
            client.zadd(name, {member: score - moved for member, score in members})
    for pattern in ("webhook_busy:*", "webhook:*"):
        for name in client.scan_iter(f"adaspa:{pattern}", count=1000):
            left: int = client.pttl(name)  # type: ignore[assignment]
            if left >= 0:
                client.pexpire(name, max(left - moved, 0))
    return [replace(delivery, over_ms=delivery.over_ms - moved) for delivery in taken]


@dataclass
class Wanted:
    """A delivery as it is to be. Times are seconds since the test began."""

    lane: str
    owner: str
    due: float
    attempts: int = 0
    dead_since: float | None = None
    tried: bool = False
    """What came of an attempt was noted."""
    body: str | None = None


class Desk:
    """Deliveries of two owners, and what is wanted of them.

    Args:
        store: of the jobs.
        params: makes a job's.
        seed: of the order.
    """

    def __init__(self, store: JobStore, params: Params, seed: int) -> None:
        self.store, self.params, self.draw = store, params, Random(seed)
        store.client.set("adaspa:skipped", 10**11)  # what does not count for jobs does for receivers: they have a clock
        self.deliveries = DeliveryStore(
            store.client, attempt_seconds=ATTEMPT, dead_seconds=DEAD, owner_attempts=OF_OWNER
        )
        self.now = 0.0
        self.wanted: dict[str, Wanted] = {}
        self.busy: dict[str, tuple[str, float]] = {}
        """The delivery that holds a lane, and until when."""
        self.trying: dict[str, tuple[str, float]] = {}
        """Owner of a delivery with an attempt under way, and until when."""
        self.taken: list[tuple[Delivery, float]] = []
        """Attempts whose outcome is still to come, and until when they have a say."""
        self.ended = {"delivered": 0, "dead": 0}
        self.attempts = 0

    def owe(self) -> None:
        owner, host = self.draw.choice(OWNERS), self.draw.randrange(3)
        job, _ = admit(self.store, self.params(), owner=owner, webhook_url=f"https://host{host}.example.com/a?b")
        self.store.request_cancel(job.id)
        made = self.deliveries.get(job.id)
        assert made is not None and (made.owner, made.receiver) == (owner, f"host{host}.example.com")
        self.wanted[job.id] = Wanted(made.lane, owner, self.now)

    def pass_time(self) -> None:
        seconds = self.draw.choice(PASSING)
        moved = let_time_pass(self.store.client, seconds, [delivery for delivery, _ in self.taken])
        self.taken = [(delivery, end) for delivery, (_, end) in zip(moved, self.taken, strict=True)]
        self.now += seconds
        self.busy = {lane: held for lane, held in self.busy.items() if held[1] > self.now}
        self.trying = {job_id: held for job_id, held in self.trying.items() if held[1] > self.now}
        gone = [job_id for job_id, one in self.wanted.items() if one.dead_since is not None]
        for job_id in gone:
            if (self.wanted[job_id].dead_since or 0.0) + DEAD <= self.now:
                del self.wanted[job_id]

    def free(self, some: bool) -> set[str]:
        """Deliveries that may be tried: the first of each lane that nobody has, if it is due and its owner's turn.

        Of several that are first in a lane at the same moment one is: it may be any of them, or only ``some`` of them.
        """
        waiting = {job_id: one for job_id, one in self.wanted.items() if one.dead_since is None}
        first: dict[str, float] = {}
        for one in waiting.values():
            first[one.lane] = min(first.get(one.lane, one.due), one.due)
        lanes = {lane for lane, due in first.items() if due <= self.now and lane not in self.busy}
        counts = [owner for owner, _ in self.trying.values()]
        full = {owner for owner in OWNERS if counts.count(owner) >= OF_OWNER}
        of_full = {one.lane for one in waiting.values() if one.due == first[one.lane] and one.owner in full}
        return {
            job_id
            for job_id, one in waiting.items()
            if one.due == first[one.lane]
            and one.lane in lanes
            and one.owner not in full
            and (some or one.lane not in of_full)
        }

    def take(self) -> None:
        self.pass_time()  # what an owner's limit put off for a moment is looked at again
        limit = self.draw.randrange(1, 8)
        taken = self.deliveries.take(limit)
        assert len(taken) <= limit
        for delivery in taken:
            one = self.wanted[delivery.job_id]
            assert delivery.job_id in self.free(some=True), f"{delivery} is not to be tried now"
            one.attempts += 1
            assert delivery.attempts == one.attempts
            self.busy[one.lane] = delivery.job_id, self.now + ATTEMPT
            self.trying[delivery.job_id] = one.owner, self.now + ATTEMPT
            one.due = self.now + ATTEMPT
        assert len(taken) == limit or not self.free(some=False), "what might be tried is left waiting"
        kept = [delivery for delivery in taken if self.draw.random() < 0.8]  # the others die with it
        self.taken += [(delivery, self.now + ATTEMPT) for delivery in kept]

    def note(self) -> None:
        if not self.taken:
            return
        delivery, end = self.taken.pop(self.draw.randrange(len(self.taken)))
        outcome = self.draw.choice((Outcome.delivered, Outcome.rejected, Outcome.rejected, Outcome.gone))
        again = self.draw.choice(AGAIN) if outcome is Outcome.rejected else None
        body = self.draw.choice((f'{{"of": {delivery.attempts}}}', None))
        self.deliveries.note(delivery, outcome, error="e", body=body, again_in=again)
        self.attempts += 1
        one = self.wanted.get(delivery.job_id)
        under_way = self.trying.get(delivery.job_id) == (delivery.owner, end)
        if one is not None and outcome is Outcome.delivered:
            del self.wanted[delivery.job_id]
            self.ended["delivered"] += 1
        elif one is not None and under_way:
            one.tried, one.body = True, body or one.body
            if again is None:
                one.dead_since = self.now
                self.ended["dead"] += 1
            else:
                one.due = self.now + again
        if under_way:
            del self.trying[delivery.job_id], self.busy[delivery.lane]

    def redeliver(self) -> None:
        if not self.wanted:
            return
        assert not self.deliveries.redeliver("video_unknown")
        job_id = self.draw.choice([*self.wanted])
        one = self.wanted[job_id]
        assert self.deliveries.redeliver(job_id)
        one.due = self.now
        if one.dead_since is not None:
            one.dead_since, one.attempts = None, 0

    def look(self) -> None:
        """All that operators are shown."""
        dead = {job_id for job_id, one in self.wanted.items() if one.dead_since is not None}
        waiting = {job_id: one.due for job_id, one in self.wanted.items() if one.dead_since is None}
        assert self.deliveries.trim() == []
        assert {job_id for job_id, _ in self.deliveries.ids("dead")} == dead
        assert {job_id for job_id, _ in self.deliveries.ids("waiting")} == waiting.keys()
        shown = [waiting[job_id] for job_id, _ in self.deliveries.ids("waiting", 5)]
        assert shown == sorted(waiting.values(), reverse=True)[:5], "the latest first"
        for job_id, one in self.wanted.items():
            found = self.deliveries.get(job_id)
            assert found is not None and (found.attempts, found.body) == (one.attempts, one.body)
            assert (found.record is None) == (one.body is not None), "one of the two"
            assert (found.error, found.tried_at is not None) == (("e", True) if one.tried else ("", False))
            expires: int = self.store.client.pttl(f"adaspa:webhook:{job_id}")  # type: ignore[assignment]
            assert (expires > 0) == (one.dead_since is not None), "only what was given up goes by itself"
        counts = self.deliveries.counts()
        assert (counts.waiting, counts.dead) == (len(waiting), len(dead))
        overdue = max(0.0, self.now - min(waiting.values(), default=self.now))
        assert overdue <= counts.overdue_seconds <= overdue + 4999, "what real time passes here comes to it"
        assert counts.ended == {end: count for end, count in self.ended.items() if count}
        assert sum(counts.attempts.values()) == self.attempts


@pytest.mark.parametrize("seed", range(2))
def test_what_is_tried_is_due_and_nothing_that_might_be_is_left(store: JobStore, params: Params, seed: int) -> None:
    desk = Desk(store, params, seed)
    acts = [(desk.owe, 4), (desk.take, 6), (desk.note, 8), (desk.pass_time, 5), (desk.redeliver, 1), (desk.look, 1)]
    for _ in range(250):
        desk.draw.choices(*zip(*acts, strict=True))[0]()
    desk.look()


def owed(store: JobStore, params: Params, count: int, host: str = "host", owner: str = "one") -> list[str]:
    """Jobs whose event waits."""
    made = [admit(store, params(), owner=owner, webhook_url=f"https://{host}.example.com/")[0].id for _ in range(count)]
    for job_id in made:
        store.request_cancel(job_id)
    return made


def test_a_receiver_gets_four_at_a_time_and_an_owner_thirty_two(store: JobStore, params: Params) -> None:
    """One receiver is a host and port, whatever the rest of a URL is."""
    for number in range(60):
        url = ("https://one.example.com/a", "https://one.example.com/b?c", "https://one.example.com:444/")[number % 3]
        job, _ = admit(store, params(), owner=str(number % 5), webhook_url=url)
        store.request_cancel(job.id)
    taken = DeliveryStore(store.client).take(64)
    assert Counter(each.receiver for each in taken) == {"one.example.com": 4, "one.example.com:444": 4}
    for number in range(15):
        owed(store, params, 12, f"host{number}")
    assert Counter(each.owner for each in DeliveryStore(store.client).take(64))["one"] == 32


def test_who_has_waited_longest_comes_first(store: JobStore, params: Params) -> None:
    made = []
    for number in (3, 0, 5, 1, 4, 2):
        made += owed(store, params, 1, f"host{number}")
        let_time_pass(store.client, 10)
    deliveries = DeliveryStore(store.client)
    taken = [delivery for _ in made for delivery in deliveries.take(1)]
    assert [delivery.job_id for delivery in taken] == made
    for late, delivery in enumerate(taken):
        deliveries.note(delivery, Outcome.rejected, body="{}", again_in=10_000.0 - 1000 * late)
    let_time_pass(store.client, 20_000)
    assert [delivery.job_id for _ in made for delivery in deliveries.take(1)] == made[::-1], "by when each is due"


def test_no_lane_comes_twice_before_another_comes_once(store: JobStore, params: Params) -> None:
    """However many events wait in it, and since when."""
    for host in ("a", "b", "c"):
        owed(store, params, 12, host)
    let_time_pass(store.client, 60)
    deliveries, turns = DeliveryStore(store.client), dict[str, int]()
    while found := deliveries.take(1):
        turns[found[0].lane] = turns.get(found[0].lane, 0) + 1
        waiting = [deliveries.get(job_id) for job_id, _ in deliveries.ids("waiting") if job_id != found[0].job_id]
        lanes = {each.lane for each in waiting if each is not None}
        assert max(turns.values()) - min((turns.get(lane, 0) for lane in lanes), default=99) <= 2, turns
        deliveries.note(found[0], Outcome.delivered)
    assert sum(turns.values()) == 36


HINDRANCES = ("its owner has no turn", "not due", "under way", "nothing in it", "no record")


@pytest.mark.parametrize("hindrance", HINDRANCES)
def test_more_lanes_than_are_looked_at_at_once_hold_up_no_other(
    store: JobStore, params: Params, hindrance: str
) -> None:
    """Whatever keeps each of them from being tried."""
    (first,) = owed(store, params, 1)
    (other,) = owed(store, params, 1, "other", "other")
    client, own = store.client, DeliveryStore(store.client, owner_attempts=2)
    record: Any = client.hgetall(f"adaspa:webhook:{first}")
    let_time_pass(client, 60)
    with client.pipeline() as pipe:
        for number in range(1100):
            job_id, lane = f"many{number}", f"host{number}.example.com#0"
            pipe.zadd("adaspa:webhook_lanes", {lane: 1})
            if hindrance != "nothing in it":
                pipe.zadd("adaspa:webhooks", {job_id: 1})
                pipe.zadd(f"adaspa:webhook_lane:{lane}", {job_id: 10**15 if hindrance == "not due" else 1})
            if hindrance != "no record":
                pipe.hset(f"adaspa:webhook:{job_id}", mapping=record | {b"lane": lane})
            if hindrance == "under way":
                pipe.set(f"adaspa:webhook_busy:{lane}", job_id, px=10**6)
        pipe.execute()
    taken = [delivery.job_id for _ in range(3) for delivery in own.take(64)]
    assert other in taken and len(taken) == (3 if hindrance == "its owner has no turn" else 2)


@pytest.mark.parametrize("seed", range(3))
def test_a_secret_holds_as_long_as_was_said_when_it_was_replaced(store: JobStore, seed: int) -> None:
    draw, now, deliveries = Random(seed), 0, DeliveryStore(store.client)
    store.client.set("adaspa:skipped", 10**11)
    current, ends = deliveries.secrets()[0], dict[str, float]()
    for _ in range(30):
        if draw.random() < 0.5:
            keep = draw.choice((0.0, 25_000.0, 125_000.0))
            found = deliveries.rotate_secret(keep)
            ends[current] = now + keep
            assert found[0] not in ends
            current = found[0]
        else:
            seconds = draw.choice((10_000, 100_000))
            let_time_pass(store.client, seconds)
            now += seconds
        holding = sorted((end, secret) for secret, end in ends.items() if now < end)
        found = deliveries.secrets()
        assert found[0] == current and set(found[1:]) == {secret for _, secret in holding}, (now, ends)
        assert len(set(found)) == len(found)


def test_dead_events_go_before_waiting_ones_and_the_oldest_of_them_first(store: JobStore, params: Params) -> None:
    client, made = store.client, [owed(store, params, 1, f"host{number}")[0] for number in range(6)]
    deliveries = DeliveryStore(client)
    taken = sorted(deliveries.take(6), key=lambda each: made.index(each.job_id))
    for at, delivery in enumerate(taken[3:], 3):
        deliveries.note(delivery, Outcome.rejected, error="HTTP 500", again_in=1000.0 * at)
    taken = taken[:3]
    while taken:
        deliveries.note(taken[0], Outcome.gone, error="HTTP 410")
        taken = let_time_pass(client, 1, taken[1:])

    def kept(number: int) -> tuple[list[str], list[str]]:
        dropped = DeliveryStore(client, kept=number).trim()
        return dropped, sorted(job_id for job_id in made if deliveries.get(job_id))

    for number, dropped, left in (
        (6, [], made),
        (5, [], made[1:]),
        (3, [], made[3:]),
        (2, [made[5]], made[3:5]),
        (0, [made[4], made[3]], []),
    ):
        assert kept(number) == (dropped, sorted(left)), number
    assert deliveries.counts().ended == {"dead": 3, "dropped": 3}
    many = owed(store, params, 103)
    assert [len(DeliveryStore(client, kept=1).trim()) for _ in range(3)] == [100, 2, 0], "so many at a time"
    assert [job_id for job_id, _ in deliveries.ids("waiting")] == many[:1]
