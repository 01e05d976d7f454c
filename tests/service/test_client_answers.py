"""The Python clients before servers that answer otherwise than a gateway at its best: busy, away, cut off, changed."""

import json
import pickle
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import adaspa_client as package
import httpx
import pytest
from adaspa_api.token_file import token_file
from adaspa_client import ApiError, NotFound, NotUnderstood, asynchronous, errors, plans, sync
from adaspa_client.errors import api_error, retry_after
from adaspa_client.events import Event, EventReader
from adaspa_client.local_token import LocalToken, read_token
from adaspa_jobs.settings import Settings
from adaspa_service.gateway.events import HEARTBEAT_SECONDS
from drawn import picture
from event_stream import parse
from http_server import answering
from hypothesis import given
from hypothesis import strategies as st
from running_gateway import Service, data_uri, demo_catalog, serving
from waiting import PATIENCE, until

LOST = httpx.ReadError("cut")
VIDEO_ID = "video_" + "0" * 32
Given = int | tuple[int, float] | None
"""A status, one with a Retry-After, or no answer."""


def answer(given: Given, body: Any = None) -> httpx.Response | httpx.TransportError:
    """What a client gets."""
    if given is None:
        return LOST
    status, after = given if isinstance(given, tuple) else (given, None)
    headers = {} if after is None else {"Retry-After": f"{after:g}"}
    error = {"error": {"message": "no", "code": "no", "param": None}}
    return httpx.Response(status, headers=headers, json=body if status < 300 else error)


@dataclass
class Driven:
    """What a plan did with its answers, and what came of it."""

    sent: list[plans.Send] = field(default_factory=list)
    paused: list[float] = field(default_factory=list)
    result: Any = None
    error: Exception | None = None


def drive(
    plan: plans.Plan[Any],
    answers: list[Given],
    body: Any = None,
    paused: Any = lambda seconds: None,
    asked_for: Any = lambda given: None,
) -> Driven:
    """Give a plan its answers; after the last of them it is told 500."""
    done, left, reply = Driven(), list(answers), None
    try:
        while True:
            asked = plan.send(reply)
            if isinstance(asked, plans.Pause):
                done.paused.append(asked.seconds)
                paused(asked.seconds)
                reply = None
            else:
                done.sent.append(asked)
                given = left.pop(0) if left else 500
                asked_for(given)
                reply = answer(given, body)
    except StopIteration as end:
        done.result = end.value
    except (ApiError, httpx.TransportError, TimeoutError) as error:
        done.error = error
    return done


BUSY = (429, 502, 503, 504)
GIVEN = st.one_of(
    st.none(),
    st.sampled_from((200, 400, 401, 403, 404, 409, 410, 413, 422, 500, 501, *BUSY)),
    st.tuples(st.sampled_from(BUSY), st.sampled_from((0.0, 1.0, 3.0, 9.0, 10.0, 11.0, 600.0))),
)


@given(st.lists(GIVEN, min_size=1, max_size=7), st.integers(0, 6))
def test_what_may_pass_is_asked_again_at_the_time_that_was_named(answers: list[Given], retries: int) -> None:
    send = plans.Send("GET", "/models")
    done = drive(plans.call(send, retries), answers)
    tried, last = answers[: len(done.sent)], answers[len(done.sent) - 1] if len(done.sent) <= len(answers) else 500
    assert done.sent == [send] * len(done.sent) and 1 <= len(done.sent) <= retries + 1
    assert len(done.paused) == len(done.sent) - 1
    for number, (before, pause) in enumerate(zip(tried, done.paused, strict=False)):
        own = (0.5, 1.0, 2.0, 4.0)[min(number, 3)]
        named = before[1] if isinstance(before, tuple) else 0.0
        assert pause == max(own, named), "as long as the gateway says, and longer each time"
        assert named <= 10, "nobody is kept waiting for long"
        assert before is None or (before[0] if isinstance(before, tuple) else before) in BUSY
    status = last[0] if isinstance(last, tuple) else last
    if status == 200:
        assert done.error is None and done.result.status_code == 200
    elif status is None:
        assert done.error is LOST and len(done.sent) == retries + 1
    else:
        assert isinstance(done.error, ApiError) and done.error.status == status
        too_long = isinstance(last, tuple) and last[1] > 10
        assert status not in BUSY or too_long or len(done.sent) == retries + 1, "it gives up too early"


