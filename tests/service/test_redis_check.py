"""What of a Redis nothing can run with is found at the start, each in one line, and what all runs with is not."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from adaspa_jobs import redis_check
from adaspa_jobs.scripts import StoreUnavailable
from adaspa_jobs.settings import Settings
from adaspa_jobs.store import JobStore
from adaspa_service.cli.doctor import State, set_redis
from adaspa_service.gateway.__main__ import check_redis
from redis_pair import RIGHTS
from valkey_process import start_valkey
from waiting import until

ROOT = Path(__file__).parents[2]
CELERY = {"BRPOP", "WATCH", "MULTI", "EVALSHA", "ZREM", "HDEL", "LPUSH", "RPOP"}


@pytest.fixture(scope="module")
def server(valkey_socket: Path) -> Iterator[redis.Redis]:
    folder = valkey_socket.parent / "check"
    folder.mkdir()
    process = start_valkey(folder, "--appendonly", "yes")
    with redis.Redis(unix_socket_path=str(folder / "valkey.sock")) as client:
        yield client
    process.kill()
    process.wait()


def settings(client: redis.Redis, login: str = "", query: str = "") -> Settings:
    path = client.connection_pool.connection_kwargs["path"]
    return Settings(redis_url=f"unix://{login}{path}{query}")


def user(client: redis.Redis, *rules: str) -> Settings:
    """The address with a user that has these rights."""
    client.execute_command("ACL", "SETUSER", "adaspa", "reset", "on", ">x", *rules)
    return settings(client, "adaspa:x@")


def fatal(settings: Settings) -> list[str]:
    found = redis_check.look(settings).problems
    assert all("\n" not in str(problem) and problem.mend for problem in found)
    return [problem.found for problem in found if problem.fatal]


def test_with_all_that_it_needs_nothing_is_found_and_nothing_is_left(server: redis.Redis) -> None:
    for query in ("", "?db=3", "?protocol=2"):
        assert redis_check.look(settings(server, query=query)).problems == []
    assert server.info("keyspace") == {}


def test_the_documented_rights_are_enough_and_each_one_that_lacks_is_named(server: redis.Redis) -> None:
    assert redis_check.look(user(server, *RIGHTS)).problems == []
    for key in [rule[1:] for rule in RIGHTS if rule.startswith("~")]:
        found = fatal(user(server, *(rule for rule in RIGHTS if rule != f"~{key}")))
        assert found and "its user lacks rights" in found[0] and key.rstrip("*") in found[0]
    for command in needed():
        found = fatal(user(server, *RIGHTS, f"-{command}"))
        assert found and "its user lacks rights" in found[0], command
        assert command in found[0].upper(), found


def test_counters_that_may_not_be_read_are_not_taken_for_damaged_ones(server: redis.Redis) -> None:
    with (
        redis.Redis.from_url(user(server, *RIGHTS, "-hgetall").redis_url) as client,
        pytest.raises(StoreUnavailable, match="hgetall"),
    ):
        JobStore(client).totals()


def needed() -> set[str]:
    """The commands of the scripts and of the store's methods, as they stand in the code, and some of Celery's."""
    rooms = [ROOT / "service/adaspa_jobs", ROOT / "service/adaspa_service"]
    scripts, code = (
        "".join(path.read_text() for room in rooms for path in room.rglob(f"*.{kind}")) for kind in ("lua", "py")
    )
    called = re.findall(r"redis\.p?call\('([A-Z]+)'", scripts)
    methods = re.findall(r"\b(?:self\._?client|pipe)\.([a-z]+)\(", code)
    others = {"execute", "pipeline", "close", "aclose", "info", "register_script"}
    renamed = {"delete": "DEL"}
    assert len(called) > 100 and len(methods) > 20
    return (
        set(called) | {renamed.get(name, name.upper()) for name in methods if name not in others} | CELERY | {"EVALSHA"}
    )


@pytest.mark.parametrize(
    ("about", "shown", "problems"),
    [
        ({"redis_version": "6.2.14", "aof_enabled": 1}, "redis 6.2.14", ["redis 6.2.14 is too old"]),
        ({"redis_version": "7.0.0", "aof_enabled": 1}, "redis 7.0.0", []),
        ({"redis_version": "10.1.0", "aof_enabled": 1}, "redis 10.1.0", []),
        (
            {"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "8.1.0", "aof_enabled": 1},
            "valkey 8.1.0",
            [],
        ),
        ({"redis_version": "7.2.0"}, "redis 7.2.0", ["it loses jobs when it restarts"]),
        ({"aof_enabled": 1}, "redis 7", []),  # as of a server that tells little
        (
            {"redis_version": "7.2.0", "aof_enabled": 1, "cluster_enabled": 1},
            "redis 7.2.0",
            ["the server is in cluster mode"],
        ),
    ],
)
def test_a_server_is_judged_by_what_it_tells_of_itself(
    server: redis.Redis, monkeypatch: pytest.MonkeyPatch, about: dict[str, Any], shown: str, problems: list[str]
) -> None:
    monkeypatch.setattr(redis.Redis, "info", lambda _: about)
    found = redis_check.look(settings(server))
    assert (found.server, [problem.found for problem in found.problems]) == (shown, problems)


def test_a_user_that_may_not_ask_for_information_can_work(server: redis.Redis) -> None:
    found = redis_check.look(user(server, *RIGHTS, "-info")).problems
    assert [problem.fatal for problem in found] == [False] and "+info" in found[0].mend


def test_cluster_mode_is_found_whether_it_is_told_or_not(short_folder: Path) -> None:
    process = start_valkey(short_folder, "--cluster-enabled", "yes")
    try:
        with redis.Redis(unix_socket_path=str(short_folder / "valkey.sock")) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            until(lambda: client.execute_command("CLUSTER", "INFO").find(b"cluster_state:ok") >= 0, "the cluster is up")
            assert fatal(settings(client)) == ["the server is in cluster mode"]
            assert set(fatal(user(client, *RIGHTS, "-info"))) == {"the server is in cluster mode"}
    finally:
        process.kill()
        process.wait()


def test_a_server_that_drops_jobs_or_takes_none_is_found(server: redis.Redis) -> None:
    usual = {"maxmemory": "0", "maxmemory-policy": "noeviction", "appendonly": "yes"}
    try:
        server.config_set("maxmemory-policy", "allkeys-lru")
        assert fatal(settings(server)) == [], "without a limit it drops nothing"
        server.config_set("maxmemory", "1gb")
        assert fatal(settings(server)) == ["its eviction policy allkeys-lru drops jobs when memory is full"]
        server.config_set("appendonly", "no")
        found = redis_check.look(settings(server)).problems
        assert [problem.fatal for problem in found] == [True, False], "the worst comes first"
        server.config_set("appendonly", "yes")
        server.config_set("maxmemory-policy", "noeviction")
        server.config_set("maxmemory", "1mb")
        full = redis_check.look(settings(server)).problems
        assert [(problem.found, problem.fatal) for problem in full] == [("it is full", False)]
        server.config_set("maxmemory", "0")
        server.config_set("appendonly", "no")
        assert [item.state for item in set_redis(settings(server))] == [State.warning]
        server.replicaof("127.0.0.1", "1")
        assert "leads to a read-only replica" in fatal(settings(server))[0]
        assert State.broken in [item.state for item in set_redis(settings(server))]
    finally:
        server.replicaof("NO", "ONE")
        for name, value in usual.items():
            server.config_set(name, value)


@pytest.mark.parametrize(
    ("url", "found"),
    [("redis://127.0.0.1:1/0", "Connection refused"), ("unix:///nowhere/valkey.sock", "/nowhere/valkey.sock")],
)
def test_nobody_there_is_one_line(url: str, found: str) -> None:
    problems = fatal(Settings(redis_url=url))
    assert len(problems) == 1 and found in problems[0]


def test_a_wrong_password_is_said(server: redis.Redis) -> None:
    user(server, *RIGHTS)
    found = redis_check.look(settings(server, "adaspa:hunter2@")).problems
    assert [problem.mend for problem in found] == ["correct user and password"]
    assert "hunter2" not in str(found)


def test_a_gateway_tells_all_that_keeps_it_from_starting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, warning, second = (redis_check.Problem(name, "mend it", name != "b") for name in "abc")
    found = [first, warning, second]
    monkeypatch.setattr(redis_check, "look", lambda _: SimpleNamespace(problems=found))
    with pytest.raises(SystemExit) as ended:
        check_redis(Settings())
    told = capsys.readouterr().err.splitlines()
    assert (ended.value.code, told) == (1, [f"adaspa gateway: {each}" for each in (first, second)])
    found = [warning]
    assert check_redis(Settings()) == [warning] and capsys.readouterr().err == ""
