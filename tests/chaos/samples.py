"""What there is of everything at one time."""

import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.service import Part, Service

JOB = re.compile(rb"video_[0-9a-f]{32}")
LATEST = re.compile(rb"adaspa:(paces|times):")
"""Lists of the latest fifty: they fill up."""
PAGE = os.sysconf("SC_PAGE_SIZE")
SIZES = {
    b"string": "strlen",
    b"hash": "hlen",
    b"set": "scard",
    b"zset": "zcard",
    b"list": "llen",
    b"stream": "xlen",
}
"""How the number of a key's members is asked for."""


@dataclass(frozen=True)
class Sample:
    """One moment.

    Args:
        at: seconds since the beginning.
        parts: by name, how often it was started, for how many seconds it has run, its resident bytes, its open files.
        stored: jobs that are kept.
        ended: jobs that have ended since the beginning.
        keys: Redis' keys.
        members: of keys that are no job's own.
        redis_bytes: Redis' memory.
        objects: files in storage.
        object_bytes: theirs.
        log_bytes: of all logs.
    """

    at: float
    parts: dict[str, tuple[int, float, int, int]]
    stored: int
    ended: int
    keys: int
    members: int
    redis_bytes: int
    objects: int
    object_bytes: int
    log_bytes: int

    def row(self) -> dict[str, Any]:
        """As the report has it."""
        own = {name: value for name, value in vars(self).items() if name != "parts"}
        parts = {
            name: {"start": part[0], "mb": round(part[2] / 1e6, 1), "files": part[3]}
            for name, part in self.parts.items()
        }
        return own | {"at": round(self.at, 1), "parts": parts}


def sample(service: Service, at: float) -> Sample:
    """Look at everything."""
    client = service.store.client
    keys = list(client.scan_iter(count=1000))
    files = _objects(service.objects)
    return Sample(
        at,
        {part.name: (part.starts, *usage(part)) for part in service.parts},
        sum(key.startswith(b"adaspa:job:") for key in keys),
        sum(service.store.totals().ended.values()),
        len(keys),
        sum(_members(service, [key for key in keys if not (JOB.search(key) or LATEST.match(key))]).values()),
        int(client.info("memory")["used_memory"]),
        len(files),
        sum(_size(path) for path in files),
        sum(part.log.stat().st_size for part in service.parts),
    )


def left(service: Service) -> dict[str, int]:
    """What still names a job once none is left: keys and members of keys, by the kind of key, and objects."""
    client, found = service.store.client, Counter[str]()
    for key in client.scan_iter(count=1000):
        kind = JOB.sub(b"*", key).decode()
        if JOB.search(client.dump(key) or b"") or JOB.search(key):
            found[kind] += 1
    found["objects"] += len(_objects(service.objects))
    return dict(+found)


def _members(service: Service, keys: list[bytes]) -> dict[bytes, int]:
    client = service.store.client
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.type(key)
        kinds = pipe.execute()
    with client.pipeline(transaction=False) as pipe:
        for key, kind in zip(keys, kinds, strict=True):
            getattr(pipe, SIZES.get(kind, "exists"))(key)
        counts = pipe.execute()
    return {key: 1 if kind == b"string" else count for key, kind, count in zip(keys, kinds, counts, strict=True)}


def usage(part: Part) -> tuple[float, int, int]:
    """Seconds since its start, resident bytes and open files of a part."""
    resident = files = 0
    for process in part.processes():
        try:
            resident += int((process / "statm").read_text().split()[1]) * PAGE
            files += sum(1 for _ in (process / "fd").iterdir())
        except OSError:  # it has just ended
            pass
    return time.monotonic() - part.started_at, resident, files


def _objects(folder: Path) -> list[Path]:
    """The files of a folder from which others remove some at this time."""
    return [Path(place) / name for place, _, names in os.walk(folder) for name in names]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # it has just been removed
        return 0