@pytest.mark.parametrize(
    ("answers", "succeeds"),
    [
        ([200], True),
        ([404], False),
        ([None, 404], True),
        ([503, 404], True),
        ([504, 404], True),
        ([502, 404], True),
        ([429, 404], False),
        ([None, 429, 404], True),
        ([None, 503, 404], True),
        ([503, 429, 404], True),
        ([None, 403], False),
        ([None, None, None], False),
    ],
    ids=str,
)
def test_a_deletion_that_may_have_been_done_is_done_when_there_is_no_such_video(
    answers: list[Given], succeeds: bool
) -> None:
    """Also after 503: the gateway had deleted it, and then lost Redis, for example."""
    done = drive(plans.delete(VIDEO_ID, 2), answers, {"id": VIDEO_ID})
    assert (done.error is None) == succeeds, done
    assert len(done.sent) == len(answers)


CALLS: list[Callable[[Any], Any]] = [
    lambda client: client.create("a star"),
    lambda client: client.create_batch("a star", 2),
    lambda client: client.estimate(),
    lambda client: client.remix(VIDEO_ID, "a star"),
    lambda client: client.get(VIDEO_ID),
    lambda client: client.models(),
    lambda client: client.usage(),
    lambda client: list(client.list()),
    lambda client: client.link(VIDEO_ID),
    lambda client: client.cancel(VIDEO_ID),
    lambda client: client.delete(VIDEO_ID),
    lambda client: client.wait(VIDEO_ID),
]


@pytest.mark.parametrize("body", ["<html>Sign in</html>", '{"hello": 1}', "[]", "null", "", "\\ud800"])
def test_an_answer_of_another_server_is_told_as_that(connect: Any, body: str) -> None:
    """As of a proxy that asks one to sign in: nothing was made, and above all nothing was deleted."""
    taken: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            taken.append(f"{self.command} {self.path.partition('?')[0]}")
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            begin(self, Content_Length=str(len(body)))
            say(self, body)

        do_POST = do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with answering(Handler) as port, connect(f"http://127.0.0.1:{port}") as client:
        for number, call in enumerate(CALLS, 1):
            with pytest.raises(NotUnderstood, match="not that of an AdaSpa gateway") as caught:
                call(client)
            assert len(taken) == number and taken[-1] in str(caught.value), "it is not asked for again"


def create(key: str | None) -> plans.Plan[Any]:
    return plans.create({"json": {"prompt": "a"}}, key, 2)


def create_batch(key: str | None) -> plans.Plan[Any]:
    return plans.create_batch({"json": {"prompt": "a", "n": 2}}, key, 2)


def remix(key: str | None) -> plans.Plan[Any]:
    return plans.remix(VIDEO_ID, "b", None, key, 2)


