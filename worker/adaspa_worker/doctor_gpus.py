"""Links between the GPUs of this machine: of which kind they are, and how fast one hears from another."""

import subprocess
import time
from itertools import combinations

SLOW = 50.0
"""GB/s below which the exchange takes a good part of a sparse layer: what PCIe gives, and no NVLink."""
MEGABYTES = 256
COPIES = 10


def found() -> tuple[str, str, str]:
    """State, what was found and how to mend it, of GPUs that would make a video together."""
    import torch  # noqa: PLC0415  slow, and perhaps broken: that is a finding too

    count = torch.cuda.device_count()
    if count < 2:
        seen = "one GPU here", "a catalog's gpus must be 1"
        here, allowed = seen if count else ("no GPU here", "the processes of several gpus share the CPU")
        return "ok", f"{here}: no exchange to measure; {allowed}", ""
    names = [torch.cuda.get_device_name(number) for number in range(count)]
    if len(kinds := sorted(set(names))) > 1:
        each = ", ".join(f"{number}: {name}" for number, name in enumerate(names))
        mend = f"gpus only among alike ones: CUDA_VISIBLE_DEVICES with those of {' or '.join(kinds)}"
        return "warning", f"{count} GPUs that are not alike ({each})", mend
    links = linked(topology(), count)
    rate = min(gigabytes_a_second(*pair) for pair in combinations(range(count), 2))
    told = f"{count} times {names[0]}, {links}, {rate:.0f} GB/s from one to another, the slowest pair"
    if rate < SLOW:
        return "warning", told, "gpus above 1 wants NVLink: a worker for each GPU makes more of these"
    return "ok", told, ""


def topology() -> str:
    """Return the output of ``nvidia-smi topo -m``; empty if it does not run."""
    try:
        return subprocess.run(
            ["nvidia-smi", "topo", "-m"], capture_output=True, text=True, timeout=60, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def linked(matrix: str, count: int) -> str:
    """Say how the GPUs of such a matrix are linked, in a word or two.

    It counts NVLinks (``NV18``); other words are ways over PCIe and the processors (``PIX``, ``NODE``, ``SYS``).
    """
    rows = [line.split() for line in matrix.splitlines()]
    ways = {row[0]: row[1 : count + 1] for row in rows if row and row[0].startswith("GPU") and len(row) > count}
    if any(f"GPU{number}" not in ways for number in range(count)):
        return "linked in a way that nvidia-smi does not tell"
    found = sorted({ways[f"GPU{one}"][other] for one, other in combinations(range(count), 2)})
    numbers = sorted(int(way[2:]) for way in found if way.startswith("NV"))
    if len(numbers) < len(found):
        return f"not all by NVLink ({', '.join(found)})"
    return f"NVLink, {' or '.join(map(str, numbers))} links a pair"


def gigabytes_a_second(one: int, other: int) -> float:
    """Measure how fast a copy of 256 MiB goes from one GPU to another, without the first copy."""
    import torch  # noqa: PLC0415

    source = torch.empty(MEGABYTES * 2**20, dtype=torch.uint8, device=f"cuda:{one}")
    target = torch.empty_like(source, device=f"cuda:{other}")
    for copies in (1, COPIES):
        start = time.perf_counter()
        for _ in range(copies):
            target.copy_(source, non_blocking=True)
        torch.cuda.synchronize(one)
        torch.cuda.synchronize(other)
    return COPIES * source.numel() / (time.perf_counter() - start) / 1e9
