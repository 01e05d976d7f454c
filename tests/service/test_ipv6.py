"""Gateways on machines and in clusters that have IPv6, beside IPv4 or alone."""

import socket
from pathlib import Path

import httpx
import pytest
from adaspa_client import Client
from adaspa_command import adaspa
from adaspa_jobs.listening import listener
from adaspa_service.cli.doctor import listening
from adaspa_service.local.supervisor import free_port
from gateway_process import running

KEY = "k" * 40


def test_every_address_is_that_of_both_kinds(tmp_path: Path, redis_url: str) -> None:
    metrics_port = free_port("127.0.0.1")
    settings = {"host": "::", "open_access": "true", "metrics_port": str(metrics_port), "log_level": "debug"}
    with running(tmp_path, redis_url, **settings) as (_, url):
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{httpx.URL(url).port}/readyz").is_success
            assert "adaspa_jobs_waiting" in httpx.get(f"http://{host}:{metrics_port}/metrics").text
        log = (tmp_path / "gateway.log").read_text()
    assert "127.0.0.1:" in log and "::ffff:" not in log, "clients of IPv4 are known by their own address"


def test_one_address_of_ipv6_serves_clients_and_the_command_line(tmp_path: Path, redis_url: str) -> None:
    with running(tmp_path, redis_url, host="::1", bootstrap_key=KEY) as (_, url):
        assert url.startswith("http://[::1]:")
        with Client(url, api_key=KEY) as client:
            video = client.create("a red circle")
        done = adaspa("jobs", "--json", server=url, ADASPA_API_KEY=KEY)
        assert done.returncode == 0, done.stderr
        assert video.id in done.stdout
        assert listening("::1", httpx.URL(url).port or 0).found == "a gateway answers and is ready", "says the doctor"


def test_a_machine_without_ipv6_has_its_own_addresses_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listener("::", 0) as bound:
        assert bound.family == socket.AF_INET and bound.getsockname()[0] == "0.0.0.0"