@pytest.mark.parametrize("plan", [create, create_batch, remix])
def test_what_creates_something_has_one_key_for_all_its_tries_and_none_for_another(
    plan: Callable[[str | None], plans.Plan[Any]],
) -> None:
    keys = []
    for own in (None, None, "order-1"):
        done = drive(plan(own), [None, 503, 400])
        (key,) = {send.headers["Idempotency-Key"] for send in done.sent}
        assert len(done.sent) == 3 and key
        keys.append(key)
    assert len(set(keys)) == 3 and keys[2] == "order-1"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The clock of a plan that waits, which stands still."""
    now = [1000.0]
    monkeypatch.setattr(plans, "monotonic", lambda: now[0])
    yield now


def test_a_job_is_waited_for_through_every_outage_that_is_shorter_than_the_patience(
    service: Service, clock: list[float]
) -> None:
    """However many there are, and whatever was heard of the gateway between them."""
    running = service.http.get(f"/videos/{service.create()['id']}").json()

    def passing(seconds: float) -> None:
        clock[0] += seconds

    def wait(answers: list[Given], timeout: float = 1e6) -> Driven:
        seen: list[Any] = []
        done = drive(plans.wait(VIDEO_ID, seen.append, 10.0, timeout, 30.0), answers, running, passing)
        assert len(seen) == answers[: len(done.sent)].count(200), "each answer is shown"
        return done

    for gone in (None, 500, 502, 503, 504, 429, (503, 5.0)):
        outage = [gone, gone, gone]
        done = wait([*outage, 200, *outage, 200, *outage, 200, *outage, 404])
        assert isinstance(done.error, NotFound) and len(done.sent) == 16, gone
        assert set(done.paused) == {10.0}
        done = wait([200, *[gone] * 9])
        assert done.error is not None and len(done.sent) == 5, "it has been away for 40 s"
    for refused in (400, 401, 403, 404, 410):
        done = wait([200, refused, 200])
        assert isinstance(done.error, ApiError) and done.error.status == refused
    done = wait([200] * 20, timeout=55.0)
    assert isinstance(done.error, TimeoutError) and len(done.sent) == 7
    assert "55 s" in str(done.error)


@pytest.mark.parametrize("status", [429, 503])
def test_a_job_is_asked_for_again_when_the_gateway_says(service: Service, clock: list[float], status: int) -> None:
    """Within the patience and the timeout of the caller, and not more often than it asks."""
    running = service.http.get(f"/videos/{service.create()['id']}").json()

    def passing(seconds: float) -> None:
        clock[0] += seconds

    def wait(answers: list[Given], timeout: float = 1e6, patience: float = 30.0) -> Driven:
        return drive(plans.wait(VIDEO_ID, None, 10.0, timeout, patience), answers, running, passing)

    for after, paused in ((0.0, 10.0), (7.0, 10.0), (25.0, 25.0), (45.0, 30.0), (600.0, 30.0)):
        done = wait([(status, after), 200, (status, after), 404])
        assert isinstance(done.error, NotFound) and done.paused == [paused, 10.0, paused], after
    done = wait([(status, 20.0)] * 4)
    assert isinstance(done.error, ApiError) and done.error.status == status
    assert done.paused == [20.0, 10.0], "its patience is over"
    done = wait([(status, 45.0)] * 2, patience=0.0)
    assert isinstance(done.error, ApiError) and done.paused == []
    done = wait([200, (status, 600.0), 200], timeout=30.0)
    assert isinstance(done.error, TimeoutError) and done.paused == [10.0, 20.0] and len(done.sent) == 3


def test_a_job_is_waited_for_until_it_has_ended_in_whatever_way(service: Service, clock: list[float]) -> None:
    """Its end is its status; a word of a later gateway is none that is known to be an end."""
    running = service.create()

    def passing(seconds: float) -> None:
        clock[0] += seconds

    for status, ended in (
        *(("completed", True), ("failed", True), ("cancelled", True)),
        *(("queued", False), ("in_progress", False), ("paused", False)),
    ):
        for completed_at in (None, 1_800_000_000):
            body = running | {"status": status, "completed_at": completed_at}
            done = drive(plans.wait(VIDEO_ID, None, 10.0, 35.0, 30.0), [200] * 9, body, passing)
            assert isinstance(done.error, TimeoutError) != ended and len(done.sent) == (1 if ended else 5), status
            assert not ended or (done.result.status == status and done.result.done)


@pytest.mark.parametrize(("poll", "hangs"), [(0.25, 30.0), (60.0, 0.0), (0.25, 300.0)])
def test_a_job_is_asked_for_again_after_a_request_that_hung_and_after_a_long_pause(
    clock: list[float], poll: float, hangs: float
) -> None:
    """With the client's own limits: 30 s for a request, and 30 s of patience."""

    def passing(seconds: float) -> None:
        clock[0] += seconds

    def hanging(given: Given) -> None:
        clock[0] += hangs if given is None else 0.0

    for answers in ([None, 404], [None, 503, 404] if poll < 30 else [503, 404]):
        done = drive(plans.wait(VIDEO_ID, None, poll, 1e6, 30.0), answers, None, passing, hanging)
        assert isinstance(done.error, NotFound), answers
    done = drive(plans.wait(VIDEO_ID, None, poll, 1e6, 0.0), [None, 404], None, passing, hanging)
    assert done.error is LOST, "without patience"


KINDS: dict[int, type] = {
    **dict.fromkeys((400, 413, 418, 422), package.BadRequest),
    **{401: package.Unauthorized, 403: package.Forbidden, 404: NotFound, 410: NotFound},
    **{409: package.Conflict, 429: package.TooManyRequests},
    **dict.fromkeys((500, 501, 502, 503, 504), package.ServiceUnavailable),
}
SHAPES = (
    *("", "<p>no</p>", "null", "[]", '"x"', "7", "x" * 1000, '{"detail": "no"}'),
    *('{"error": "no"}', '{"error": null}', '{"error": {}}', '{"error": []}', '{"error": {"code": "c"}}'),
)


