"""Every spelling of Redis' address means the same to the store and to Celery, or is refused."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from adaspa_jobs.job import JobParams
from adaspa_jobs.queue import ring
from adaspa_jobs.redis_url import RedisAddress
from adaspa_jobs.settings import Settings
from adaspa_service.gateway.events import Stream
from adaspa_service.gateway.state import AppState
from adaspa_service.local.folder import valkey_url
from adaspa_service.local.supervisor import free_port
from adaspa_service.local.valkey import socket_path
from admitting import create
from valkey_process import start_valkey

SECRET = "hunter2/?#@:%"
QUOTED = "hunter2%2F%3F%23%40%3A%25"


@dataclass
class Server:
    """One with a user that needs a password, on a socket and a port."""

    socket: Path
    port: int
    client: redis.Redis


@pytest.fixture(scope="module")
def server(valkey_socket: Path) -> Iterator[Server]:
    folder = valkey_socket.parent / "urls"
    folder.mkdir()
    port = free_port("127.0.0.1")
    process = start_valkey(folder, "--port", str(port))
    with redis.Redis(unix_socket_path=str(folder / "valkey.sock")) as client:
        client.execute_command("ACL", "SETUSER", "ada", "on", f">{SECRET}", "~*", "&*", "+@all")
        yield Server(folder / "valkey.sock", port, client)
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("url", "db"),
    [
        ("redis://127.0.0.1:{port}", 0),
        ("redis://127.0.0.1:{port}/3", 3),
        ("redis://127.0.0.1:{port}?db=3", 3),
        ("redis://127.0.0.1:{port}/3?db=3&client_name=gateway", 3),
        ("redis://127.0.0.1:{port}/0?health_check_interval=30&socket_timeout=5.5&socket_connect_timeout=1", 0),
        ("redis://127.0.0.1:{port}/1?protocol=2", 1),
        ("redis://127.0.0.1:{port}/1?protocol=3", 1),
        (f"redis://ada:{QUOTED}@127.0.0.1:{{port}}/2", 2),
        (f"redis://127.0.0.1:{{port}}/2?username=ada&password={QUOTED}", 2),
        ("unix://{socket}", 0),
        ("unix://{socket}?db=3&protocol=2", 3),
        (f"unix://ada:{QUOTED}@{{socket}}?db=4", 4),
        (f"unix://{{socket}}?db=4&username=ada&password={QUOTED}", 4),
    ],
)
def test_a_job_its_message_and_its_events_are_where_the_address_says(
    server: Server, settings: Settings, params: Callable[..., JobParams], url: str, db: int
) -> None:
    server.client.flushall()
    address = url.format(port=server.port, socket=server.socket)
    parts = AppState.of(settings.model_copy(update={"redis_url": address}))
    job = create(parts.store, params())
    ring(parts.celery, job.params.model, job.priority)

    async def follow() -> list[str]:
        events = await Stream(parts, job, "0-0").read()
        await parts.close()
        return [fields["type"] for _, fields in events]

    assert asyncio.run(follow()) == ["queued"]
    with redis.Redis(unix_socket_path=str(server.socket), db=db) as there:
        assert there.exists(f"adaspa:job:{job.id}") and there.llen("generate.demo") == 1
    assert set(server.client.info("keyspace")) == {f"db{db}"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("valkey://h/0", "allowed: redis://"),
        ("redis:h", "allowed: redis://"),
        ("sentinel://h:26379", "redis+sentinel://HOST:PORT,HOST:PORT/NAME/DB"),
        ("redis://h:port/0", "the port is not a number"),
        (f"redis://:{SECRET}@h/0", "the port is not a number"),
        ("redis://:12/hunter2@h/0", "as %2F"),
        ("redis://:12#hunter2@h/0", "as %2F"),
        ("redis://hunter2@h/0", "write a password alone as :PASSWORD@"),
        ("redis://u:hunter2@h?password=hunter2", "password is given twice"),
        ("redis://h/zero", "a number, such as /0"),
        ("redis://h/1?db=2", "two databases are given"),
        ("redis://h?db=1&db=1", "given twice"),
        ("redis://h?db=-1", "db cannot be read; allowed: a whole number from 0"),
        ("redis://h?protocol=4", "protocol cannot be read; allowed: a whole number from 2 to 3"),
        ("redis://h?socket_timeout=0.5", "socket_timeout cannot be read; allowed: seconds from 2.0"),
        ("redis://h?health_check_interval=0", "health_check_interval cannot be read; allowed: a whole number from 1"),
        (
            "redis://h?retry_on_timeout=true",
            "no option retry_on_timeout; allowed: client_name, db, health",
        ),
        ("redis://h?hunter2@x=1", "no option one; allowed"),
        ("redis://h?ssl_cert_reqs=none", "redis:// has no option ssl_cert_reqs"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs cannot be read; allowed: one of required, none"),
        ("rediss://h?ssl_ca_certs=/nowhere/ca.pem", "ssl_ca_certs cannot be read; allowed: an existing file"),
        ("unix://run/valkey.sock", "a unix socket's path must begin with /"),
        ("redis+sentinel://h:26379", "the primary's name is missing"),
        ("redis+sentinel://h:1,:2/main", "write them as HOST:PORT,HOST:PORT"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_is_allowed(url: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        RedisAddress.of(url)
    assert said in str(caught.value), caught.value
    assert "hunter2" not in str(caught.value)


def test_the_server_of_a_data_folder_has_an_address_whatever_the_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "a #b?c%20d@e"
    assert RedisAddress.of(valkey_url(folder)).path == str(socket_path(folder))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://ada:hunter2@h", "redis://h:6379/0"),
        ("redis://:hunter2@[::1]:7000/2", "redis://[::1]:7000/2"),
        ("rediss://h?ssl_cert_reqs=CERT_NONE&password=hunter2", "rediss://h:6379/0"),
        ("unix://:hunter2@/run/my%20own.sock", "unix:///run/my own.sock?db=0"),
        ("redis+sentinel://:hunter2@a,b:1/main/3?sentinel_password=hunter2", "redis+sentinel://a:26379,b:1/main/3"),
    ],
)
def test_what_is_shown_of_an_address_has_no_password(url: str, shown: str) -> None:
    address = RedisAddress.of(url)
    assert str(address) == shown and "hunter2" not in repr(address)
