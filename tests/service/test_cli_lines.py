"""Lines of the command line: what each says of a job, a model, a time, and leaves out where there is nothing to say."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
from adaspa_api.report import AttentionReport, JobError, KernelReport, KindReport, TokenCount
from adaspa_api.videos import Video
from adaspa_api.words import ErrorCode, JobStatus
from adaspa_jobs.job import JobParams, Progress
from adaspa_service.cli import progress
from adaspa_service.cli.generate import file_for, format_of
from adaspa_service.cli.jobs import facts
from adaspa_service.cli.keys import moment
from adaspa_service.cli.local import described
from adaspa_service.cli.progress import PlainLines, eta, kernels, label, recall, summary, types_of
from adaspa_service.cli.terminal import one_line, print_table
from rich.console import Console

terminal = import_module("adaspa_service.cli.terminal")
STEPS = {"dense_steps": 0, "search_steps": 0, "sparse_steps": 0}
SECONDS = {"dense_seconds": 0.0, "search_seconds": 0.0, "sparse_seconds": 0.0}
Made = Callable[..., Video]


@pytest.fixture
def video(params: Callable[..., JobParams]) -> Made:
    """Makes a job, as a server describes it."""

    def make(phase: str = "queued", step: int = 0, status: str = "in_progress", **fields: Any) -> Video:
        changes = {name: fields.pop(name) for name in ("workers", "queue_position") if name in fields}
        now = Progress(
            phase="denoising",
            step=step,
            steps=10,
            **{
                name: fields.pop(name)
                for name in ("step_kind", "eta_seconds", "prompt_tokens", "negative_prompt_tokens")
                if name in fields
            },
        )
        made = described(params(), now, status=JobStatus(status), **fields)
        phase = status if made.done else phase
        return made.model_copy(update={"phase": phase, "id": "video_1", **changes})

    return make


def report(**fields: Any) -> AttentionReport:
    return AttentionReport.model_validate({"density": 0.25, **STEPS, **SECONDS, **fields})


def test_what_a_job_does_is_a_few_words(video: Made) -> None:
    for made, words in (
        (video("queued", workers=1), "queued"),
        (video("queued"), "queued"),
        (video("queued", workers=0), "queued (no worker serves the model yet)"),
        (video("loading", workers=0), "loading"),
        (video("encoding_prompt"), "encoding prompt"),
        (video("denoising", 3), "denoising"),
        (video("denoising", 3, step_kind="sparse"), "denoising (sparse)"),
        (video("decoding", 10, step_kind="sparse"), "decoding"),
        (video(status="completed"), "completed"),
    ):
        assert label(made) == words
    for made, words in (
        (video("denoising", 3, eta_seconds=12.4), "about 12 s left"),
        (video("denoising", 3), ""),
        (video("denoising", 3, eta_seconds=0.0), ""),
        (video("denoising", 3, eta_seconds=12.4, status="completed"), ""),
    ):
        assert eta(made) == words


def test_a_pipe_gets_a_line_for_each_change_and_none_for_what_only_passes(video: Made) -> None:
    show = PlainLines(Console(file=(out := StringIO()), width=200))
    for made in (
        *(video("queued"), video("queued"), video("loading")),
        *(video("denoising", 1, step_kind="dense"), video("denoising", 1, step_kind="dense", eta_seconds=4.0)),
        *(video("denoising", 2, step_kind="dense", eta_seconds=3.0), video("decoding", 10), video(status="completed")),
    ):
        show(made)
    assert out.getvalue().splitlines() == [
        "queued",
        "loading",
        "denoising (dense) step 1/10",
        "denoising (dense) step 2/10 about 3 s left",
        "decoding",
        "completed",
    ]


@pytest.fixture
def in_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[StringIO]:
    """What a terminal of 60 columns shows."""
    out = StringIO()
    for module in (terminal, progress):
        monkeypatch.setattr(module, "console", Console(file=out, force_terminal=True, width=60, soft_wrap=True))
    yield out


def test_nothing_is_shown_of_a_job_that_is_to_be_quiet(video: Made, in_terminal: StringIO) -> None:
    with progress.shown(True) as show:
        show(video("denoising", 3))
    assert in_terminal.getvalue() == ""
    with progress.shown(False) as show:
        show(video("denoising", 3, step_kind="sparse"))
    assert "3/10" in in_terminal.getvalue() and "denoising (sparse)" in in_terminal.getvalue()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, ""),
        ({"recall": 0.9}, ", recall 0.900"),
        ({"recall": 0.9, "recall_is_estimate": True}, ", recall 0.900 (estimate)"),
        ({"unevenness": 0.024}, ", unevenness 0.024"),
        ({"recall": 0.9, "unevenness": 0.024}, ", recall 0.900, unevenness 0.024"),
    ],
)
def test_a_recall_is_told_as_far_as_it_is_known(fields: dict[str, Any], line: str) -> None:
    assert recall(report(**fields)) == line


def test_a_report_names_what_ran_and_leaves_out_what_did_not(video: Made) -> None:
    assert summary(video(status="completed")) == ""
    whole = report(
        dense_steps=1,
        dense_seconds=2.04,
        sparse_steps=3,
        sparse_seconds=1.5,
        attention_work=0.5,
        cache_bytes=3 * 2**19,
        fell_back=["layer 0", "layer 1"],
        kinds={
            "dense": KindReport(calls=4, work=0.4, kernels=[kernel("dense_attention", "hopper")]),
            "search": KindReport(calls=0, work=0.0),
        },
        weights={"transformer": {"int8": 990, "float32": 10}, "vae": {"float32": 991, "int8": 9}},
    )
    tokens = {"used": 226, "cut": 74, "limit": 226}
    made = video(
        status="completed",
        report=whole,
        timings={"encoding_prompt": 0.25, "denoising": 3.5},
        warnings=["is blank", "is short"],
        prompt_tokens=TokenCount(used=5, cut=0, limit=226),
        negative_prompt_tokens=TokenCount(**tokens),
    )
    assert summary(made).splitlines() == [
        "Cut:    the negative prompt has 300 tokens; the model ignored the last 74",
        "AdaSpa: 1 dense step in 2.0 s, 3 sparse steps in 1.5 s",
        "        attention work 0.50 of dense, density in sparse steps 0.25, caches 1.5 MiB",
        "        dense: dense_attention by hopper in bfloat16",
        "        fell back: layer 0",
        "        fell back: layer 1",
        "        weights: transformer int8/float32, vae float32",
        "Note:   is blank",
        "Note:   is short",
        "Time:   encoding prompt 0.2 s, denoising 3.5 s",
    ]
    assert summary(video(status="completed", report=report())).splitlines()[1:] == [
        "        density in sparse steps 0.25, caches 0.0 MiB"
    ]


def kernel(op: str, backend: str, passed_over: str = "") -> KernelReport:
    return KernelReport(op=op, backend=backend, dtype="bfloat16", passed_over=passed_over, calls=1)


def test_kernels_are_told_once_each_with_why_no_faster_one_ran() -> None:
    ran = [
        kernel("sparse_attention", "triton", "hopper: head dimension 72"),
        kernel("sparse_attention", "hopper"),
        kernel("sparse_attention", "hopper"),
        kernel("block_mass", "triton"),
    ]
    assert kernels(KindReport(calls=3, work=0.1, kernels=ran, patterns=0)) == [
        "sparse_attention by hopper in bfloat16",
        "sparse_attention by triton in bfloat16 (hopper: head dimension 72)",
    ]
    reused = KindReport(calls=30, work=0.1, patterns=12, reuse=2.5)
    assert kernels(reused) == ["2.5 calls per block list"]
    assert types_of({"int8": 99, "float32": 1}) == "int8/float32" and types_of({"int8": 1000, "float32": 1}) == "int8"


def test_a_job_is_told_by_what_there_is_of_it(video: Made) -> None:
    running = facts(video("encoding_prompt", queue_position=None))
    assert (running["status"], running["phase"], running["error"]) == ("in_progress", "encoding prompt", None)
    assert (running["ended"], running["kept until"], running["metadata"]) == (None, None, None)
    ended = video(status="failed", error=JobError(code=ErrorCode.out_of_memory, message="No memory."))
    ended = ended.model_copy(update={"completed_at": 100, "expires_at": 200, "metadata": {"a": "b", "c": "d"}})
    told = facts(ended)
    assert (told["phase"], told["error"]) == (None, "No memory. (out_of_memory)")
    assert told["metadata"] == "a=b, c=d" and str(told["ended"]) < str(told["kept until"])
    assert told["step"] == "0 of 10" and told["clip"] == "33 frames at 8 fps" and told["size"] == "128x128"


@pytest.mark.parametrize(
    ("value", "line"),
    [("a\tb\n\x1b[1m c", "a b [1m c"), (5, "5"), (None, "None"), ("", ""), ("  a  ", "a"), ("é ✓", "é ✓")],
)
def test_a_cell_is_one_line_without_control_characters(value: object, line: str) -> None:
    assert one_line(value) == line


def test_a_table_names_its_columns_in_a_terminal_and_keeps_what_names_a_row_whole(in_terminal: StringIO) -> None:
    name = "video_" + "0" * 32
    print_table(("ID", "PROMPT"), [(name, "a very long prompt " * 5)], cut_last=True)
    lines = [line for line in in_terminal.getvalue().splitlines() if line.strip()]
    assert "ID" in lines[0] and "PROMPT" in lines[0] and len(lines) <= 3
    assert name in lines[-1] and "…" in lines[-1] and len(lines[-1]) <= 70
    in_terminal.truncate(0)
    print_table(
        ("ID", "PROMPT"), [(name, "a very long prompt " * 5)], style=lambda row: "red" if row[0] == name else ""
    )
    assert name in in_terminal.getvalue() and "\x1b[31m" in in_terminal.getvalue()
    assert " ".join(in_terminal.getvalue().split()).count("prompt") == 5, "it is wrapped, not cut"


@pytest.mark.parametrize("width", [1, 20, 40, 49])
@pytest.mark.parametrize("cut_last", [False, True])
def test_a_terminal_that_is_too_narrow_for_a_table_gets_all_of_its_rows(
    in_terminal: StringIO, monkeypatch: pytest.MonkeyPatch, width: int, cut_last: bool
) -> None:
    monkeypatch.setattr(terminal.console, "width", width)
    name = "video_" + "0" * 32
    print_table(("ID", "STATUS", "PROMPT"), [(name, "queued", "a star [red]")], cut_last=cut_last)
    assert in_terminal.getvalue() == f"{name}  queued  a star [red]\n"
    monkeypatch.setattr(terminal.console, "width", 52)
    print_table(("ID", "STATUS", "PROMPT"), [(name, "queued", "a star")], cut_last=cut_last)
    assert "ID" in in_terminal.getvalue() and in_terminal.getvalue().count(name) == 2


class Person(StringIO):
    """Somebody at a terminal who types a line, or Ctrl-C."""

    def isatty(self) -> bool:
        return True

    def readline(self, size: int | None = -1) -> str:
        if self.getvalue() == "\x03":
            raise KeyboardInterrupt
        return super().readline(size)


@pytest.mark.parametrize(
    ("typed", "ends"), [("y\n", None), ("n\n", typer.Abort), ("\n", typer.Abort), ("\x03", KeyboardInterrupt)]
)
def test_a_question_is_answered_refused_or_interrupted(
    monkeypatch: pytest.MonkeyPatch, typed: str, ends: type[BaseException] | None
) -> None:
    monkeypatch.setattr("sys.stdin", Person(typed))
    with nullcontext() if ends is None else pytest.raises(ends):
        terminal.confirm("Permanently delete it?", "delete")


def test_a_pipe_gets_rows_alone(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [(1, "x\ty"), ("", "z")])
    assert capsys.readouterr().out == "1\tx y\n\tz\n"


@pytest.mark.parametrize(
    ("output", "seed", "count", "path"),
    [
        (None, 7, 1, "default.mp4"),
        (None, 7, 2, "default.mp4"),
        ("out.webm", 7, 1, "out.webm"),
        ("a/out.b.webm", 7, 2, "a/out.b-7.webm"),
    ],
)
def test_several_files_are_told_apart_by_their_seeds(output: str | None, seed: int, count: int, path: str) -> None:
    assert file_for(output and Path(output), Path("default.mp4"), seed, count) == Path(path)  # type: ignore[arg-type]


def test_a_files_ending_chooses_its_format() -> None:
    assert format_of(None) is None
    for name in ("a.mp4", "a.MP4", "x/a.b.webm", "a.gif", "a.webp"):
        found = format_of(Path(name))
        assert found is not None and name.lower().endswith(f".{found}")
    for name in ("a.avi", "mp4", "a", "a.mp4.txt"):
        with pytest.raises(SystemExit, match="2"):
            format_of(Path(name))


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (None, "never"),
        (0, "1970-01-01 00:00Z"),
        (1764460800, "2025-11-30 00:00Z"),
        (253402300799, "9999-12-31 23:59Z"),
        (10**12, "after 9999"),
    ],
)
def test_a_time_is_told_to_the_minute(seconds: int | None, told: str) -> None:
    assert moment(seconds) == told