@pytest.mark.parametrize("status", KINDS)
def test_a_refusal_has_its_kind_whoever_words_it(status: int) -> None:
    ours = {"message": "m", "code": "c", "param": "p", "type": "t"}
    for after, seconds in (({}, 0.0), ({"Retry-After": "7"}, 7.0), ({"Retry-After": "later"}, 0.0)):

        def refused(body: str, after: dict[str, str] = after, seconds: float = seconds) -> tuple[Any, ...]:
            error = api_error(httpx.Response(status, text=body, headers=after))
            assert type(error) is KINDS[status] and (error.status, error.retry_after) == (status, seconds), body
            sent = pickle.loads(pickle.dumps(error))  # as from a pool's process to the program
            assert (type(sent), vars(sent), str(sent)) == (type(error), vars(error), str(error))
            return str(error), error.message, error.code, error.param

        assert refused(json.dumps({"error": ours})) == ("m", "m", "c", "p")
        assert refused('{"error": {"message": "m"}}') == ("m", "m", None, None)
        for body in SHAPES:
            assert refused(body) == (f"HTTP {status}: {body[:200]}",) * 2 + (None, None)


# Events

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("queued", "progress", "preview", "completed")),
        st.text(alphabet=st.sampled_from('a:é \u2028\x85\x0b\r\n"')),
        st.sampled_from((True, True, False)),
        st.sampled_from((0, 0, 1, 2)),
    ),
    max_size=8,
)
CUTS = st.lists(st.integers(0, 2000), max_size=12)


def stream(events: Any, behind: int = -1) -> str:
    """A stream with its heartbeats, behind an event; some have no id."""
    text = ""
    for number, (kind, prompt, has_id, beats) in enumerate(events):
        if number <= behind:
            continue
        data = json.dumps({"number": number, "prompt": prompt}, ensure_ascii=False)
        text += ": heartbeat\n\n" * beats
        text += (f"id: {number}-0\n" if has_id else "") + f"event: {kind}\ndata: {data}\n\n"
    return text


def told(event: Event) -> dict[str, Any]:
    return {"event": event.type, "data": event.data} | ({} if event.id is None else {"id": event.id})


@given(EVENTS, CUTS)
def test_events_are_read_whatever_the_pieces_that_they_come_in(events: Any, cuts: list[int]) -> None:
    text, reader = stream(events), EventReader(None)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    found = [event for at, end in pairwise(places) for event in reader.feed(text[at:end])]
    wanted = [event for event in parse(iter(text.split("\n"))) if "comment" not in event]
    assert [told(event) for event in found] == wanted
    places = [event["id"] for event in wanted if "id" in event]
    assert reader.headers() == ({"Last-Event-ID": places[-1]} if places else {})


@given(EVENTS, CUTS)
def test_a_stream_that_is_cut_anywhere_goes_on_where_it_was(events: Any, cuts: list[int]) -> None:
    """Each connection tells what came behind the last event that the client has in full."""
    reader, found = EventReader(None), list[Event]()
    for cut in [*cuts, None]:
        last = reader.headers().get("Last-Event-ID")
        text = stream(events, -1 if last is None else int(last.partition("-")[0]))
        reader.begin()
        found += reader.feed(text[:cut])
    numbers = [event.data["number"] for event in found if event.id]
    assert numbers == [at for at, (_, _, has_id, _) in enumerate(events) if has_id], "each once, in order"
    assert all(event.data["prompt"] == events[event.data["number"]][1] for event in found)


def test_an_event_says_what_it_is(service: Service) -> None:
    running = service.create()
    ends = {"completed", "failed", "cancelled"}
    for kind in ("queued", "in_progress", "progress", "preview", *ends, "of a later gateway"):
        event = Event(kind, {"status": "queued"})
        assert (event.last, event.video, event.preview) == (kind in ends, None, None)
        whole = Event(kind, running)
        assert (None if whole.video is None else whole.video.id) == (running["id"] if kind in ends else None)
        assert whole.status == "queued"
    assert Event("preview", {"preview": "data:image/webp;base64," + b64encode(b"a,b").decode()}).preview == b"a,b"


