"""Jobs under drawn orders of calls, faults and clocks, in simulated time: see ``tests/chaos/simulation.py``."""

import logging
from pathlib import Path

import pytest
import redis
from adaspa_jobs import scripts
from adaspa_jobs.settings import Settings
from chaos.simulate import search
from chaos.simulation import TIME, TIME_KEY, Rig, simulate


@pytest.fixture(scope="module")
def rig(valkey_socket: Path) -> Rig:
    logging.disable(logging.CRITICAL)  # what janitors tell of some thousand outages
    try:
        yield Rig(
            redis.Redis(unix_socket_path=str(valkey_socket)), Settings(storage_url="memory:///", open_access=True)
        )
    finally:
        logging.disable(logging.NOTSET)


def test_whatever_the_order_clients_see_what_they_were_promised(rig: Rig) -> None:
    found = search(rig, seed=0, runs=40)
    assert found is None, f"{found[1]}\nPYTHONPATH=tests python -m chaos.simulate --replay {found[0].hex()}"


def test_the_same_decisions_are_the_same_history(rig: Rig) -> None:
    choices = bytes(reversed(range(256)))
    first, second = (simulate(rig, choices) for _ in range(2))
    assert first.acted and first.acted == second.acted
    assert [(e.act, e.began, e.outcome) for e in first.entries] == [(e.act, e.began, e.outcome) for e in second.entries]


def test_only_a_simulation_tells_scripts_the_time() -> None:
    folder = Path(scripts.__file__).parent
    sources = [path.read_text() for path in folder.parent.glob("*/**/*.lua")]
    assert sum(source.count(TIME) for source in sources) == 1, "the clock is read in one place"
    assert not any(TIME_KEY.removeprefix(scripts.PREFIX) in source for source in sources)
