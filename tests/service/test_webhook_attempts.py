"""One attempt at a delivery: what is made of each answer and address, and that nobody's name server or host that says
nothing takes the time of others."""

import asyncio
import gc
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from itertools import product
from typing import Any

import pytest
from adaspa_jobs.settings import Settings
from adaspa_service.webhooks import addresses, attempt
from adaspa_service.webhooks.addresses import Addresses, AddressRefused, LookupFailed, Resolve, permitted
from adaspa_service.webhooks.attempt import Result, Sender, judge, retry_after, split
from adaspa_service.webhooks.deliveries import Outcome
from hypothesis import example, given
from hypothesis import strategies as st
from receiver import Receiver, receiving
from waiting import PATIENCE, until

LOCAL = Settings(webhook_networks="127.0.0.0/8").webhook_networks


def test_an_answer_means_one_thing() -> None:
    for status, name in product(range(100, 600), (b"Retry-After", b"retry-after")):
        found = judge(status, [(b"Date", b"7"), (name, b"60")])
        wait = 60.0 if status in (429, 503) else None
        if 200 <= status < 300:
            assert found == Result(Outcome.delivered)
        elif status == 410:
            assert found.outcome is Outcome.gone and found.retry_after is None and "410" in found.error
        else:
            assert found == Result(Outcome.rejected, f"HTTP {status}", wait)


@given(st.binary(max_size=40))
@example(b"Mon, 01 Jan 9999999999999999999 00:00:00 GMT")
@example(b"Fri, 31 Dec 9999 23:59:59 -2359")
@example(b"Mon, 01 Jan 0001 00:00:00 +2359")
@example(b"9" * 400)
@example(b"\xb2")
@example("٣".encode())
@example(b"-1")
@example(b"1.5")
def test_a_wait_that_makes_no_sense_is_none(value: bytes) -> None:
    wait = retry_after(value)
    assert wait is None or 0 <= wait < 1e12
    assert (wait == float(value)) if value.isdigit() and len(value) < 10 else True


def test_a_wait_is_seconds_or_until_a_date() -> None:
    for value, seconds in ((b"0", 0.0), (b" 7 ", 7.0), (b"86400", 86400.0), (b"", None), (b"-1", None), (b"1.5", None)):
        assert retry_after(value) == seconds
    now = datetime.now(UTC)
    for ahead in (-3600, 100, 86400):
        found = retry_after(format_datetime(now + timedelta(seconds=ahead), usegmt=True).encode())
        assert found is not None and max(0, ahead - 60) <= found <= max(0, ahead)


@pytest.mark.parametrize(
    ("url", "host", "port", "target", "named"),
    [
        ("https://hooks.example.com", b"hooks.example.com", 443, b"/", "hooks.example.com"),
        ("https://hooks.example.com:443/a?b=c%20d", b"hooks.example.com", 443, b"/a?b=c%20d", "hooks.example.com"),
        ("https://hooks.example.com:80/", b"hooks.example.com", 80, b"/", "hooks.example.com:80"),
        ("http://hooks.example.com/a/?", b"hooks.example.com", 80, b"/a/", "hooks.example.com"),
        ("http://hooks.example.com:443/", b"hooks.example.com", 443, b"/", "hooks.example.com:443"),
        ("https://HOOKS.Example.com:8443/A", b"hooks.example.com", 8443, b"/A", "hooks.example.com:8443"),
        ("https://[2606:4700::1111]/", b"2606:4700::1111", 443, b"/", "[2606:4700::1111]"),
        ("http://[2606:4700::1111]:8080/?a", b"2606:4700::1111", 8080, b"/?a", "[2606:4700::1111]:8080"),
    ],
)
def test_a_url_is_called_as_it_was_admitted(url: str, host: bytes, port: int, target: bytes, named: str) -> None:
    called, header = split(url)
    assert (called.host, called.port, called.target, header) == (host, port, target, named)
    assert called.scheme == url.partition(":")[0].encode()


