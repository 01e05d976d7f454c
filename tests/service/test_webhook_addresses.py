"""Where an event goes: addresses that may be called, names that change their answer, TLS to the judged address."""

import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from adaspa_jobs.job import JobParams
from adaspa_jobs.settings import Settings
from adaspa_service.webhooks.addresses import RESOLVERS, permitted
from admitting import admit
from claiming import claimed
from names import Names
from receiver import receiving
from running_gateway import Service, serving
from waiting import until

REFUSED = {
    "loopback": "127.0.0.1",
    "all of it": "127.255.255.254",
    "this host": "0.0.0.0",
    "this network": "0.1.2.3",
    "private 10": "10.0.0.1",
    "private 172": "172.31.255.255",
    "private 192": "192.168.0.1",
    "shared by a carrier": "100.64.0.1",
    "link-local": "169.254.1.1",
    "metadata": "169.254.169.254",
    "Alibaba's metadata": "100.100.100.200",
    "Azure's platform": "168.63.129.16",
    "protocol assignments": "192.0.0.192",
    "documentation": "192.0.2.1",
    "benchmarks": "198.18.0.1",
    "multicast": "224.0.0.1",
    "global multicast": "233.252.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "v6 loopback": "::1",
    "v6 unspecified": "::",
    "v6 link-local": "fe80::1",
    "v6 link-local with a zone": "fe80::1%lo",
    "v6 site-local": "fec0::1",
    "v6 unique local": "fd00::1",
    "EC2's v6 metadata": "fd00:ec2::254",
    "v6 reserved": "4000::1",
    "v6 multicast": "ff02::1",
    "v6 global multicast": "ff0e::1",
    "v6 documentation": "2001:db8::1",
    "v6 discard": "100::1",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped private": "::ffff:10.0.0.1",
    "mapped metadata": "::ffff:169.254.169.254",
    "compatible loopback": "::127.0.0.1",
    "6to4 of a private one": "2002:a00:1::",
    "Teredo of a private one": "2001:0:808:808::f5ff:fffe",
    "NAT64 of a private one": "64:ff9b::10.0.0.1",
    "NAT64 of the metadata": "64:ff9b::169.254.169.254",
    "local NAT64": "64:ff9b:1::127.0.0.1",
    "local NAT64 of a public one": "64:ff9b:1::8.8.8.8",
    "local NAT64 with a private one in the middle": "64:ff9b:1:a00:0:100::",
}
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::"]


