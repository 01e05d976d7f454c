"""Every spelling of Redis' address means the same to the store and to Celery, or is refused."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from adaspa_jobs.connections import Connections, connections
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
        *((scheme, "allowed: redis://") for scheme in ("", "redis", "rediss", "unix", "redis+sentinel")),
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


def test_an_option_means_the_same_in_each_spelling(tmp_path: Path) -> None:
    (file := tmp_path / "ca.pem").touch()
    for scheme in ("rediss://h", "rediss+sentinel://h/main"):
        for text, meaning in (
            *(("required", "required"), ("CERT_REQUIRED", "required"), ("none", "none"), ("CERT_NONE", "none")),
            *(("optional", "required"), ("cert_optional", "required")),  # no client asks for less than all of it
        ):
            assert RedisAddress.of(f"{scheme}?ssl_cert_reqs={text}").options["ssl_cert_reqs"] == meaning, text
        for words, wanted in ((("true", "1", "yes", "YES"), True), (("false", "0", "no", "No"), False)):
            for text in words:
                assert RedisAddress.of(f"{scheme}?ssl_check_hostname={text}").options["ssl_check_hostname"] is wanted
        for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
            assert RedisAddress.of(f"{scheme}?{name}={file}").options == {name: str(file)}
            with pytest.raises(ValueError, match=f"{name} cannot be read; allowed: an existing file"):
                RedisAddress.of(f"{scheme}?{name}={tmp_path}")


@pytest.mark.parametrize(
    ("option", "takes", "refuses"),
    [
        ("db", ["0", "999999999"], ["-1", "1000000000", "", "1.0", " 1"]),
        ("protocol", ["2", "3"], ["1", "4"]),
        ("health_check_interval", ["1", "3600"], ["0", "3601", "1.5"]),
        ("socket_timeout", ["2", "3600", "2.5"], ["1.9", "3601", "nan", "inf", "x", ""]),
        ("socket_connect_timeout", ["0.1", "3600"], ["0.09", "3601", "nan", "-1"]),
        ("client_name", ["a"], [""]),
        ("username", ["a"], [""]),
        ("password", ["a"], [""]),
    ],
)
def test_an_option_has_its_bounds(option: str, takes: list[str], refuses: list[str]) -> None:
    for text in takes:
        address = RedisAddress.of(f"redis://h?{option}={text}")
        found = address.db if option == "db" else address.options[option]
        assert found == (float(text) if text[0].isdigit() else text)
    for text in refuses:
        with pytest.raises(ValueError, match=f"its option {option} cannot be read; allowed: "):
            RedisAddress.of(f"redis://h?{option}={text.replace(' ', '%20')}")


@pytest.mark.parametrize(
    ("url", "places", "service", "db", "login"),
    [
        ("redis://", [("localhost", 6379)], "", 0, {}),
        ("redis://h/", [("h", 6379)], "", 0, {}),
        ("redis://:p%40@h:1", [("h", 1)], "", 0, {"password": "p@"}),
        ("redis://:@h", [("h", 6379)], "", 0, {}),
        ("redis://u%3A:p@h/7", [("h", 6379)], "", 7, {"username": "u:", "password": "p"}),
        ("rediss://[::1]:1/0?db=0", [("::1", 1)], "", 0, {}),
        ("unix:///a/b?db=2", [], "", 2, {}),
        ("redis+sentinel://a,b:1,[::1]:2/main", [("a", 26379), ("b", 1), ("::1", 2)], "main", 0, {}),
        ("redis+sentinel://:p@a/my%2Fmain/5", [("a", 26379)], "my/main", 5, {"password": "p"}),
        ("redis+sentinel://a/main?db=5", [("a", 26379)], "main", 5, {}),
    ],
)
def test_an_address_is_read_whole(
    url: str, places: list[tuple[str, int]], service: str, db: int, login: dict[str, str]
) -> None:
    address = RedisAddress.of(url)
    assert (list(address.places), address.service, address.db, address.options) == (places, service, db, login)
    assert address.transport == {"unix": "unix", "rediss": "tls"}.get(url.partition(":")[0], "tcp")
    assert not address.sentinel_login


def test_sentinels_have_a_login_of_their_own() -> None:
    url = "redis+sentinel://u:p@a/main?sentinel_username=s&sentinel_password=q"
    address = RedisAddress.of(url)
    assert address.options == {"username": "u", "password": "p"}
    assert address.sentinel_login == {"username": "s", "password": "q"}
    with pytest.raises(ValueError, match=r"redis:// has no option sentinel_password"):
        RedisAddress.of("redis://a?sentinel_password=q")


@pytest.mark.parametrize(("given", "other"), [("0", "1"), ("1", "0"), ("2", "1")])
def test_two_databases_that_differ_are_refused(given: str, other: str) -> None:
    for url in ("redis://h/{}?db={}", "redis+sentinel://h/main/{}?db={}"):
        with pytest.raises(ValueError, match="two databases are given"):
            RedisAddress.of(url.format(given, other))
        assert RedisAddress.of(url.format(given, given)).db == int(given)


def test_what_a_url_says_of_its_connections_wins_over_what_is_usual() -> None:
    asked = {"socket_timeout": 7.5, "socket_connect_timeout": 1.5, "health_check_interval": 9, "client_name": "me"}
    query = "&".join(f"{name}={value}" for name, value in asked.items())
    for url in (f"redis://h?{query}", f"unix:///run/valkey.sock?{query}", f"redis+sentinel://h/main?{query}"):
        options = Connections(RedisAddress.of(url)).options()
        assert {name: options[name] for name in asked} == asked
        for client in (Connections(RedisAddress.of(url)).client(), Connections(RedisAddress.of(url)).async_client(3)):
            kept = client.connection_pool.connection_kwargs
            assert {name: kept[name] for name in asked} == asked


def test_a_loops_client_opens_no_more_connections_than_it_may(server: Server) -> None:
    async def open_all() -> None:
        client = Connections(RedisAddress.of(f"redis://127.0.0.1:{server.port}")).async_client(2)
        held = [await client.connection_pool.get_connection() for _ in range(2)]
        with pytest.raises(redis.exceptions.MaxConnectionsError):
            await client.connection_pool.get_connection()
        for each in held:
            await each.disconnect()

    asyncio.run(open_all())


def test_a_urls_clients_share_what_they_know_of_its_primary() -> None:
    one, same, other = (connections(f"redis://h/{db}") for db in (0, 0, 1))
    assert one.primary is same.primary and one.primary is not other.primary
