"""Rotating a key whose answer is lost, once or more than once: nobody is locked out."""

from pathlib import Path

import pytest
import redis
from adaspa_jobs.scripts import StoreUnavailable
from adaspa_service.access.keys import KeyStore, Scope
from faults import Fault, FaultyRedis, Outside, let_grace_pass


def test_a_rotation_whose_answer_is_lost_can_be_asked_for_again(valkey: redis.Redis, valkey_socket: Path) -> None:
    keys, outside = KeyStore(valkey), Outside()
    key, first = keys.create("test", frozenset({Scope.read}))
    with FaultyRedis(valkey_socket, outside) as client:
        faulty = KeyStore(client)
        with outside.struck_by(Fault(1, "after", "cut")), pytest.raises(StoreUnavailable):
            faulty.rotate(key.id, 60)
    assert keys.authenticate(first), "it was rotated, and nobody has the new token"
    second = keys.rotate(key.id, 60)
    third = keys.rotate(key.id, 60)
    assert all(keys.authenticate(token) for token in (first, second, third) if token)
    last = keys.rotate(key.id, 0)
    assert [bool(keys.authenticate(token or "")) for token in (first, second, third, last)] == [False] * 3 + [True]


def test_a_secret_holds_no_longer_than_the_shortest_grace_since(valkey: redis.Redis) -> None:
    keys = KeyStore(valkey)
    key, first = keys.create("test", frozenset({Scope.read}))
    second = keys.rotate(key.id, 7200) or ""
    keys.rotate(key.id, 3600)
    assert keys.authenticate(first) and keys.authenticate(second)
    let_grace_pass(valkey, key.id, 3601)
    assert not keys.authenticate(first) and not keys.authenticate(second)


def test_the_same_command_done_twice_is_done_once(valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a client that repeats what got no answer does it."""
    keys = KeyStore(valkey)
    key, first = keys.create("test", frozenset({Scope.read}))
    monkeypatch.setattr("secrets.token_urlsafe", lambda _: "s" * 43)
    assert keys.rotate(key.id, 60) == keys.rotate(key.id, 0)
    assert keys.authenticate(first) and keys.authenticate(f"adaspa_{key.id}_{'s' * 43}")