@pytest.mark.parametrize("address", REFUSED.values(), ids=REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not permitted(address, ())


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_permitted(address: str) -> None:
    assert permitted(address, ())


def test_networks_that_the_operator_allows_are_permitted_without_their_metadata() -> None:
    networks = Settings(webhook_networks="10.0.0.0/8, 169.254.0.0/16, fd00::/8").webhook_networks
    assert permitted("10.1.2.3", networks) and permitted("::ffff:10.1.2.3", networks) and permitted("fd00::1", networks)
    assert not permitted("192.168.0.1", networks) and not permitted("::1", networks)
    assert not permitted("169.254.169.254", networks) and not permitted("fd00:ec2::254", networks)


@pytest.fixture
def quick(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with attempts that follow each other at once, for receivers on this machine."""
    monkeypatch.setattr("adaspa_service.webhooks.deliverer.EVERY_SECONDS", 0.05)
    changes = {"webhook_networks": "127.0.0.0/8", "webhook_retry_seconds": (0.05, 0.05)}
    return Settings.model_validate(settings.model_dump() | changes)


def test_a_name_that_is_bound_to_a_private_address_later_leads_nowhere(quick: Settings, tmp_path: Path) -> None:
    """DNS rebinding: the answer at admission is public, the one at the delivery is not."""
    public_only = Settings.model_validate(quick.model_dump() | {"webhook_http": True, "webhook_networks": ""})
    names = Names()
    names.answers = {"hooks.example.com": ["8.8.8.8"]}
    with receiving() as receiver, serving(public_only, tmp_path, names) as service:
        port = receiver.url.rpartition(":")[2]
        lease = service.claim(service.create(webhook_url=f"http://hooks.example.com:{port}/")["id"])
        names.answers = {"hooks.example.com": ["127.0.0.1"]}
        video_id = service.complete(lease).id
        until(lambda: service.parts.deliveries.counts().dead == 1, "it is given up")
        assert service.parts.deliveries.counts().attempts == {"forbidden": 3}
        given_up = service.parts.deliveries.get(video_id)
        assert given_up is not None and "127.0.0.1, which may not be called" in given_up.error
        assert receiver.calls == []


def test_a_name_is_looked_up_once_for_each_attempt_and_the_connection_goes_to_that_answer(
    quick: Settings, tmp_path: Path
) -> None:
    """A second lookup between check and connection would get another address: nothing listens there."""
    asked: list[str] = []

    def alternating(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) <= 2 else ["127.0.0.2"]

    http = Settings.model_validate(quick.model_dump() | {"webhook_http": True})
    with receiving() as receiver, serving(http, tmp_path, alternating) as service:
        port = receiver.url.rpartition(":")[2]
        service.completed(webhook_url=f"http://hooks.example.com:{port}/")
        until(lambda: receiver.calls, "the event comes")
        assert receiver.calls[0].headers["host"] == f"hooks.example.com:{port}"
        assert asked == ["hooks.example.com"] * 2, "once at admission, once at delivery"


def test_slow_name_servers_of_one_owner_hold_up_no_others_events(
    quick: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: Callable[..., JobParams]
) -> None:
    monkeypatch.setattr("adaspa_service.webhooks.addresses.RESOLVE_SECONDS", 0.5)
    for_ever = {"webhook_http": True, "webhook_retry_seconds": (0.05,) * 1000}
    http = Settings.model_validate(quick.model_dump() | for_ever)
    released = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        if host.startswith("slow"):
            released.wait()
            raise OSError("Name or service not known")
        return ["127.0.0.1"]

    def end(service: Service, owner: str, url: str) -> None:
        service.complete(claimed(service.store, admit(service.store, params(), None, owner, webhook_url=url)[0]))

    with receiving() as receiver, serving(http, tmp_path, resolve) as service:
        try:
            for number in range(RESOLVERS + 8):
                end(service, "slow", f"http://slow{number}.example.com/")
            until(lambda: service.parts.deliveries.counts().attempts, "the first of them had no answer")
            for _ in range(8):
                end(service, "good", f"http://hooks.example.com:{receiver.url.rpartition(':')[2]}/")
            until(lambda: len(receiver.calls) == 8, "the other owner's events come")
            assert set(service.parts.deliveries.counts().attempts) <= {"unreachable", "delivered"}
        finally:
            released.set()


def test_the_next_address_is_tried_where_one_does_not_answer(quick: Settings, tmp_path: Path) -> None:
    http = Settings.model_validate(quick.model_dump() | {"webhook_http": True})
    with receiving() as receiver, serving(http, tmp_path, lambda *_: ["127.0.0.9", "127.0.0.1"]) as service:
        service.completed(webhook_url=f"http://hooks.example.com:{receiver.url.rpartition(':')[2]}/")
        until(lambda: receiver.calls, "the event comes")


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """A certificate authority that the gateway trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


def secured(authority: trustme.CA, host: str) -> tuple[ssl.SSLContext, list[str | None]]:
    """TLS for a receiver of that name, and the names that clients ask for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    seen: list[str | None] = []
    context.sni_callback = lambda _, name, __: seen.append(name)  # type: ignore[assignment]
    return context, seen


def test_tls_goes_by_the_name_and_the_connection_to_the_address(
    quick: Settings, tmp_path: Path, authority: trustme.CA
) -> None:
    context, seen = secured(authority, "hooks.example.com")
    with receiving(tls=context) as receiver, serving(quick, tmp_path, lambda *_: ["127.0.0.1"]) as service:
        service.completed(webhook_url=f"https://hooks.example.com:{receiver.url.rpartition(':')[2]}/")
        until(lambda: receiver.calls, "the event comes")
        receiver.calls[0].verify(service.parts.deliveries.secrets()[0])
    assert seen == ["hooks.example.com"]


def test_a_certificate_of_another_name_is_not_taken(quick: Settings, tmp_path: Path, authority: trustme.CA) -> None:
    context, _ = secured(authority, "other.example.com")
    with receiving(tls=context) as receiver, serving(quick, tmp_path, lambda *_: ["127.0.0.1"]) as service:
        video_id = service.completed(webhook_url=f"https://hooks.example.com:{receiver.url.rpartition(':')[2]}/")
        until(lambda: service.parts.deliveries.counts().dead == 1, "it is given up")
        given_up = service.parts.deliveries.get(video_id)
        assert given_up is not None and "certificate" in given_up.error.lower()
        assert receiver.calls == []


def test_tls_that_breaks_once_it_stands_is_a_failed_attempt(
    quick: Settings, tmp_path: Path, authority: trustme.CA
) -> None:
    context, _ = secured(authority, "hooks.example.com")
    with receiving(tls=context) as receiver, serving(quick, tmp_path, lambda *_: ["127.0.0.1"]) as service:
        receiver.answers = [lambda connection: os.write(connection.fileno(), b"no TLS record" * 10) and None]
        service.completed(webhook_url=f"https://hooks.example.com:{receiver.url.rpartition(':')[2]}/")
        until(lambda: len(receiver.calls) == 2, "it is tried again")
        until(
            lambda: service.parts.deliveries.counts().attempts == {"unreachable": 1, "delivered": 1}, "both are noted"
        )


def test_a_proxy_of_the_environment_is_not_used(
    quick: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    http = Settings.model_validate(quick.model_dump() | {"webhook_http": True})
    with receiving() as proxy, receiving() as receiver:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # the test itself speaks to the gateway
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        with serving(http, tmp_path, lambda *_: ["127.0.0.1"]) as service:
            service.completed(webhook_url=f"http://hooks.example.com:{receiver.url.rpartition(':')[2]}/")
            until(lambda: receiver.calls, "the event comes")
        assert proxy.calls == []
