"""TLS to Redis: no client tells its password to a server whose certificate it has not verified."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import trustme
from adaspa_jobs import redis_check
from adaspa_jobs.connections import connections
from adaspa_jobs.queue import make_celery
from adaspa_jobs.settings import Settings
from kombu.exceptions import OperationalError
from redis_pair import running_sentinel
from tls_proxy import TlsProxy, tls_proxy

AUTHORITY, STRANGER = trustme.CA(), trustme.CA()
PASSWORD = "hunter2"


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    """A file with the authority that clients are to trust."""
    path = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(path)
    return path


@contextmanager
def proxied(valkey: redis.Redis, socket: Path, authority: trustme.CA, name: str = "127.0.0.1") -> Iterator[TlsProxy]:
    valkey.execute_command("ACL", "SETUSER", "ada", "on", f">{PASSWORD}", "~*", "+@all")
    with tls_proxy(authority, name, socket) as proxy:
        yield proxy
    valkey.execute_command("ACL", "DELUSER", "ada")


def through(proxy: TlsProxy, *options: str) -> str:
    return f"rediss://ada:{PASSWORD}@127.0.0.1:{proxy.port}/0?{'&'.join(options)}"


def each_client(url: str) -> list[str]:
    """What becomes of each of the three clients: empty, or what is wrong."""

    async def awaited() -> None:
        client = connections(url).async_client(1)
        try:
            await client.ping()
        finally:
            await client.aclose()

    def waiting() -> None:
        with connections(url).client() as client:
            client.ping()

    def celerys() -> None:
        with make_celery(Settings(redis_url=url)) as celery, celery.connection_for_write() as broker:
            broker.ensure_connection(max_retries=1, interval_start=0)
            assert broker.default_channel._size("generate.demo") == 0

    found = []
    for use in (lambda: asyncio.run(awaited()), waiting, celerys):
        try:
            use()
            found.append("")
        except (redis.RedisError, OperationalError) as error:
            found.append(str(error))
    return found


def test_with_its_authority_named_all_that_is_needed_works(
    valkey: redis.Redis, valkey_socket: Path, trusted: Path
) -> None:
    with proxied(valkey, valkey_socket, AUTHORITY) as proxy:
        url = through(proxy, f"ssl_ca_certs={trusted}")
        assert each_client(url) == ["", "", ""]
        assert not any(problem.fatal for problem in redis_check.look(Settings(redis_url=url)).problems)
        assert PASSWORD.encode() in proxy.heard


@pytest.mark.parametrize("options", [[], ["ssl_cert_reqs=required"], ["ssl_cert_reqs=CERT_REQUIRED"], ["trusted"]])
def test_an_impostor_is_told_nothing_by_any_client(
    valkey: redis.Redis, valkey_socket: Path, trusted: Path, options: list[str]
) -> None:
    named = [option.replace("trusted", f"ssl_ca_certs={trusted}") for option in options]
    with proxied(valkey, valkey_socket, STRANGER) as proxy:
        found = each_client(through(proxy, *named))
        assert all("certificate verify failed" in said for said in found), found
        problems = redis_check.look(Settings(redis_url=through(proxy, *named))).problems
        assert [problem.mend for problem in problems] == [
            "add the authority that signed its certificate: ?ssl_ca_certs=FILE"
        ]
        assert proxy.heard == b""


def test_a_certificate_of_another_host_is_refused_unless_that_is_wanted(
    valkey: redis.Redis, valkey_socket: Path, trusted: Path
) -> None:
    with proxied(valkey, valkey_socket, AUTHORITY, "redis.example.com") as proxy:
        found = each_client(through(proxy, f"ssl_ca_certs={trusted}"))
        assert all("IP address mismatch" in said for said in found) and proxy.heard == b"", found
        assert each_client(through(proxy, f"ssl_ca_certs={trusted}", "ssl_check_hostname=false")) == ["", "", ""]


@pytest.mark.parametrize("spelling", ["none", "CERT_NONE"])
def test_verification_is_off_by_name_alone(valkey: redis.Redis, valkey_socket: Path, spelling: str) -> None:
    with proxied(valkey, valkey_socket, STRANGER) as proxy:
        assert each_client(through(proxy, f"ssl_cert_reqs={spelling}")) == ["", "", ""]
        assert proxy.heard.count(PASSWORD.encode()) >= 3, "which is what it means"


@pytest.mark.parametrize("impostor", [False, True], ids=["Sentinel", "impostor"])
def test_a_sentinel_is_verified_as_the_server_is(
    valkey: redis.Redis, valkey_socket: Path, trusted: Path, short_folder: Path, impostor: bool
) -> None:
    with (
        proxied(valkey, valkey_socket, AUTHORITY) as server,
        running_sentinel(short_folder, server.port) as (_, socket),
        tls_proxy(STRANGER if impostor else AUTHORITY, "127.0.0.1", socket) as known,
    ):
        url = f"rediss+sentinel://ada:{PASSWORD}@127.0.0.1:{known.port}/main/0"
        assert all(each_client(url)) and known.heard == server.heard == b"", "whose authority is not named"
        found = each_client(f"{url}?ssl_ca_certs={trusted}")
        assert all(found) if impostor else found == ["", "", ""], found
        assert (b"SENTINEL" in known.heard) is not impostor
        assert (PASSWORD.encode() in server.heard) is not impostor
        assert PASSWORD.encode() not in known.heard, "a Sentinel is not told the server's password"
