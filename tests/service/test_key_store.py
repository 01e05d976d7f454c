"""API keys under random use, beside what the documents say of them in plain Python: which tokens hold and for how long,
what a limited key may still ask, and what is left of a key that was revoked."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import floor
from random import Random
from typing import Any

import pytest
import redis
from adaspa_service.access.keys import ApiKey, KeyStore, Scope, digest, has_to_be_noted

DAY = 86400.0
GRACES = (0, 25_000, 95_000, 725_000)
LIFETIMES = (None, None, 105_000, 2_005_000)
PASSING = (10_000, 30_000, 100_000, 500_000)
"""Seconds that pass: no moment at which something ends is near one at which somebody looks, however slowly."""


@dataclass
class Wanted:
    """A key as it is to be. Times are seconds since the test began."""

    key: ApiKey
    ends: float | None
    tokens: dict[str, float | None]
    """Every token that it ever had, with its end; None for the current one."""

    def holds(self, token: str, now: float) -> bool:
        end = self.tokens[token]
        return (end is None or now < end) and (self.ends is None or now < self.ends)


def let_time_pass(client: redis.Redis, seconds: int) -> None:
    """Make every moment that keys have this much earlier."""
    for name in client.scan_iter("adaspa:key:*"):
        record: dict[bytes, bytes] = client.hgetall(name)  # type: ignore[assignment]
        for moment in (b"expires_at", b"last_used_at"):
            if moment in record:
                client.hset(name, moment, int(record[moment]) - seconds)  # type: ignore[arg-type]
        entries = [entry.split(b":") for entry in record.get(b"previous", b"").split()]
        earlier = b" ".join(b"%b:%d" % (old, int(end) - seconds * 1000) for old, end in entries)
        if earlier:
            client.hset(name, "previous", earlier)
    for name in client.scan_iter("adaspa:rate:*"):
        client.incrbyfloat(name, -seconds * 1000.0)


@pytest.fixture(params=[0.0, 9 * DAY, -9 * DAY], ids=["right", "ahead", "behind"])
def off(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """How far the gateway's own clock is off, which nothing here may go by."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + request.param)
    return request.param  # type: ignore[no-any-return]


def test_a_token_holds_as_long_as_was_said_and_a_key_leaves_nothing_behind(valkey: redis.Redis, off: float) -> None:
    draw, keys, now = Random(7), KeyStore(valkey), 0
    valkey.set("adaspa:skipped", 10**11)  # what does not count for jobs does for keys, which go by the clock
    wanted: dict[str, Wanted] = {}
    revoked: list[Wanted] = []

    def create() -> None:
        limits = {"max_in_flight": draw.choice((None, 3)), "requests_per_minute": draw.choice((None, None, 600))}
        scopes, lifetime = frozenset(draw.sample([*Scope], draw.randrange(1, 4))), draw.choice(LIFETIMES)
        key, token = keys.create(f"key {len(wanted)}", scopes, lifetime_seconds=lifetime, **limits)
        assert (key.scopes, key.max_in_flight) == (scopes, limits["max_in_flight"])
        wanted[key.id] = Wanted(key, None if lifetime is None else now + lifetime, {token: None})

    def rotate(one: Wanted) -> None:
        grace = draw.choice(GRACES)
        token = keys.rotate(one.key.id, grace)
        assert token is not None and token not in one.tokens
        held = {digest(old.split("_", 2)[2]) for old, end in one.tokens.items() if end is None or now < end}
        ends = {old: now + grace if end is None else min(end, now + grace) for old, end in one.tokens.items()}
        one.tokens = ends | {token: None}
        kept = {entry.split(b":")[0].decode() for entry in valkey.hget(f"adaspa:key:{one.key.id}", "previous").split()}  # type: ignore[union-attr]
        assert kept <= held, "secrets whose grace was over are kept"

    def revoke(one: Wanted) -> None:
        assert keys.revoke(one.key.id) and not keys.revoke(one.key.id)
        revoked.append(wanted.pop(one.key.id))
        keys.use(one.key)  # of a request that was let in just before
        assert keys.rotate(one.key.id, 60) is None

    def use(one: Wanted) -> None:
        token = next(token for token, end in one.tokens.items() if end is None)
        if (found := keys.authenticate(token)) is not None:
            keys.use(found)
            noted = keys.authenticate(token)
            assert noted is not None and noted.last_used_at is not None
            assert abs(valkey.time()[0] - noted.last_used_at) <= 60, "when it was used is not noted"  # type: ignore[index]
            assert has_to_be_noted(noted) == (off != 0 or noted.requests_per_minute is not None)

    for _ in range(130):
        act = draw.choice((rotate, rotate, rotate, use, use, revoke, None, None))
        if len(wanted) < 4:
            create()
        elif act is None:
            passing = draw.choice(PASSING)
            let_time_pass(valkey, passing)
            now += passing
        else:
            act(draw.choice([*wanted.values()]))
        for one in wanted.values():
            for token in one.tokens:
                found = keys.authenticate(token)
                assert (found is not None) == one.holds(token, now), f"{token[:19]} {one.tokens[token]} at {now}"
                assert found is None or (found.id, found.name, found.scopes) == (
                    one.key.id,
                    one.key.name,
                    one.key.scopes,
                )
            assert keys.is_valid(one.key.id) == (one.ends is None or now < one.ends)
        for gone in revoked:
            assert not keys.is_valid(gone.key.id) and not any(map(keys.authenticate, gone.tokens))
        assert {key.id for key in keys.all()} == set(wanted), "those that have expired are listed, too"
        assert {name.decode().rpartition(":")[2] for name in valkey.scan_iter("adaspa:key:*")} == set(wanted)


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_a_minutes_requests_may_come_at_once_and_each_comes_back_in_its_share(valkey: redis.Redis, limit: int) -> None:
    """Asking too often costs nothing."""
    draw, keys, share = Random(limit), KeyStore(valkey), 60 / limit
    valkey.set("adaspa:skipped", 10**11)
    key, _ = keys.create("studio", frozenset({Scope.read}), requests_per_minute=limit)
    least = most = float(limit)
    """What is left, without and with the time that really passes here."""
    seen = time.monotonic()
    for _ in range(80):
        if draw.random() < 0.35:
            shares = draw.choice((0.5, 0.5, 1, 2, limit + 1))
            if valkey.exists(f"adaspa:rate:{key.id}"):
                valkey.incrbyfloat(f"adaspa:rate:{key.id}", -shares * share * 1000)
            least, most = (min(float(limit), left + shares) for left in (least, most))
            continue
        asked = time.monotonic()
        rate: Any = keys.use(key)
        most, seen = min(float(limit), most + (time.monotonic() - seen + 0.002) / share), asked
        if rate.wait_seconds is None:
            assert most >= 1, (rate, most)
            least, most = max(least - 1, 0.0), most - 1
        else:
            assert least < 1, (rate, least)
            assert (1 - most) * share - 0.01 <= rate.wait_seconds <= (1 - least) * share + 0.01, (rate, least, most)
        assert rate.limit == limit and floor(least) <= rate.remaining <= floor(most), (rate, least, most)
        assert (limit - most) * share - 0.01 <= rate.reset_seconds <= (limit - least) * share + 0.01, (
            rate,
            least,
            most,
        )


