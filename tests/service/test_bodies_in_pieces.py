"""Bodies as they come off the network: slowly, and in pieces of any length."""

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from adaspa_api.words import Kind, Role
from adaspa_service.errors import ApiError
from adaspa_service.gateway import body, json_text
from adaspa_service.gateway.json_text import JsonText, TextTooLarge
from adaspa_service.inputs.source import IN_MEMORY_BYTES
from hypothesis import example, given
from hypothesis import strategies as st
from virtual_time import Clock, run

LONG = 40
FILES = 2
PLENTY = 10**6
TEXTS = st.text(st.sampled_from('ab/=\\"\n\u00e9\U0001f534 :,{}'), max_size=60)
URIS = st.builds(
    lambda head, body: head + body,
    st.sampled_from(("data:", "DATA:", "Data:image/png;base64,", "date:", "dat")),
    st.text(st.sampled_from('abAB/+=\n\\"'), max_size=150),
)
VALUES: Any = st.recursive(
    TEXTS | URIS | st.integers() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
ESCAPES = (("/", "\\/"), ("=", "\\u003d"), ("A", "\\u0041"), ("b", "\\u0062"))


def as_bytes(value: Any, *, ascii_only: bool, escaped: list[tuple[str, str]]) -> bytes:
    """JSON as some encoder writes it."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    for plain, escape in escaped:
        text = "".join(part if part.startswith("\\") else part.replace(plain, escape) for part in split_escapes(text))
    return text.encode()


def split_escapes(text: str) -> list[str]:
    """A text in parts: each escape, and what is between them."""
    parts, at = [], 0
    while at < len(text):
        if text[at] == "\\":
            end = at + (6 if text[at + 1] == "u" else 2)
        else:
            end = text.find("\\", at) if "\\" in text[at:] else len(text)
        parts.append(text[at:end])
        at = end
    return parts


def read(text: bytes, cuts: list[int], **limits: int) -> JsonText:
    """Feed it in pieces that end at the cuts."""
    took = JsonText(**{"most": PLENTY, "most_of_one": PLENTY, "most_files": FILES} | limits)
    ends = sorted({*(cut % (len(text) + 1) for cut in cuts), len(text)})
    for start, end in zip([0, *ends], ends, strict=False):
        took.feed(text[start:end])
    return took


def put_back(value: Any, files: dict[str, bytes]) -> Any:
    """The value with the files in the places of their marks."""
    if isinstance(value, str):
        return files[value].decode() if value in files else value
    if isinstance(value, list):
        return [put_back(each, files) for each in value]
    if isinstance(value, dict):
        return {put_back(name, files): put_back(each, files) for name, each in value.items()}
    return value


@given(VALUES, st.lists(st.integers(0, 10**4), max_size=12), st.booleans(), st.lists(st.sampled_from(ESCAPES)))
def test_it_says_the_same_in_whatever_pieces_it_comes(
    value: Any, cuts: list[int], ascii_only: bool, escaped: list[tuple[str, str]]
) -> None:
    text = as_bytes(value, ascii_only=ascii_only, escaped=escaped)
    assert json.loads(text) == value
    with patch.object(json_text, "LONG_BYTES", LONG):
        took, at_once = read(text, cuts), read(text, [])
    found = []
    for each in (took, at_once):
        files = {mark: contents(file) for mark, file in each.files.items()}
        assert put_back(json.loads(bytes(each.text)), files) == value
        found.append([*files.values()])
    assert found[0] == found[1], "what becomes a file depends on how it comes"
    assert len(found[0]) <= FILES and all(one[:5].lower() == b"data:" for one in found[0])


def contents(file: Any) -> bytes:
    file.seek(0)
    content: bytes = file.read()
    return content


@given(
    st.lists(st.tuples(st.sampled_from(("data:", "DATA:", "text:")), st.integers(1, 120)), min_size=1, max_size=5),
    st.integers(1, 30),
)
@example([("DATA:", 100), ("text:", 100), ("data:", 100), ("data:", 100)], 7)
def test_long_data_uris_go_into_files_as_long_as_there_may_be_more(asked: list[tuple[str, int]], length: int) -> None:
    strings = [start + "x" * count for start, count in asked]
    text = json.dumps(strings).encode()
    with patch.object(json_text, "LONG_BYTES", LONG):
        took = read(text, [*range(length, len(text), length)])
    long = [one.encode() for one in strings if one.lower().startswith("data:") and len(one) > LONG]
    assert [contents(file) for file in took.files.values()] == long[:FILES]


@given(st.integers(1, 200), st.integers(1, 40))
def test_of_a_file_that_is_too_long_as_much_is_kept_as_tells_so(count: int, length: int) -> None:
    uri, most = b"data:" + b"x" * (LONG + count), LONG + 50
    text = b'{"a": "' + uri + b'", "b": 1}'
    with patch.object(json_text, "LONG_BYTES", LONG):
        took = read(text, [*range(length, len(text), length)], most_of_one=most)
    (kept,) = [contents(file) for file in took.files.values()]
    assert kept == uri[: len(kept)] and len(kept) >= min(len(uri), most)
    assert len(kept) < most + length + 1, "it is not kept whole"
    assert json.loads(bytes(took.text))["b"] == 1, "what follows it is read"


@pytest.mark.parametrize("length", [1, 7, 10**6])
@pytest.mark.parametrize("inside", [b"x" * 30, b"data:" + b"x" * 25, b"\\n" * 15], ids=str)
def test_text_is_taken_up_to_its_limit(inside: bytes, length: int) -> None:
    """Files do not count, in whatever part of the text it ends."""
    text = b'{"a": "' + inside + b'", "b": [1, 2]}'
    uri = b'{"c": "data:' + b"y" * 200 + b'"}'
    for whole, size in ((text, len(text)), (uri, len(b'{"c": ""}') + 32)):
        with patch.object(json_text, "LONG_BYTES", LONG):
            cuts = [*range(length, len(whole), length)]
            took = read(whole, cuts, most=max(size, LONG + 7))
            assert len(took.text) == size
            for most in range(LONG + 7, size):
                with pytest.raises(TextTooLarge):
                    read(whole, cuts, most=most)


def test_escapes_in_files_are_resolved_wherever_they_are_cut() -> None:
    uri = "data:image/png;base64," + "AB/+" * 12
    text = '{"a": "' + uri.replace("/", "\\/").replace("B", "\\u0042").replace("+", "\\u002B") + '"}'
    with patch.object(json_text, "LONG_BYTES", LONG):
        for cut in range(len(text)):
            took = read(text.encode(), [cut])
            assert [contents(file) for file in took.files.values()] == [uri.encode()], cut
        (file,) = read(b'{"a": "data:' + b"x" * LONG + b'\\q\\uZZZZ"}', []).files.values()
        assert contents(file).endswith(b"\\q\\uZZZZ"), "what is no escape stays, and is no base64"


MOST = 5 * IN_MEMORY_BYTES
PART = body.BYTES_A_SECOND // 4


@given(
    st.lists(st.tuples(st.integers(0, 300).map(lambda tenths: tenths / 10 + 0.013), st.integers(1, 12)), max_size=12),
    st.integers(0, 60),
)
@example([(19.95, 8), (1.95, 1), (0.05, 1)], 60)
@example([(0.05, 8), (0.05, 1), (21.85, 1), (0.3, 1)], 60)
@example([(0.05, 20), (0.05, 20)], 0)
@example([(0.05, 20), (0.05, 21)], 0)
def test_a_body_has_its_time_and_its_length_however_long_its_turn_takes(
    pieces: list[tuple[float, int]], turn_seconds: int
) -> None:
    """Each piece comes so many seconds after the one before was taken."""
    clock, turns = Clock(), list[int]()

    async def stream() -> AsyncIterator[bytes]:
        for seconds, parts in pieces:
            await asyncio.sleep(seconds)
            yield bytes(parts * PART)

    async def take() -> None:
        if not turns:
            await asyncio.sleep(turn_seconds)
        turns.append(1)

    async def receive() -> tuple[int, int]:
        received = 0
        request: Any = SimpleNamespace(headers={}, stream=stream)
        turn: Any = SimpleNamespace(take=take)
        try:
            async for piece in body.incoming(request, MOST, turn):
                assert bool(turns) == (received + len(piece) > IN_MEMORY_BYTES), "a long body has its turn first"
                received += len(piece)
        except ApiError as error:
            return error.status, received
        return 200, received

    passed, wanted, received = 0.0, 200, 0
    for seconds, parts in pieces:
        passed += seconds
        if passed > body.BODY_SECONDS + received / body.BYTES_A_SECOND:
            wanted = 408
            break
        if received + parts * PART > MOST:
            wanted = 413
            break
        received += parts * PART
    with patch.object(body, "time", clock):
        assert run(clock, receive()) == (wanted, received)


def test_a_file_in_a_text_has_the_room_of_its_own_kind() -> None:
    roles = {"input_reference": Role.first, "start_video": Role.start, "reference_audio": Role.audio}
    uris = {"start_video": "data:video/mp4;base64," + "A" * 400_000, "input_reference": "data:,", "reference_audio": ""}

    async def pieces() -> AsyncIterator[bytes]:
        text = json.dumps({"prompt": "x", **uris}).encode()
        for start in range(0, len(text), 10_000):
            yield text[start : start + 10_000]

    most = {Kind.image: 1000, Kind.video: 300_000, Kind.audio: 1000}
    rest, given_files = asyncio.run(body.parse_json(pieces(), roles, most))  # type: ignore[arg-type]
    assert rest == {"prompt": "x"}
    assert {name: contents(file).decode() for name, file in given_files.items()} == uris


@pytest.mark.parametrize(("length", "status"), [(MOST, 200), (MOST + 1, 413)])
def test_a_body_that_says_that_it_is_too_long_is_not_read(length: int, status: int) -> None:
    async def stream() -> AsyncIterator[bytes]:
        assert status == 200, "it is read"
        yield b"x"

    async def receive() -> int:
        request: Any = SimpleNamespace(headers={"content-length": str(length)}, stream=stream)
        try:
            return 200 if [piece async for piece in body.incoming(request, MOST, Any)] == [b"x"] else 0  # type: ignore[arg-type]
        except ApiError as error:
            return error.status

    assert asyncio.run(receive()) == status