V4 = st.ip_addresses(v=4)


@given(V4)
@example(ip_address("169.254.169.254"))
@example(ip_address("10.0.0.1"))
@example(ip_address("8.8.8.8"))
def test_an_ipv6_address_that_stands_for_another_is_judged_as_that(address: Any) -> None:
    number = int(address)
    words = f"{number >> 16:x}:{number & 0xFFFF:x}"
    other = (~number) & 0xFFFFFFFF
    ways = [
        f"::ffff:{address}",
        f"2002:{words}::",
        f"2002:{words}:1::5",
        f"64:ff9b::{words}",
        f"2001:0:808:808:0:0:{other >> 16:x}:{other & 0xFFFF:x}",  # Teredo, by a public server
        f"2001:0:a00:1:0:0:{other >> 16:x}:{other & 0xFFFF:x}",  # by a private one, which nobody calls
    ]
    for networks in ((), Settings(webhook_networks="0.0.0.0/0").webhook_networks, LOCAL):
        assert {permitted(way, networks) for way in ways} == {permitted(str(address), networks)}


def test_no_network_that_an_operator_allows_opens_what_gives_credentials_out() -> None:
    for everything in ("0.0.0.0/0, ::/0", ", ".join(f"{each}/{each.max_prefixlen}" for each in addresses.METADATA)):
        networks = Settings(webhook_networks=everything).webhook_networks
        assert not [each for each in addresses.METADATA if permitted(str(each), networks)]


def of(resolve: Resolve, *asked: tuple[str, str], networks: Any = ()) -> list[Any]:
    """What is found of hosts, each for an owner, all at once."""
    known = Addresses(networks, resolve)

    async def look() -> list[Any]:
        return await asyncio.gather(*(known.of(host, 443, owner) for host, owner in asked), return_exceptions=True)

    try:
        return asyncio.run(look())
    finally:
        known.close()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (["8.8.8.8", "8.8.8.8", "1.1.1.1"], None),
        (["8.8.8.8", "10.0.0.1"], AddressRefused),
        (["10.0.0.1", "8.8.8.8"], AddressRefused),
        ([], AddressRefused),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), AddressRefused),
        (UnicodeError("label too long"), AddressRefused),
        (OSError("unknown"), AddressRefused),
        *((socket.gaierror(code, "no answer"), LookupFailed) for code in addresses.NO_ANSWER),
    ],
    ids=str,
)
def test_a_host_is_what_all_its_addresses_are(answer: Any, kind: type | None) -> None:
    def resolve(host: str, port: int) -> Sequence[str]:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    (found,) = of(resolve, ("hooks.example.com", "one"))
    assert found == ["8.8.8.8", "1.1.1.1"] if kind is None else type(found) is kind
    if kind is AddressRefused and isinstance(answer, list) and answer:
        assert "10.0.0.1" in str(found) and "8.8.8.8" not in str(found)