@pytest.mark.parametrize(("left", "holds"), [(-1, False), (0, False), (1000, True)])
def test_a_key_ends_with_the_second_in_which_it_expires(valkey: redis.Redis, left: int, holds: bool) -> None:
    keys = KeyStore(valkey)
    key, token = keys.create("studio", frozenset({Scope.read}), lifetime_seconds=60)
    now: Any = valkey.time()
    valkey.hset(f"adaspa:key:{key.id}", "expires_at", now[0] + left)
    assert (keys.authenticate(token) is not None) == keys.is_valid(key.id) == holds


@pytest.mark.parametrize("field", ["name", "scopes", "created_at", "expires_at", "max_in_flight", "last_used_at"])
def test_a_damaged_key_opens_nothing_and_stands_in_no_others_way(
    valkey: redis.Redis, caplog: pytest.LogCaptureFixture, field: str
) -> None:
    keys = KeyStore(valkey)
    (damaged, token), (other, others) = (keys.create(name, frozenset({Scope.read})) for name in ("one", "other"))
    valkey.hset(f"adaspa:key:{damaged.id}", field, b"\xff")
    for _ in range(2):
        assert keys.authenticate(token) is None and not keys.is_valid(damaged.id)
        assert keys.authenticate(others) is not None and [key.id for key in keys.all()] == [other.id]
        valkey.hdel(f"adaspa:key:{damaged.id}", "name")  # as when its record was lost, and a request was noted since
    assert f"API key {damaged.id}: its record is damaged" in caplog.text and other.id not in caplog.text
    assert keys.revoke(damaged.id)


@pytest.mark.parametrize("entry", ["nonsense", "a:b", ":", "a:1.5", "a:99999999999999999999"])
def test_an_earlier_secret_that_cannot_be_read_takes_no_other_with_it(valkey: redis.Redis, entry: str) -> None:
    keys = KeyStore(valkey)
    key, first = keys.create("studio", frozenset({Scope.read}))
    second = keys.rotate(key.id, 1000)
    kept: Any = valkey.hget(f"adaspa:key:{key.id}", "previous")
    valkey.hset(f"adaspa:key:{key.id}", "previous", f"{entry} {kept.decode()}")
    assert keys.authenticate(first) and second and keys.authenticate(second)
    third = keys.rotate(key.id, 1000)
    assert third and all(map(keys.authenticate, (first, second, third)))


def test_keys_are_listed_by_their_age_without_what_cannot_be_read(valkey: redis.Redis) -> None:
    keys = KeyStore(valkey)
    made = [keys.create(str(number), frozenset({Scope.read}))[0].id for number in range(3)]
    for age, key_id in enumerate(reversed(made)):
        valkey.zincrby("adaspa:keys", -age, key_id)
    assert [key.id for key in keys.all()] == made
    valkey.delete(f"adaspa:key:{made[1]}")  # of a restored backup, for example
    valkey.hset(f"adaspa:key:{made[2]}", mapping={"scopes": "read dream", "invented": "1"})  # by a later version
    assert [(key.id, key.scopes) for key in keys.all()] == [(each, {Scope.read}) for each in (made[0], made[2])]
