"""Files of a request on their way into storage: by which limit, noted when, and all of them or none."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest
from adaspa_api.words import Fit, Kind, Role
from adaspa_jobs.job import Input
from adaspa_jobs.settings import Settings
from adaspa_jobs.storage import ObjectStorage, StorageUnavailable, inputs_prefix
from adaspa_service.inputs.clips import Tail
from adaspa_service.inputs.keep import FOLDER, BadInput, Inputs, Used
from adaspa_service.inputs.source import Source, Url, uploaded
from drawn import picture
from filmed import filmed
from http_server import serving_file
from PIL import Image
from recorded import recorded

LIMITS = {Kind.image: 1000, Kind.video: 2000, Kind.audio: 3000}
Sources = Mapping[Role, Source]


class Kept:
    """Inputs of a gateway, and what they note and store."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.storage, self.noted = ObjectStorage(str(folder)), list[str]()
        own = Settings.model_validate({"image_networks": "127.0.0.1/32"} | settings)
        self.inputs = Inputs(own, self.storage, lambda host, _: [host], self.note)
        self.sizes: list[tuple[int, int]] = []

    def note(self, folder: str) -> None:
        assert FOLDER.fullmatch(folder) and not self.storage.keys(inputs_prefix(folder)), "it is noted too late"
        self.noted.append(folder)

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        self.sizes.append((width, height))
        return 64, 32

    def take(self, sources: Sources, fit: Fit = Fit.cover) -> tuple[Input, ...]:
        used = Used(Tail(9, 8), 2.0)
        return asyncio.run(self.inputs.take(sources, "open", self.size_of, fit, used))

    def refused(self, sources: Sources) -> BadInput:
        with pytest.raises(BadInput) as caught:
            self.take(sources)
        assert not self.noted and not self.storage.keys("")
        return caught.value


@contextmanager
def keeping(folder: Path, **settings: Any) -> Iterator[Kept]:
    kept = Kept(folder, **settings)
    yield kept
    kept.inputs.close()


@pytest.mark.parametrize(("role", "limit"), [(role, LIMITS[role.kind]) for role in Role])
def test_a_file_by_url_has_the_limit_of_its_kind(tmp_path: Path, role: Role, limit: int) -> None:
    for size, said in ((limit, "is not "), (limit + 1, f"is too large; allowed: up to {limit} bytes")):
        with (
            serving_file(b"x" * size, "application/octet-stream", {}) as port,
            keeping(tmp_path, **{f"{kind}_bytes": most for kind, most in LIMITS.items()}) as kept,
        ):
            bad = kept.refused({role: Url(f"http://127.0.0.1:{port}/")})
            assert bad.role is role and str(bad.why).startswith(said) and str(bad) == str(bad.why)


FILES: dict[Role, Callable[[], bytes]] = {
    Role.first: lambda: picture(200, 104),
    Role.last: lambda: picture(64, 200),
    Role.start: lambda: filmed(12),
    Role.reference: lambda: picture(90, 60),
    Role.audio: lambda: recorded(seconds=3),
}


def sources(*roles: Role) -> dict[Role, Source]:
    return {role: uploaded(BytesIO(FILES[role]())) for role in roles}


def test_files_lie_in_one_new_folder_each_as_its_role_wants_it(tmp_path: Path) -> None:
    with keeping(tmp_path) as kept:
        found = {each.role: each for each in kept.take(sources(*Role))}
        (folder,) = kept.noted
        assert sorted(kept.storage.keys("")) == sorted(each.key for each in found.values())
        names = {"first": ".png", "last": ".png", "start": ".webm", "reference": ".png", "audio": ".flac"}
        assert {role: each.key for role, each in found.items()} == {
            role: f"inputs/{folder}/{role}{ending}" for role, ending in names.items()
        }
        told = {role: (each.width, each.height, each.frames, each.seconds) for role, each in found.items()}
        assert told == {
            **dict.fromkeys((Role.first, Role.last), (64, 32, 1, None)),
            Role.start: (64, 32, 9, None),
            Role.reference: (90, 60, 1, None),
            Role.audio: (None, None, None, 2.0),
        }
        assert kept.sizes == [(200, 104)], "the first one of the frames chooses the size, and once"
        kinds = {role: each.content_type for role, each in found.items()}
        assert kinds == {
            **dict.fromkeys((Role.first, Role.last, Role.reference), "image/png"),
            Role.start: "video/webm",
            Role.audio: "audio/flac",
        }
        again = kept.take(sources(Role.reference))
        assert len({*kept.noted}) == 2 and kept.sizes == [(200, 104)], "a reference chooses no size"
        assert again[0].sha256 == found[Role.reference].sha256


@pytest.mark.parametrize("bad", Role)
def test_one_that_cannot_be_taken_is_named_and_none_is_stored(tmp_path: Path, bad: Role) -> None:
    with keeping(tmp_path) as kept:
        given = sources(*Role) | {bad: uploaded(BytesIO(b"nonsense"))}
        assert kept.refused(given).role is bad


@pytest.mark.parametrize("broken", [1, 2, 3])
@pytest.mark.parametrize("error", [StorageUnavailable("away"), KeyboardInterrupt()], ids=["storage", "the end"])
def test_what_was_stored_before_one_that_could_not_be_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int, error: BaseException
) -> None:
    with keeping(tmp_path) as kept:
        put, stored = kept.storage.put_file, list[str]()

        def fail(key: str, *more: Any) -> Any:
            stored.append(key)
            if len(stored) == broken:
                raise error
            return put(key, *more)

        monkeypatch.setattr(kept.storage, "put_file", fail)
        with pytest.raises(type(error)):
            kept.take(sources(Role.first, Role.last, Role.reference))
        assert len(stored) == broken and len(kept.noted) == 1 and kept.storage.keys("") == []


def test_a_folder_that_cannot_be_noted_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with keeping(tmp_path) as kept:

        def fail(_: str) -> None:
            raise StorageUnavailable("Redis is away")

        monkeypatch.setattr(kept.inputs, "_note", fail)
        with pytest.raises(StorageUnavailable):
            kept.take(sources(Role.first))
        assert kept.storage.keys("") == []


def test_one_of_another_shape_is_cut_or_has_black_bars(tmp_path: Path) -> None:
    with keeping(tmp_path) as kept:
        for fit in Fit:
            (image,) = kept.take(sources(Role.last), fit)
            with Image.open(BytesIO(kept.storage.read(image.key))) as shown:
                assert (shown.getpixel((1, 16)) == (0, 0, 0)) is (fit is Fit.contain)


def test_one_request_at_a_time_has_its_files_decoded(tmp_path: Path) -> None:
    """Whatever comes at once: each may take some hundred MB."""
    met, both = list[int](), Barrier(2)

    def size_of(*_: int) -> tuple[int, int]:
        with suppress(BrokenBarrierError):
            met.append(both.wait(0.2))
        both.reset()
        return 64, 32

    with keeping(tmp_path) as kept:

        async def take(role: Role) -> tuple[Input, ...]:
            return await kept.inputs.take(sources(role), "open", size_of, Fit.cover, Used(Tail(9, 8), 2.0))

        async def take_all() -> list[tuple[Input, ...]]:
            return await asyncio.gather(*map(take, (Role.first, Role.last)))

        assert len(asyncio.run(take_all())) == 2 and met == []
