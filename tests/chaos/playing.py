"""Plays scenes: those of one job several at a time, then those of the whole service one by one."""

import time
import traceback
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

from chaos.clients import Clients
from chaos.disk_faults import SCENES as OF_DISKS
from chaos.fleet import Fleet
from chaos.group_faults import SCENES as OF_GROUPS
from chaos.load_faults import SCENES as OF_LOAD
from chaos.network_faults import SCENES as OF_THE_NETWORK
from chaos.receiver import Receiver
from chaos.replica_faults import SCENES as OF_REPLICAS
from chaos.scenes import OF_A_JOB, Scene
from chaos.service_scenes import OF_THE_SERVICE
from chaos.stage import Stage
from chaos.version_faults import SCENES as OF_VERSIONS

KINDS: dict[str, list[Scene]] = {
    "job": OF_A_JOB,
    "versions": OF_VERSIONS,  # before clocks are set: an earlier one may refuse ids that are ahead of its clock
    "service": OF_THE_SERVICE,
    "network": OF_THE_NETWORK,
    "disks": OF_DISKS,
    "load": OF_LOAD,
    "groups": OF_GROUPS,
    "replicas": OF_REPLICAS,
}
"""By what they are about. Those of jobs play several at a time, all others one by one."""
ALL = [scene for kind in KINDS.values() for scene in kind]
AT_ONCE = 4
"""Scenes of one job. Workers are fewer, so that some jobs wait."""


@dataclass
class Played:
    """One scene, and what came of it."""

    scene: Scene
    seconds: float
    broken: str
    """What was not as it has to be; empty if nothing was."""


@dataclass
class Play:
    """All scenes of a run."""

    scenes: list[Played]
    measured: dict[str, int]


def play(scenes: Collection[Scene], fleet: Fleet, clients: Clients, receiver: Receiver) -> Play:
    """Play scenes. One that is broken keeps no other from being played."""
    done, measured, numbers = list[Played](), dict[str, int](), count()

    def play_one(scene: Scene) -> None:
        began, broken = time.monotonic(), ""
        try:
            scene.play(Stage(fleet, clients, receiver, f"scene-{next(numbers)}", measured))
        except Exception as error:
            said = str(error) if isinstance(error, AssertionError) else ""
            broken = said or "".join(traceback.format_exception(error)[-2:])
        done.append(Played(scene, time.monotonic() - began, broken))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(play_one, [scene for scene in scenes if scene in OF_A_JOB]))
    for scene in scenes:
        if scene not in OF_A_JOB:
            play_one(scene)
    return Play(done, measured)