# Over a wire


Act = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def acting(*acts: Act) -> Iterator[str]:
    """The address of a server that does these in turn, one for each request, and the last of them from then on."""
    left, lock = list(acts), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                act = left.pop(0) if len(left) > 1 else left[0]
            act(self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with answering(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def begin(wire: BaseHTTPRequestHandler, status: int = 200, **headers: str) -> None:
    """The head of an answer that promises more than will come."""
    wire.send_response(status)
    for name, value in {"Content_Length": "1000000", **headers}.items():
        wire.send_header(name.replace("_", "-"), value)
    wire.end_headers()


def missing(wire: BaseHTTPRequestHandler) -> None:
    """Refuse, which ends what would ask for ever."""
    begin(wire, 404, Content_Length="0")


def begin_stream(wire: BaseHTTPRequestHandler) -> None:
    """The head of a stream of events."""
    begin(wire, Content_Type="text/event-stream; charset=utf-8")


def say(wire: BaseHTTPRequestHandler, text: str) -> None:
    wire.wfile.write(text.encode())
    wire.wfile.flush()


def event(kind: str, place: int) -> str:
    return f"id: {place}-0\nevent: {kind}\ndata: {{}}\n\n"


def ends(wire: BaseHTTPRequestHandler) -> None:
    """The rest of a stream, for who knows its beginning."""
    assert wire.headers["Last-Event-ID"] == "1-0"
    begin_stream(wire)
    say(wire, event("completed", 2))


def first(wire: BaseHTTPRequestHandler) -> None:
    """The first event; then the connection is cut."""
    begin_stream(wire)
    say(wire, event("queued", 1) + "id: 7-0\nevent: completed\nda")


@pytest.mark.parametrize("status", [429, 502, 503, 504, 400, 401, 403, 404, 410, 500])
def test_a_stream_outlasts_a_gateway_that_is_busy_or_starts_anew_and_no_refusal(connect: Any, status: int) -> None:
    def refuse(wire: BaseHTTPRequestHandler) -> None:
        begin(wire, status, Content_Length="0")

    passes = status == 429 or status >= 500
    with acting(first, refuse, refuse if passes else first, ends) as url, connect(url) as client:
        found: list[tuple[str, str | None]] = []
        try:
            found.extend((each.type, each.id) for each in client.events(VIDEO_ID))
        except ApiError as error:
            assert error.status == status and found == [("queued", "1-0")] and not passes
        else:
            assert found == [("queued", "1-0"), ("completed", "2-0")] and passes, "each is one of one connection"


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> list[float]:
    """The seconds that a client slept, which pass at once."""
    found: list[float] = []

    def sleep(seconds: float) -> None:
        found.append(seconds)
        clock[0] += seconds

    async def sleep_too(seconds: float) -> None:
        sleep(seconds)

    for module, passing in ((sync, sleep), (asynchronous, sleep_too)):
        own = "time" if module is sync else "asyncio"
        monkeypatch.setattr(module, own, SimpleNamespace(sleep=passing))
    return found


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("after", "pause"), [("0", 0.0), ("7", 7.0), ("29", 29.0), ("600", 30.0), ("soon", 0.0)])
def test_a_stream_is_taken_up_anew_when_the_gateway_says(
    connect: Any, slept: list[float], status: int, after: str, pause: float
) -> None:
    """Within the patience of whoever follows it."""

    def refuse(wire: BaseHTTPRequestHandler) -> None:
        begin(wire, status, Content_Length="0", Retry_After=after)

    with acting(refuse, first, ends) as url, connect(url) as client:
        assert [each.type for each in client.events(VIDEO_ID)] == ["queued", "completed"]
    assert slept == [max(pause, plans.DELAYS[0]), plans.DELAYS[0]]


def test_a_stream_is_given_up_when_the_patience_is_over(connect: Any, slept: list[float]) -> None:
    def refuse(wire: BaseHTTPRequestHandler) -> None:
        begin(wire, 503, Content_Length="0", Retry_After="20")

    with acting(first, refuse) as url, connect(url) as client, pytest.raises(ApiError):
        list(client.events(VIDEO_ID))
    assert slept[:2] == [plans.DELAYS[0], 20.0] and sum(slept) == pytest.approx(30.0)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_download_is_asked_for_again_as_any_request_is(
    connect: Any, slept: list[float], tmp_path: Path, status: int
) -> None:
    asked: list[str | None] = []

    def refuse(wire: BaseHTTPRequestHandler) -> None:
        asked.append(wire.headers["Range"])
        begin(wire, status, Content_Length="0", Retry_After="7")

    def for_long(wire: BaseHTTPRequestHandler) -> None:
        begin(wire, status, Content_Length="0", Retry_After="600")

    content, target = bytes(range(250)) * 4, tmp_path / "out.mp4"
    with acting(refuse, Served(content, '"1"', 0.1), refuse, Served(content, '"1"')) as url, connect(url) as client:
        assert client.download(VIDEO_ID, target).read_bytes() == content
    assert slept == [7.0, plans.DELAYS[0], 7.0] and asked == [None, "bytes=100-"], "what came before a refusal counts"
    for act, sleeps in ((refuse, [7.0] * 2), (for_long, [])):
        slept.clear()
        with acting(act) as url, connect(url) as client, pytest.raises(ApiError):
            client.download(VIDEO_ID, target)
        assert slept == sleeps
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_time_to_try_again_is_seconds_or_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 1, 31, 23, 59, 30, tzinfo=UTC)
    monkeypatch.setattr(errors, "datetime", SimpleNamespace(now=now.astimezone))
    dates = [(format_datetime(now + timedelta(seconds=left), usegmt=True), max(left, 0)) for left in (60, 0, -60)]
    for value, seconds in (("7", 7.0), ("0", 0.0), *dates):
        assert retry_after(value) == seconds
    for nonsense in ("", "-5", "nan", "inf", "soon", "1 Jan 2026", "Wed, 99 Nov 2026 00:00:00 GMT"):
        assert retry_after(nonsense) == 0, nonsense