def test_a_lookup_that_hangs_costs_its_owner_a_turn_until_it_ends_and_no_other_owner_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(addresses, "RESOLVE_SECONDS", 0.3)
    released, begun, ended = threading.Event(), list[str](), list[str]()

    def resolve(host: str, port: int) -> Sequence[str]:
        begun.append(host)
        if host.startswith("slow"):
            released.wait()
            ended.append(host)
            raise OSError("it never was there")
        return ["8.8.8.8"]

    known = Addresses((), resolve)

    async def look() -> None:
        slow = [known.of(f"slow{number}.example.com", 443, "one") for number in range(addresses.OWNER_LOOKUPS + 3)]
        found = await asyncio.gather(*slow, return_exceptions=True)
        assert {type(each) for each in found} == {LookupFailed}
        until(lambda: len(begun) >= addresses.OWNER_LOOKUPS, "the first of them have a thread each")
        assert len(begun) == addresses.OWNER_LOOKUPS, "the others never got a turn"
        (late,) = await asyncio.gather(known.of("quick.example.com", 443, "one"), return_exceptions=True)
        assert isinstance(late, LookupFailed) and len(begun) == addresses.OWNER_LOOKUPS, "threads are still taken"
        monkeypatch.setattr(addresses, "RESOLVE_SECONDS", PATIENCE)
        assert await known.of("quick.example.com", 443, "other") == ["8.8.8.8"]
        released.set()
        while len(ended) < addresses.OWNER_LOOKUPS:
            await asyncio.sleep(0.01)
        assert await known.of("quick.example.com", 443, "one") == ["8.8.8.8"]
        again = [known.of(f"quick{number}.example.com", 443, "one") for number in range(3 * addresses.OWNER_LOOKUPS)]
        assert await asyncio.gather(*again) == [["8.8.8.8"]] * len(again), "every turn came back"

    try:
        asyncio.run(look())
    finally:
        released.set()
        known.close()
    gc.collect()
    assert caplog.text == "", "nobody is told of an answer that nobody waits for any longer"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def sent(receiver: Receiver, resolve: Resolve, owner: str = "one", count: int = 1) -> list[Result]:
    """What comes of attempts by one owner at the receiver's port, all at once."""
    url = f"http://hooks.example.com:{receiver.url.rpartition(':')[2]}/"
    known = Addresses(LOCAL, resolve)

    async def send() -> list[Result]:
        sender = Sender(known)
        return await asyncio.gather(*(sender.send(url, {}, b"{}", owner) for _ in range(count)))

    try:
        return asyncio.run(send())
    finally:
        known.close()


def test_a_host_of_which_some_addresses_say_nothing_is_called_at_the_next(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One refuses, and one drops what comes."""
    monkeypatch.setattr(addresses, "CONNECT_SECONDS", 0.5)
    port = int(receiver.url.rpartition(":")[2])
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.9", port), backlog=0))
        waiting = []
        for _ in range(4):  # more than its queue holds: from then on it drops them
            wire = stack.enter_context(socket.socket())
            wire.setblocking(False)
            waiting.append(wire.connect_ex(("127.0.0.9", port)))
        assert silent.fileno() >= 0 and len(waiting) == 4
        (result,) = sent(receiver, lambda *_: ["127.0.0.8", "127.0.0.9", "127.0.0.1"])
        assert result == Result(Outcome.delivered) and len(receiver.calls) == 1
        (result,) = sent(receiver, lambda *_: ["127.0.0.9"])
        assert result.outcome is Outcome.timed_out
        (result,) = sent(receiver, lambda *_: ["127.0.0.9", "127.0.0.8"])
        assert result.outcome is Outcome.unreachable and "ConnectError: " in result.error
        assert "hooks.example.com" not in result.error, "it says why, and not the host, which everybody knows"
    tried = [f"127.0.0.{number}" for number in range(10, 10 + addresses.ADDRESSES_TRIED)]
    (result,) = sent(receiver, lambda *_: [*tried, "127.0.0.1"])
    assert result.outcome is Outcome.unreachable, "a host with many addresses costs a bounded time"
    (result,) = sent(receiver, lambda *_: [*tried[1:], "127.0.0.1"])
    assert result.outcome is Outcome.delivered


def test_an_attempt_whose_host_cannot_be_looked_up_in_time_says_so(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for a turn counts, too: it is the owner's own name servers that take the others."""
    monkeypatch.setattr(addresses, "RESOLVE_SECONDS", 0.2)
    monkeypatch.setattr(attempt, "TOTAL_SECONDS", 10.0)
    released = threading.Event()

    def resolve(host: str, port: int) -> Sequence[str]:
        released.wait()
        return ["127.0.0.1"]

    try:
        results = sent(receiver, resolve, count=addresses.OWNER_LOOKUPS + 2)
    finally:
        released.set()
    assert {result.outcome for result in results} == {Outcome.unreachable}
    assert receiver.calls == []
