"""A job's progress, as a bar in a terminal or plain lines in a pipe, and a summary of its result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from adaspa_api.report import AttentionReport, KindReport
from adaspa_api.words import JobStatus
from adaspa_client import Client, NotFound, Video
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from adaspa_service.cli.terminal import console


class NotCompleted(Exception):
    """Failure or cancel of the job.

    Args:
        message: one line.
        video: the job as it ended.
    """

    def __init__(self, message: str, video: Video) -> None:
        super().__init__(message)
        self.video = video


Ended = tuple[list[Video | None], NotCompleted | NotFound | None]
"""Jobs as they ended, None for those that are gone or whose file is, and the error of one that did not complete."""


def follow(client: Client, video_id: str, *, quiet: bool = False, watch: Callable[[], None] = lambda: None) -> Video:
    """Show a job's progress until it completes.

    Args:
        client: client of a running gateway.
        quiet: whether to show nothing.
        watch: called while waiting.

    Raises:
        NotCompleted: the job failed or was cancelled.
    """
    with shown(quiet) as show:

        def on_progress(video: Video) -> None:
            watch()
            show(video)

        video = client.wait(video_id, on_progress)
    if video.status is not JobStatus.completed:
        reason = f"{video.error.message} ({video.error.code})" if video.error else "no reason given"
        raise NotCompleted(f"{video.id} ended {video.status}: {reason}", video)
    return video


@contextmanager
def shown(quiet: bool) -> Iterator[Callable[[Video], None]]:
    """Yield a function that shows a job's changes: a bar in a terminal, lines in a pipe, or nothing."""
    if quiet:
        yield lambda video: None
    elif console.is_terminal:
        with ProgressBar(console) as bar:
            yield bar
    else:
        yield PlainLines(console)


class ProgressBar:
    """A progress bar of the denoising steps, with phase, kind of step and time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            console=console,
        )
        self._task = self._progress.add_task("queued", total=None, eta="")

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, video: Video) -> None:
        self._progress.update(
            self._task, description=label(video), completed=video.step, total=video.steps, eta=eta(video)
        )


class PlainLines:
    """Prints one line for each change of phase or step."""

    def __init__(self, console: Console) -> None:
        self._console, self._last = console, ""

    def __call__(self, video: Video) -> None:
        line = label(video)
        if video.phase == "denoising":
            line += f" step {video.step}/{video.steps}"
        if line != self._last:
            self._console.print(" ".join(filter(None, (line, eta(video)))))
            self._last = line


def label(video: Video) -> str:
    """Describe what the job is doing, in a few words."""
    phase = video.phase.replace("_", " ")
    if video.phase == "queued" and video.workers == 0:
        return f"{phase} (no worker serves the model yet)"
    return f"{phase} ({video.step_kind})" if video.phase == "denoising" and video.step_kind else phase


def eta(video: Video) -> str:
    """Format the denoising time left, if known."""
    return "" if video.done or not video.eta_seconds else f"about {video.eta_seconds:.0f} s left"


def summary(video: Video) -> str:
    """Summarize a finished job: tokens cut off, what AdaSpa did, and the time of each phase."""
    lines = []
    for name, tokens in (("prompt", video.prompt_tokens), ("negative prompt", video.negative_prompt_tokens)):
        if tokens and tokens.cut:
            total = tokens.used + tokens.cut
            lines.append(f"Cut:    the {name} has {total} tokens; the model ignored the last {tokens.cut}")
    if report := video.attention:
        steps = (
            (n, getattr(report, f"{n}_steps"), getattr(report, f"{n}_seconds")) for n in ("dense", "search", "sparse")
        )
        lines.append(
            "AdaSpa: "
            + ", ".join(
                f"{count} {name} step{'' if count == 1 else 's'} in {seconds:.1f} s"
                for name, count, seconds in steps
                if count
            )
        )
        work = "" if report.attention_work is None else f"attention work {report.attention_work:.2f} of dense, "
        lines.append(
            f"        {work}density in sparse steps {report.density:.2f}{recall(report)}, "
            f"caches {report.cache_bytes / 2**20:.1f} MiB"
        )
        lines += [
            f"        {kind}: {', '.join(told)}" for kind in report.kinds if (told := kernels(report.kinds[kind]))
        ]
        lines += [f"        fell back: {reason}" for reason in report.fell_back]
        if report.weights:
            parts = (f"{part} {types_of(sizes)}" for part, sizes in report.weights.items())
            lines.append(f"        weights: {', '.join(parts)}")
    lines += [f"Note:   {warning}" for warning in video.warnings]
    if video.timings:
        lines.append("Time:   " + ", ".join(f"{name.replace('_', ' ')} {s:.1f} s" for name, s in video.timings.items()))
    return "\n".join(lines)


def types_of(sizes: dict[str, int]) -> str:
    """List the types that a part's weights are kept in, but for those with less than a hundredth of its bytes."""
    return "/".join(name for name, size in sizes.items() if 100 * size >= sum(sizes.values()))


def recall(report: AttentionReport) -> str:
    """Format the recall and the unevenness, if there are any, and whether the recall is an estimate."""
    uneven = "" if report.unevenness is None else f", unevenness {report.unevenness:.3f}"
    if report.recall is None:
        return uneven
    return f", recall {report.recall:.3f}{' (estimate)' if report.recall_is_estimate else ''}{uneven}"


def kernels(kind: KindReport) -> list[str]:
    """List the kernels that ran attention calls of one kind, and how often their block lists were reused."""
    ran = {
        f"{row.op} by {row.backend} in {row.dtype}{f' ({row.passed_over})' if row.passed_over else ''}"
        for row in kind.kernels
        if "attention" in row.op
    }
    reuse = [] if kind.reuse is None else [f"{kind.reuse:.1f} calls per block list"]
    return [*sorted(ran), *reuse]
