"""The command: ``PYTHONPATH=tests python -m chaos.simulate``: searches for an order in which something breaks."""

import argparse
import logging
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import hypothesis
import redis
from adaspa_jobs.settings import Settings
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from valkey_process import running_valkey

from chaos.simulation import Broken, Rig, simulate

DECISIONS = 200
"""That are drawn; behind them everything goes on in order."""
BATCH = 100


@contextmanager
def own_rig() -> Iterator[Rig]:
    """A rig with a Valkey of its own."""
    with running_valkey() as folder, redis.Redis(unix_socket_path=f"{folder}/valkey.sock") as client:
        yield Rig(client, Settings(storage_url="memory:///", open_access=True))


def search(rig: Rig, seed: int, runs: int, shrink: bool = True) -> tuple[bytes, Broken] | None:
    """Play so many drawn orders; the simplest found in which something breaks, or the first one as it was drawn."""
    failed, phases = None, [Phase.explicit, Phase.generate, *([Phase.shrink] if shrink else [])]

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=runs, phases=phases, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.binary(min_size=DECISIONS, max_size=DECISIONS))
    @hypothesis.example(b"")  # nothing happens
    def play(choices: bytes) -> None:
        nonlocal failed
        try:
            simulate(rig, choices)
        except Broken as broken:
            failed = choices.rstrip(b"\0"), broken
            raise

    try:
        play()
    except Broken:
        return failed
    return None


def main() -> None:
    """Search, or play one order again; status 1 if something breaks."""
    parser = argparse.ArgumentParser(prog="chaos.simulate", description="Jobs under drawn orders of all that happens.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--replay", type=bytes.fromhex, help="the decisions of one run")
    parser.add_argument("--as-drawn", action="store_true", help="take minutes less to say that something breaks")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with own_rig() as rig:
        if asked.replay is not None:
            try:
                simulate(rig, asked.replay)
            finally:
                print("\n".join([*rig.world.acted, *map(str, rig.world.entries)]))
            return
        print(f"seed {asked.seed}", flush=True)
        runs, end = 0, time.monotonic() + 60 * asked.minutes
        while time.monotonic() < end:
            if found := search(rig, asked.seed + runs // BATCH, BATCH, not asked.as_drawn):
                choices, broken = found
                print(f"{broken}\nchaos.simulate --replay {choices.hex()}")
                sys.exit(1)
            runs += BATCH
        print(f"{runs} runs, nothing broke")


if __name__ == "__main__":
    main()