def test_a_stream_that_went_silent_is_taken_up_anew(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sync, asynchronous):
        monkeypatch.setattr(module, "QUIET_SECONDS", 0.5)
    again, came = threading.Event(), list[bool]()

    def silent(wire: BaseHTTPRequestHandler) -> None:
        if wire.headers["Last-Event-ID"]:
            again.set()
            return ends(wire)
        begin_stream(wire)
        say(wire, event("queued", 1))
        return came.append(again.wait(PATIENCE))

    with acting(silent) as url, connect(url) as client:
        assert [each.type for each in client.events(VIDEO_ID, patience=PATIENCE)] == ["queued", "completed"]
        until(lambda: came, "the silent one hears of it")
    assert all(came), "while the connection still stood"


@pytest.mark.parametrize(
    ("kind", "body"),
    [("text/html; charset=utf-8", "<html>"), ("text/plain", "Sign in"), ("Application/JSON", '{"hello": 1}')],
)
def test_an_answer_of_another_server_is_neither_a_stream_nor_a_video(
    connect: Any, tmp_path: Path, kind: str, body: str
) -> None:
    def other(wire: BaseHTTPRequestHandler) -> None:
        begin(wire, Content_Length=str(len(body)), Content_Type=kind)
        say(wire, body)

    refused = partial(pytest.raises, NotUnderstood)
    with acting(other, missing) as url, connect(url) as client, refused(match=f"GET /videos/{VIDEO_ID}/events is not"):
        list(client.events(VIDEO_ID))
    with acting(other, missing) as url, connect(url) as client, refused(match=f"GET /videos/{VIDEO_ID}/content is not"):
        client.download(VIDEO_ID, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [None, "text/plain", "video/mp4", "text/event-stream-of-another-kind"])
def test_a_stream_is_one_of_events(connect: Any, kind: str | None) -> None:
    def other(wire: BaseHTTPRequestHandler) -> None:
        begin(wire, Content_Length="0", **({"Content_Type": kind} if kind else {}))

    with acting(other, missing) as url, connect(url) as client, pytest.raises(NotUnderstood):
        list(client.events(VIDEO_ID))


def test_a_stream_that_cannot_be_read_is_not_asked_for_again(connect: Any) -> None:
    def nonsense(wire: BaseHTTPRequestHandler) -> None:
        begin_stream(wire)
        say(wire, event("queued", 1) + "event: progress\ndata: {\n\n")

    found: list[str] = []
    with acting(nonsense, ends) as url, connect(url) as client, pytest.raises(json.JSONDecodeError):
        found.extend(each.type for each in client.events(VIDEO_ID))
    assert found == ["queued"]


