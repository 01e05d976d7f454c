"""What the processes of a group say to each other, and when one of them counts as lost; without any model."""

import logging
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
from adaspa_jobs.store import JobCancelled
from adaspa_worker import follower, group
from adaspa_worker.engines import together
from adaspa_worker.follower import Leader, Stopped
from adaspa_worker.group import Decode, Group, GroupFailed, Piece
from chaos.workshop import raising
from waiting import PATIENCE, runs, until

Made = Callable[[], Group]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Makes a group of three whose others do what they are told to."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(group, "FOLLOWER", "playing_follower")
    monkeypatch.setattr(group, "BEAT_SECONDS", 0.05)
    for limit in ("SILENT_SECONDS", "ANSWER_SECONDS"):
        monkeypatch.setattr(group, limit, PATIENCE)
    groups: list[Group] = []

    def make() -> Group:
        spec: Any = SimpleNamespace(gpus=3)
        groups.append(Group(spec, Path("nowhere")))
        return groups[-1]

    yield make
    for each in groups:
        each.close()


def order(made: Group, *words: Any, rank: int | None = None) -> None:
    made.tell((rank, *words))


def idle() -> None:
    """Nothing stops the job."""


def test_each_piece_of_work_has_its_own_answers_and_none_of_the_last(made: Made) -> None:
    whole = made()
    assert Group.current is whole and group.failure() is None
    order(whole, "answer", None)
    assert whole.settle(PATIENCE) == []
    order(whole, "answer", "ValueError: no", rank=2)
    order(whole, "beat")
    order(whole, "answer", "", rank=1)
    assert whole.settle(PATIENCE) == ["ValueError: no"]
    order(whole, "piece", 1, "of a work that was broken off")
    order(whole, "answer", None)
    assert whole.settle(PATIENCE) == []
    order(whole, "piece", 2, "of the next")
    pieces = whole.pieces(idle)
    assert [next(pieces) for _ in range(2)] == [Piece(2, "of the next")] * 2


def test_who_waits_for_pieces_hears_of_a_cancel_and_of_errors(made: Made) -> None:
    whole = made()

    def cancelled() -> None:
        raise JobCancelled("x")

    with pytest.raises(JobCancelled):
        next(whole.pieces(cancelled))
    order(whole, "piece", 1, "one", rank=1)
    until(lambda: not whole._pieces.empty(), "it is there")
    assert next(whole.pieces(cancelled)).content == "one", "what is there comes first"
    order(whole, "answer", "ValueError: no", rank=2)
    with pytest.raises(GroupFailed, match=r"^process 2 of the group failed: ValueError: no$"):
        next(whole.pieces(idle))
    assert whole.failure is None, "it is up to the leader"
    order(whole, "answer", None, rank=1)
    assert whole.settle(PATIENCE) == ["ValueError: no"]
    order(whole, "answer", None)
    order(whole, "piece", 1, "of the next", rank=1)
    assert next(whole.pieces(idle)).content == "of the next"


def test_pieces_are_waited_for_while_others_have_done_their_part(made: Made) -> None:
    whole, checks = made(), list[int]()
    order(whole, "answer", None, rank=2)

    def check() -> None:
        checks.append(1)
        if len(checks) == 3:
            order(whole, "piece", 1, "late", rank=1)

    assert next(whole.pieces(check)).content == "late"


