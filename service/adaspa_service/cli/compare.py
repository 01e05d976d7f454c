"""``adaspa compare``: the same prompt and seed with dense attention and with AdaSpa, side by side."""

import json
import secrets
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Unpack, cast

import httpx
import typer
from adaspa_api.fields import VideoCreate, rows
from adaspa_api.words import Quality
from adaspa_client import ApiError, Client, Video, VideoFields

from adaspa_service.cli import params
from adaspa_service.cli.generate import SERVER_ONLY, fetch, submit
from adaspa_service.cli.local import generate_here, need, resolved
from adaspa_service.cli.output import check_output, written_whole
from adaspa_service.cli.server import SERVER, ApiKey, Server, connect
from adaspa_service.cli.terminal import Exit, Json, fail, last_words, print_json, print_table, say

COLUMNS = ("", "DENOISING", "A DENSE STEP", "A SPARSE STEP", "WORK", "DENSITY", "RECALL")
ALIKE = ("fps", *SERVER_ONLY)
"""Options of ``generate`` that have no effect here."""
NEEDED = ("adaspa_worker", "av", "torch", "PIL")


@params.options([name for name in params.OPTIONS if name not in ALIKE])
def compare(
    prompt: params.Prompt,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .mp4 file to write.")] = Path("compare.mp4"),
    *,
    local: Annotated[
        bool, typer.Option("--local", help="Load the model on this machine instead of using a server.")
    ] = False,
    server: Server = SERVER,
    api_key: ApiKey = None,
    as_json: Json = False,
    **asked: Unpack[VideoFields],
) -> None:
    """Compare AdaSpa with dense attention: the same clip twice, side by side, with times, PSNR and SSIM."""
    if output.suffix != ".mp4":
        fail(f"--output: {output} must end in .mp4", Exit.usage)
    check_output(output)
    need(NEEDED, "compare")
    ours = params.given(asked)
    ours["output_format"] = "mp4"
    ours.setdefault("seed", secrets.randbelow(2**32))
    dense = {name: value for name, value in ours.items() if not rows(VideoCreate)[name].by_hand}
    pair = [cast(VideoFields, dense | {"quality": Quality.exact.value}), ours]
    with TemporaryDirectory(prefix="adaspa-compare-") as folder:
        files = [Path(folder) / "dense.mp4", Path(folder) / "adaspa.mp4"]
        if local:
            jobs = [job for fields in pair for job in resolved(prompt, 1, fields, Path(folder))]
            videos, lost = generate_here(jobs, files, Path(folder), quiet=as_json)
        else:
            with connect(server, api_key) as client:
                videos, lost = fetch(client, submit_both(client, prompt, pair), files, quiet=as_json, as_one=True)
        if lost:
            if as_json:
                print_json(described(videos))
            raise lost
        metrics = join(files, output)
    report([video for video in videos if video], metrics, output, as_json=as_json)


def submit_both(client: Client, prompt: str, pair: list[VideoFields]) -> list[Video]:
    """Submit both videos or none: one alone would be made for nobody."""
    dense, ours = pair
    (first,) = submit(client, lambda key: [client.create(prompt, idempotency_key=key, **dense)])
    try:
        rest = submit(client, lambda key: [client.create(prompt, idempotency_key=key, **ours)], [first])
        return [first, *rest]
    except (httpx.TransportError, ApiError):
        with suppress(httpx.TransportError, ApiError):  # the first error is the one to tell
            client.cancel(first.id)
        raise


def join(files: list[Path], output: Path) -> dict[str, float]:
    """Write the two videos side by side and return their PSNR and SSIM."""
    with written_whole(output) as part:
        command = [sys.executable, "-m", "adaspa_worker.side_by_side", *map(str, files), "--output", str(part)]
        ran = subprocess.run([*command, "--labels", "dense", "AdaSpa"], capture_output=True, text=True, check=False)
        if ran.returncode:
            fail(f"the videos cannot be compared: {last_words(ran)}")
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def report(videos: list[Video], metrics: dict[str, float], output: Path, *, as_json: bool) -> None:
    """Print the times of both videos and how close they are."""
    dense, ours = (video.timings["denoising"] for video in videos)
    speedup = round(dense / ours, 3)
    if as_json:
        return print_json({**described(videos), **metrics, "speedup": speedup, "output": str(output)})
    print_table(COLUMNS, [row(name, video) for name, video in zip(("dense", "AdaSpa"), videos, strict=True)])
    say(f"Denoising took {ours:.1f} s with AdaSpa and {dense:.1f} s with dense attention: {speedup:.2f} times as fast.")
    say(f"PSNR {metrics['psnr_db']:.2f} dB, SSIM {metrics['ssim']:.4f}, measured on the compressed files.")
    say(f"Wrote {output} (seed {videos[0].seed})")
    return None


def described(videos: Sequence[Video | None]) -> dict[str, Any]:
    """Format both videos as JSON."""
    return {
        name: None if video is None else video.model_dump(mode="json")
        for name, video in zip(("dense", "adaspa"), videos, strict=True)
    }


def row(name: str, video: Video) -> tuple[str, ...]:
    """Format one of the two videos for the table."""
    found = video.attention
    if found is None:
        return (name, f"{video.timings['denoising']:.1f} s", "", "", "", "", "")
    return (
        name,
        f"{video.timings['denoising']:.1f} s",
        each(found.dense_seconds, found.dense_steps),
        each(found.sparse_seconds, found.sparse_steps),
        "" if found.attention_work is None else f"{found.attention_work:.2f}",
        f"{found.density:.2f}",
        "" if found.recall is None else f"{found.recall:.3f}",
    )


def each(seconds: float, steps: int) -> str:
    """Format the mean time of one step."""
    return f"{seconds / steps:.2f} s" if steps else ""