@pytest.mark.parametrize("beats", [True, False])
def test_a_gateway_whose_heart_beats_is_not_away(connect: Any, clock: list[float], beats: bool) -> None:
    """Patience begins anew with whatever is heard, not with events alone."""

    def away(wire: BaseHTTPRequestHandler) -> None:
        clock[0] += 20
        begin(wire, 503, Content_Length="0")

    def back(wire: BaseHTTPRequestHandler) -> None:
        clock[0] += 20
        begin_stream(wire)
        if beats:
            say(wire, ": heartbeat\n\n")

    with acting(first, away, back, away, ends) as url, connect(url) as client:
        found: list[str] = []
        try:
            found.extend(each.type for each in client.events(VIDEO_ID, patience=30.0))
        except httpx.TransportError:
            assert not beats and found == ["queued"]
        else:
            assert beats and found == ["queued", "completed"]


def test_a_stream_is_taken_up_anew_however_long_it_was_silent_before(connect: Any, clock: list[float]) -> None:
    """A stream is taken for lost after more seconds of silence than a gateway that is away is tried again."""
    assert asynchronous.QUIET_SECONDS > 2 * HEARTBEAT_SECONDS, "one heartbeat may be late"

    def silent(wire: BaseHTTPRequestHandler) -> None:
        first(wire)
        clock[0] += 1000

    with acting(silent, ends) as url, connect(url) as client:
        assert [each.type for each in client.events(VIDEO_ID)] == ["queued", "completed"]
    with acting(silent, ends) as url, connect(url) as client, pytest.raises(httpx.TransportError):
        list(client.events(VIDEO_ID, patience=0.0))


@dataclass
class Served:
    """A file as a server has it for one request.

    Args:
        etag: of its content; a server may have none.
        cut: share of its body after which the connection breaks.
    """

    content: bytes
    etag: str | None
    cut: float | None = None

    def __call__(self, wire: BaseHTTPRequestHandler) -> None:
        """Answer as RFC 9110 says; a server passes over an If-Range that says nothing."""
        start, unless = wire.headers["Range"], wire.headers["If-Range"]
        at = int(start.removeprefix("bytes=").removesuffix("-")) if start else 0
        if unless and unless != self.etag:
            at = 0
        body = self.content[at:]
        etag = {} if self.etag is None else {"ETag": self.etag}
        begin(wire, 206 if at else 200, Content_Length=str(len(body)), **etag)
        wire.wfile.write(body if self.cut is None else body[: int(self.cut * len(body))])