class Clock:
    """A group's clock that stands still until it is moved; no process is silent by it."""

    def __init__(self, whole: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        self.whole, self.now, self.looks = whole, 100.0, 0
        monkeypatch.setattr(group, "SILENT_SECONDS", math.inf)
        monkeypatch.setattr(group, "time", SimpleNamespace(monotonic=self.look))

    def look(self) -> float:
        self.looks += 1
        return self.now

    def move(self, seconds: float) -> None:
        """Move it, and wait until the group has seen that."""
        self.now += seconds
        looks = self.looks
        until(lambda: self.looks > looks + 4 or self.whole.failure, "it was looked at")


def test_a_process_that_fails_alone_ends_the_group_that_waits_for_it(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader would wait for ever in what it exchanges with it. One that fails as the others do is no such case."""
    whole = made()
    clock = Clock(whole, monkeypatch)
    for _ in range(2):
        order(whole, "answer", "ValueError: no")
        until(lambda: whole._answers.qsize() == 2, "both have failed")
        clock.move(group.ANSWER_SECONDS - 1)
        assert whole.failure is None and whole.settle(PATIENCE) == ["ValueError: no"] * 2, "and so has the leader"
        clock.move(2 * group.ANSWER_SECONDS)
        assert whole.failure is None
    order(whole, "answer", "OutOfMemoryError: no", rank=2)
    until(lambda: whole._answers.qsize() == 1, "one has failed")
    clock.move(group.ANSWER_SECONDS + 1)
    until(lambda: whole.failure, "the group ends")
    assert str(whole.failure) == "process 2 of the group failed: OutOfMemoryError: no; stopping the group"
    until(lambda: all(process.poll() is not None for process in whole.processes), "all are killed")


def test_a_leader_that_has_ended_its_work_waits_for_the_slowest_whatever_the_others_say(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when one says at once that it is of another version, and another is still being started."""
    whole, answers = made(), list[str]()
    clock = Clock(whole, monkeypatch)
    order(whole, "answer", "torch 2 and 1", rank=2)
    settles = threading.Thread(target=lambda: answers.extend(whole.settle(100 * group.ANSWER_SECONDS)))
    settles.start()
    until(lambda: whole._error and whole._settles_until > clock.now, "it waits for the other one")
    clock.move(50 * group.ANSWER_SECONDS)
    assert whole.failure is None
    order(whole, "answer", "", rank=1)
    settles.join()
    assert answers == ["torch 2 and 1"] and whole.failure is None


def test_a_process_that_dies_ends_all_others_and_whatever_waits_for_them(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    whole = made()
    order(whole, "die", rank=2)
    with pytest.raises(GroupFailed, match=r"^process 2 of the group died; stopping the group$") as first:
        whole.settle(PATIENCE)
    assert group.failure() is first.value
    for waits in (lambda: next(whole.pieces(idle)), lambda: order(whole, "answer", None), whole.settle):
        with pytest.raises(GroupFailed, match="process 2"):
            waits()
    until(lambda: all(process.poll() is not None for process in whole.processes), "the other one ends, too")
    assert [record.levelno for record in caplog.records if record.name == "adaspa_worker.group"] == [logging.ERROR]
    whole.close()
    assert group.failure() is None, "the next group begins anew"


def test_a_process_that_cannot_be_told_ends_the_group_at_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its end is noticed otherwise: the leader would begin what nobody does with it."""
    whole = made()
    with monkeypatch.context() as patch:
        patch.setattr(group.Connection, "send_bytes", raising(BrokenPipeError()))
        with pytest.raises(GroupFailed, match=r"^a process of the group has ended; stopping the group$"):
            order(whole, "beat")
    until(lambda: all(process.poll() is not None for process in whole.processes), "all are killed")


def test_a_process_that_has_beaten_and_falls_silent_hangs(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has not beaten yet is still being started."""
    monkeypatch.setattr(group, "SILENT_SECONDS", 0.3)
    whole = made()
    order(whole, "beat", rank=2)
    until(lambda: whole.failure, "the silence is noticed")
    with pytest.raises(GroupFailed, match=r"^process 2 of the group was silent for 0 s; stopping"):
        whole.settle(PATIENCE)


def test_a_process_that_does_not_end_its_work_fails_the_group(made: Made) -> None:
    whole = made()
    order(whole, "answer", None, rank=1)
    with pytest.raises(GroupFailed, match="a process of the group did not end within 0 s after the leader"):
        whole.settle(0.2)
    until(lambda: all(process.poll() is not None for process in whole.processes), "all are killed")


def test_a_group_that_is_closed_ends_in_silence(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    whole, later = made(), made()
    order(whole, "answer", None)
    whole.settle(PATIENCE)
    folder = whole.store.parent
    whole.close()
    assert all(process.poll() is not None for process in whole.processes) and not folder.exists()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert whole.failure is None and Group.current is later, "the one that was made last"
    order(later, "answer", None)
    assert later.settle(PATIENCE) == []
    later.close()
    assert Group.current is None


HEARS = "hears that the leader needs no more"


class Gone(Exception):
    """The leader says nothing more."""


class Heard(Leader):
    """A leader that says what it is to, and notes what it is told."""

    def __init__(self, *says: Any) -> None:
        self.says, self.told = list(says), list[Any]()

    def hear(self) -> Any:
        if not self.says:
            raise Gone
        if self.says[0] is None:
            self.told.append(HEARS)
        return self.says.pop(0)

    def tell(self, error: str | None) -> None:
        self.told.append(error)

    def send(self, place: Any, content: Any) -> None:
        self.told.append((place, content))


class Follows:
    """What a follower does of an engine."""

    device = "cpu"

    def __init__(self, leader: Heard) -> None:
        self.leader = leader

    def denoise(self, params: Any, encoded: Any, go_on: Callable[[int, Any], None], resume: Any) -> None:
        if params == "broken":
            raise ValueError("shapes do not fit\nat line 3")
        for step in range(1, 4):
            self.leader.told.append((params, encoded, resume, step))
            go_on(step, None)

    def decode_for(self, rank: int, gpus: int, latents: Any, given: Any, send: Callable[[Any, Any], None]) -> None:
        if latents == "broken":
            raise MemoryError("no room")
        send((rank, gpus), (latents, given))
        if latents == "too many":
            raise Stopped

    def reset(self) -> None:
        self.leader.told.append("reset")


OWN = group.versions()
BEGINS = (SimpleNamespace(gpus=3), "folder", 2, "store")


@pytest.mark.parametrize(
    ("work", "told"),
    [
        ((("p", "e", "r"), True, True, True), [("p", "on cpu", "r", step) for step in (1, 2, 3)] + ["reset", None]),
        ((("p", "e", None), True, False), [("p", "on cpu", None, step) for step in (1, 2)] + ["reset", None]),
        ((("broken", "e", None),), ["reset", "ValueError: shapes do not fit"]),
        ((Decode("latents", [1]), None), [((2, 3), ("latents", [1])), "reset", None, HEARS]),
        ((Decode("too many", []), None), [((2, 3), ("too many", [])), "reset", None, HEARS]),
        ((Decode("broken", []), None), ["reset", "MemoryError: no room", HEARS]),
    ],
    ids=["whole", "stopped", "broken", "decoded", "decoded in part", "not decoded"],
)
def test_a_follower_does_what_its_leader_does_and_says_when_it_has_ended(
    monkeypatch: pytest.MonkeyPatch, work: tuple[Any, ...], told: list[Any]
) -> None:
    """Its engine holds nothing when the leader hears of the end, and it is ready for the next piece of work."""
    leader = Heard(OWN, BEGINS, *work, *work)
    joined: list[Any] = []
    monkeypatch.setattr(together, "join", lambda *given: (joined.append(given), Follows(leader))[1])
    monkeypatch.setattr(together, "placed", lambda encoded, device: f"on {device}")
    with pytest.raises(Gone):
        follower.follow(leader)
    assert leader.told == ["", None, *told, *told]
    assert joined == [(BEGINS[0], Path("folder"), 2, "store")]


def test_a_follower_says_first_which_versions_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    leader = Heard({**OWN, "torch": "1.0", "diffusers": "0.1"})
    with pytest.raises(Gone):
        follower.follow(leader)
    assert leader.told == [f"torch {OWN['torch']} and 1.0, diffusers {OWN['diffusers']} and 0.1"]


def test_a_follower_sends_no_more_once_its_leader_needs_no_more_and_ends_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = Pipe()
    leader: Any = Leader.__new__(Leader)  # which would beat
    leader._connection, leader._sending = theirs, threading.Lock()
    leader.send(1, "one")
    leader.tell("an error")
    assert [group.pickle.loads(ours.recv_bytes()) for _ in range(2)] == [Piece(1, "one"), "an error"]
    ours.send_bytes(group.pickle.dumps(False))
    with pytest.raises(Stopped):
        leader.send(2, "two")
    with pytest.raises(Stopped):
        leader.go_on(1, None)

    def ends(status: int) -> None:
        raise Gone(status)

    monkeypatch.setattr(follower.os, "_exit", ends)
    ours.close()
    for says in (leader.hear, lambda: leader.tell(None)):
        with pytest.raises(Gone, match="0"):
            says()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_follower_beats_until_its_leader_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, (ours, theirs) = threading.Event(), Pipe()

    def ends(status: int) -> None:
        ended.set()
        raise SystemExit(status)

    monkeypatch.setattr(follower, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(follower.os, "_exit", ends)
    Leader(theirs)
    assert [ours.recv_bytes() for _ in range(3)] == [group.BEAT] * 3
    (beats,) = (thread for thread in threading.enumerate() if thread.name == "beat")
    ours.close()
    beats.join(PATIENCE)
    assert ended.is_set() and not beats.is_alive()


def test_a_follower_dies_with_its_leader_leaves_ctrl_c_to_it_and_logs_as_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, (_, theirs) = list[Any](), Pipe()
    monkeypatch.setattr(follower.sys, "argv", ["follower", str(os.dup(theirs.fileno()))])
    monkeypatch.setattr(follower, "die_with_parent", lambda: done.append("dies with its leader"))
    monkeypatch.setattr(follower.signal, "signal", lambda *what: done.append(what))
    monkeypatch.setattr(follower.logs, "configure", done.append)
    monkeypatch.setattr(follower, "Leader", lambda connection: done.append("beats"))
    monkeypatch.setattr(follower, "follow", lambda _: done.append("follows"))
    follower.main()
    ctrl_c = (follower.signal.SIGINT, follower.signal.SIG_IGN)
    assert done == ["dies with its leader", ctrl_c, follower.get_settings(), "beats", "follows"]


def test_a_follower_that_cannot_go_on_ends_although_it_beats() -> None:
    """As one that cannot load the model: its leader hears of the end, and not of beats for ever."""
    code = """
        from multiprocessing import Pipe
        from adaspa_worker.follower import Leader

        ours, theirs = Pipe()
        Leader(theirs)
        raise SystemExit(3)
    """
    assert subprocess.call([sys.executable, "-c", dedent(code)], timeout=PATIENCE) == 3


def test_a_follower_whose_leader_is_killed_ends_even_if_it_hears_nothing_of_that() -> None:
    """As in the middle of a kernel: here, its pipe stays open."""
    ours, theirs = Pipe()
    code = """
        import subprocess, sys
        line = [sys.executable, "-m", "adaspa_worker.follower", sys.argv[1]]
        print(subprocess.Popen(line, pass_fds=[int(sys.argv[1])]).pid, flush=True)
        input()
    """
    line = [sys.executable, "-c", dedent(code), str(theirs.fileno())]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "pass_fds": [theirs.fileno()]}
    leader: Any = subprocess.Popen(line, **pipes)  # type: ignore[call-overload]
    theirs.close()
    pid = int(leader.stdout.readline())
    ours.send_bytes(group.pickle.dumps(OWN | {"torch": "1.0"}))
    while (heard := ours.recv_bytes()) == group.BEAT:
        pass
    assert group.pickle.loads(heard).endswith(" and 1.0") and runs(pid)
    leader.kill()
    leader.wait()
    until(lambda: not runs(pid), "it ends")


def test_a_leader_that_ends_without_closing_its_group_leaves_nothing(made: Made) -> None:
    code = """
        from pathlib import Path
        from types import SimpleNamespace
        from adaspa_worker import group

        group.FOLLOWER, group.SILENT_SECONDS = "playing_follower", float("inf")
        whole = group.Group(SimpleNamespace(gpus=3), Path("nowhere"))
        whole.tell((None, "answer", None))
        whole.settle(600)
        print(*(process.pid for process in whole.processes), whole.store.parent)
    """
    *pids, folder = subprocess.check_output([sys.executable, "-c", dedent(code)], text=True, timeout=PATIENCE).split()
    assert len(pids) == 2 and not Path(folder).exists()
    until(lambda: not any(runs(int(pid)) for pid in pids), "they end")