@pytest.mark.parametrize("seed", range(8))
def test_a_download_is_one_file_whole_whatever_becomes_of_it_on_the_way(
    connect: Any, tmp_path: Path, seed: int
) -> None:
    """Connections are cut, and between them the file may become another, a shorter or longer one."""
    draw = Random(seed)
    contents = [draw.randbytes(draw.randrange(200, 3000)) for _ in range(3)]
    named, at, served = draw.random() < 0.8, 0, list[Served]()
    for _ in range(6):
        at = draw.choice((at, at, draw.randrange(3)))
        served.append(Served(contents[at], f'"{at}"' if named else None, draw.random()))
    served.append(Served(contents[at], served[-1].etag))
    (tmp_path / "out.mp4").write_bytes(b"of an earlier download" * 500)
    with acting(*served) as url, connect(url, retries=10) as client:
        assert client.download(VIDEO_ID, tmp_path / "out.mp4").read_bytes() == contents[at]
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_download_is_taken_up_as_often_as_that_brings_it_further(connect: Any, tmp_path: Path) -> None:
    content = bytes(range(250)) * 4
    served = [Served(content, '"1"', 0.1) for _ in range(10)]
    with acting(*served, Served(content, '"1"')) as url, connect(url, retries=1) as client:
        assert client.download(VIDEO_ID, tmp_path / "out.mp4").read_bytes() == content
    asked = []

    def nothing(wire: BaseHTTPRequestHandler) -> None:
        asked.append(wire.headers["Range"])
        Served(content, '"1"', 0.0)(wire)

    (tmp_path / "out.mp4").write_bytes(b"before")
    cut = acting(Served(content, '"1"', 0.1), nothing)
    with cut as url, connect(url, retries=2) as client, pytest.raises(httpx.TransportError):
        client.download(VIDEO_ID, tmp_path / "out.mp4")
    assert asked == ["bytes=100-"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"before", "what was there stays until there is another, whole one"


# Who it is


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://127.0.0.1:7777", 7777),
        ("http://127.9.8.7:7777/v1", 7777),
        ("http://localhost:7777", 7777),
        ("http://LOCALHOST", 80),
        ("https://localhost", 443),
        ("http://[::1]:7777", 7777),
        ("http://user@127.0.0.1:7777", None),
        ("http://user:password@localhost:7777", None),
        ("http://0.0.0.0:7777", None),
        ("http://192.0.2.1:7777", None),
        ("http://localhost.example:7777", None),
        ("http://127.0.0.1.example:7777", None),
        ("http://[2001:db8::1]:7777", None),
    ],
)
def test_a_token_goes_to_the_gateway_of_this_machine_that_left_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, port: int | None
) -> None:
    """A user name in the address is another way in, which a token would replace."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for each in (80, 443, 7777, 8000):
        token_file(each).parent.mkdir(exist_ok=True)
        token_file(each).write_text(f"token of {each}\n")
    auth, request = LocalToken.of(url), httpx.Request("GET", url)
    if port is None:
        assert auth is None
    else:
        assert auth is not None
        assert next(auth.auth_flow(request)).headers["Authorization"] == f"Bearer token of {port}"
        token_file(port).write_text("\n")
        assert read_token(httpx.URL(url)) is None


def test_tokens_are_in_the_users_own_folder_wherever_a_program_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means nothing (XDG Base Directory Specification)."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for relative in ("", "state", "./state"):
        monkeypatch.setenv("XDG_STATE_HOME", relative)
        assert token_file(8000).parent == tmp_path / ".local" / "state" / "adaspa"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "own"))
    assert token_file(8000).parent == tmp_path / "own" / "adaspa"
    assert len({token_file(8000), token_file(8001)}) == 2


# What is asked for


def test_a_request_with_a_file_asks_for_the_same_as_one_with_its_address(
    settings: Settings, connect: Any, tmp_path: Path
) -> None:
    """One goes as a form, the other as JSON."""
    ink = {"name": "ink", "source": "ink.safetensors", "sha256": 64 * "a"}
    own = {"loras": [ink, ink | {"name": "oil"}], "max_loras": 2, "audio": True, "flow_shift_range": [1, 9]}
    catalog = demo_catalog(tmp_path / "catalog.json", {"demo": {}, "own": own | {"tasks": ["image_to_video"]}})
    content = picture(64, 64)
    (tmp_path / "a.png").write_bytes(content)
    fields: dict[str, Any] = {
        "model": "own",
        "loras": [{"name": "oil"}, {"name": "ink", "scale": 0.5, "sha256": ink["sha256"]}],
        "audio": False,
        "flow_shift": 4.5,
        "fit": "contain",
        "seed": 7,
        "steps": 3,
        "guidance_scale": 2.5,
        "quality": None,
        "metadata": {"order": "1, 2", "null": "null"},
        "user": "null",
        "priority": "bulk",
        "negative_prompt": None,
        "size": None,
    }
    uri = data_uri(content)
    own_settings = settings.model_copy(update={"catalog": catalog})
    with serving(own_settings, tmp_path) as service, connect(service.url) as client:
        ways = (content, tmp_path / "a.png", str(tmp_path / "a.png"), uri, "DATA" + uri.removeprefix("data"))
        made = [client.create("ü \u2028 null", image=way, **fields) for way in ways]
        made.append(client.create("ü \u2028 null", input_reference=content, **fields))
    same = [video.model_dump(exclude={"id", "created_at", "queue_position", "inputs", "expires_at"}) for video in made]
    assert all(each == same[0] for each in same)
    assert len({video.inputs[0].sha256 for video in made}) == 1
    told = {name: same[0][name] for name in fields if name != "fit"}
    given = {name: value for name, value in fields.items() if value is not None and name not in ("fit", "loras")}
    assert told == told | given and [(use["name"], use["scale"]) for use in told["loras"]] == [("oil", 1), ("ink", 0.5)]
