"""A video in a request, which the one that is made goes on from: how it is taken, what is kept, what is refused."""

import json
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import av
import httpx
import pytest
from adaspa_client import Client
from adaspa_command import adaspa
from adaspa_jobs.settings import Settings
from drawn import assert_corners, picture
from filmed import filmed, frames_in, number_of
from http_server import serving_file
from PIL import Image
from recorded import recorded
from refusals import check_refused
from running_gateway import Service, data_uri, demo_catalog, serving
from waiting import until

LIMIT = 300_000
FPS, FRAMES, TAKEN = 8, 33, 17
MODELS = {
    "goes-on": {
        "tasks": ["text_to_video", "image_to_video", "video_continuation"],
        "sizes": ["64x64", "128x64", "64x128"],
        "frames": [17, 33],
        "start_frames": TAKEN,
    },
    "text": {},
}


video_uri = partial(data_uri, kind="video/mp4")


@cache
def wide() -> bytes:
    """A video of 40 frames, 8 a second."""
    return filmed()


@pytest.fixture(scope="module")
def gateway(valkey_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One gateway with a model that goes on from a video, and one that does not."""
    folder = tmp_path_factory.mktemp("gateway")
    settings = Settings(
        redis_url=f"unix://{valkey_socket}?db=0",
        storage_url=str(folder / "objects"),
        catalog=demo_catalog(folder / "catalog.json", MODELS),
        video_bytes=LIMIT,
        video_pixels=100_000,
        video_frames=200,
        image_networks="127.0.0.1/32",
        open_access=True,
    )
    with serving(settings, folder, lambda *_: ["127.0.0.1"]) as running:
        yield running


@pytest.fixture
def service(emptied: Service) -> Service:
    """The gateway with nothing in its store and its storage."""
    return emptied


@pytest.fixture(scope="module")
def videos() -> Iterator[str]:
    """The address of a server of one video, and of a page."""
    with serving_file(wide(), "video/mp4", {"/page": "text/html"}) as port:
        yield f"http://videos.example.com:{port}"


def post(service: Service, **fields: Any) -> httpx.Response:
    return service.http.post("/v1/videos", json={"prompt": "a red circle", "fps": FPS, **fields})


def kept(service: Service, video: dict[str, Any]) -> list[Image.Image]:
    """The frames that a video begins with, by the URL that it shows."""
    (given,) = video["inputs"]
    response = service.http.get(given["url"])
    assert (response.status_code, response.headers["content-type"]) == (200, "video/webm"), response.text
    frames = frames_in(response.content)
    assert (given["role"], given["frames"], len(frames)) == ("start", TAKEN, TAKEN)
    assert {frame.size for frame in frames} == {(given["width"], given["height"])}
    return frames


@pytest.mark.parametrize("way", ["file", "form text", "json", "url", "conditions"])
def test_a_video_is_taken_as_each_client_sends_it(service: Service, videos: str, way: str) -> None:
    uri = video_uri(wide())
    fields: dict[str, Any] = {
        "json": {"start_video": uri},
        "url": {"start_video": f"{videos}/good"},
        "conditions": {"conditions": [{"role": "first", "kind": "video", "url": uri}]},
    }
    files: dict[str, Any] = {"file": ("a.mp4", wide(), "video/mp4"), "form text": (None, uri)}
    if way in files:
        form = {"prompt": "a red circle", "fps": str(FPS)}
        response = service.http.post("/videos", data=form, files={"start_video": files[way]})
    else:
        response = post(service, **fields[way])
    assert response.status_code == 200, response.text
    video = response.json()
    assert (video["task"], video["size"], video["num_frames"]) == ("video_continuation", "128x64", FRAMES)
    frames = kept(service, video)
    assert [number_of(frame) for frame in frames] == list(range(40 - TAKEN, 40))
    assert_corners(frames[0])


def test_client_and_command_send_a_file(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "before.mp4"
    path.write_bytes(wide())
    with Client(service.url) as client:
        for given in (str(path), video_uri(wide())):
            assert client.create("a red circle", start_video=given, fps=FPS).task == "video_continuation"
    asked = ("generate", "a red circle", "--fps", str(FPS), "--detach", "--json", "--server", service.url)
    made = adaspa(*asked, "--start-video", str(path))
    assert json.loads(made.stdout)["inputs"][0]["frames"] == TAKEN, made.stderr


@pytest.mark.parametrize(
    "how",
    [
        {"kind": "mov"},
        {"kind": "mp4", "codec": "libx265", "options": {"movflags": "+faststart"}},
        {"kind": "webm", "codec": "libvpx-vp9"},
        {"kind": "matroska", "codec": "libvpx"},
        {"kind": "mp4", "codec": "libsvtav1"},
    ],
    ids=lambda how: "-".join([how["kind"], how.get("codec", "libx264")]),
)
def test_the_last_frames_of_each_kind_of_file_are_kept(service: Service, how: dict[str, Any]) -> None:
    frames = kept(service, post(service, start_video=video_uri(filmed(30, **how))).json())
    assert [number_of(frame) for frame in frames] == list(range(30 - TAKEN, 30))


@pytest.mark.parametrize(
    ("frames", "seconds", "how"),
    [
        (20, -0.3, {"kind": "mp4"}),
        (30, -1.3, {"kind": "mov"}),
        (40, -1.6, {"kind": "mp4", "codec": "libx265"}),
        (20, 10, {"kind": "mp4"}),
        (20, 10, {"kind": "webm", "codec": "libvpx-vp9"}),
        (20, 10, {"kind": "matroska"}),
    ],
    ids=str,
)
def test_a_video_whose_beginning_was_cut_away_or_comes_late_is_whole(
    service: Service, frames: int, seconds: float, how: dict[str, Any]
) -> None:
    """As phones and FFmpeg cut without encoding anew: what is cut away is there, and is not shown."""
    index_first = {"movflags": "+faststart"} if how["kind"] in ("mp4", "mov") else {}
    film = filmed(frames, **how, options={"output_ts_offset": str(seconds), **index_first})
    check_refused(service, post(service, start_video=video_uri(film[:-900])), 400, "start_video", "damaged")
    found = kept(service, post(service, start_video=video_uri(film)).json())
    assert [number_of(frame) for frame in found] == list(range(frames - TAKEN, frames))


def test_a_video_whose_end_was_cut_away_ends_there(service: Service) -> None:
    film = filmed(40)
    seconds = film.index(b"elst") + 12  # the length of its only part, in thousandths
    film = film[:seconds] + (2500).to_bytes(4, "big") + film[seconds + 4 :]
    found = kept(service, post(service, start_video=video_uri(film)).json())
    assert [number_of(frame) for frame in found] == list(range(20 - TAKEN, 20))


@pytest.mark.parametrize("how", [{"kind": "mp4"}, {"kind": "webm", "codec": "libvpx-vp9"}], ids=str)
@pytest.mark.parametrize("seconds", [0.5, 8])
def test_a_video_may_have_a_sound_that_is_shorter_or_longer(
    service: Service, how: dict[str, Any], seconds: float
) -> None:
    """Its packets, of which there are more than a video may have frames, are none of the video's."""
    found = kept(service, post(service, start_video=video_uri(filmed(30, **how, sound=seconds))).json())
    assert [number_of(frame) for frame in found] == list(range(30 - TAKEN, 30))


@pytest.mark.parametrize("seconds", [0, 10])
def test_a_file_whose_sound_was_cut_off_is_not_whole(service: Service, seconds: int) -> None:
    """Though all of its frames are there; also one whose time does not begin at 0."""
    film = filmed(20, sound=8, options={"movflags": "+faststart", "output_ts_offset": str(seconds)})
    with av.open(BytesIO(film)) as container:
        ends = sorted((packet.pos or 0) + packet.size for packet in container.demux() if packet.size)
    cut = post(service, start_video=video_uri(film[: ends[-100]]))
    check_refused(service, cut, 400, "start_video", "damaged or incomplete")
    assert kept(service, post(service, start_video=video_uri(film)).json())


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box of an MP4 file."""
    return (8 + sum(map(len, parts))).to_bytes(4, "big") + kind + b"".join(parts)


def with_cover(film: bytes) -> bytes:
    """The file with a picture of its own before its tracks, as programs for music and films add one."""
    begins = film.index(b"moov") - 4
    size, first = (int.from_bytes(film[at : at + 4], "big") for at in (begins, begins + 8))
    index, head = film[begins : begins + size], begins + 8 + first
    kind = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    cover = box(b"covr", box(b"data", (14).to_bytes(4, "big") + bytes(4), picture(64, 64)))
    more = box(b"udta", box(b"meta", bytes(4), kind, box(b"ilst", cover)))
    return film[:begins] + box(b"moov", index[8 : head - begins], more, index[head - begins :])


def test_a_picture_of_the_file_is_not_its_video(service: Service) -> None:
    alone = with_cover(recorded("ipod", "aac"))
    check_refused(service, post(service, start_video=video_uri(alone)), 400, "start_video", "contains no video")
    found = kept(service, post(service, start_video=video_uri(with_cover(filmed(20)))).json())
    assert [number_of(frame) for frame in found] == list(range(20 - TAKEN, 20))


def test_no_packet_may_lack_at_the_end(service: Service) -> None:
    whole = filmed(options={"movflags": "+faststart"})
    with av.open(BytesIO(whole)) as container:
        ends = sorted(packet.pos + packet.size for packet in container.demux(video=0) if packet.size)
    assert ends[-1] == len(whole)
    for end in ends[-4:-1]:
        response = post(service, start_video=video_uri(whole[:end]))
        check_refused(service, response, 400, "start_video", "is damaged or incomplete")


@pytest.mark.parametrize("which", [-17, -3, -1])
def test_a_frame_that_is_broken_is_refused_though_the_file_is_whole(service: Service, which: int) -> None:
    film = bytearray(filmed())
    with av.open(BytesIO(film)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][which]
    assert packet.pos is not None
    begin = packet.pos + packet.size // 2
    film[begin : packet.pos + packet.size] = bytes(packet.pos + packet.size - begin)
    check_refused(service, post(service, start_video=video_uri(bytes(film))), 400, "start_video", "damaged")
    assert service.parts.storage.keys("") == []


@pytest.mark.parametrize("number", [4, 12, 16, 22, 24, 36])
def test_a_video_is_refused_where_a_frame_is_broken_by_which_others_are_decoded(service: Service, number: int) -> None:
    """It is none of those that are taken; H.264's decoder makes up what it lacks."""
    film = bytearray(filmed(40, 2 * FPS))
    with av.open(BytesIO(film)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    packet = next(each for each in packets if (each.pts or 0) * (each.time_base or 0) == Fraction(number, 2 * FPS))
    assert packet.pos is not None
    begin, end = packet.pos + packet.size // 3, packet.pos + packet.size
    film[begin:end] = Random(number).randbytes(end - begin)
    response = post(service, start_video=video_uri(bytes(film)))
    told = f"start_video: is damaged at {number / (2 * FPS):.2f} s; allowed: a video without damage"
    check_refused(service, response, 400, "start_video", told)


@pytest.mark.parametrize("number", [18, 23, 27])
def test_a_frame_that_the_decoder_leaves_out_is_named_by_its_time(service: Service, number: int) -> None:
    film = bytearray(filmed(33, codec="libx265"))
    with av.open(BytesIO(film)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    packet = next(each for each in packets if (each.pts or 0) * (each.time_base or 0) == Fraction(number, FPS))
    assert packet.pos is not None
    film[packet.pos + 4] |= 0x80  # no HEVC has such a unit
    response = post(service, start_video=video_uri(bytes(film)))
    check_refused(service, response, 400, "start_video", "s; allowed: a video without damage")
    told = re.search(r"is damaged at (\d\.\d\d) s", response.json()["error"]["message"])
    assert told and abs(float(told[1]) - number / FPS) < 0.6, "frames are decoded in another order"


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx", "libvpx-vp9"])
@pytest.mark.parametrize("lacking", [1, 5])
def test_a_video_may_begin_behind_its_first_keyframe(service: Service, codec: str, lacking: int) -> None:
    """As a stream from which a part was cut, also within frames that go by the keyframe behind them (open GOP)."""
    found = BytesIO()
    with av.open(BytesIO(filmed(40, kind="matroska", codec=codec))) as whole, av.open(found, "w", "matroska") as cut:
        stream = cut.add_stream_from_template(whole.streams.video[0])
        for packet in [packet for packet in whole.demux(video=0) if packet.size][lacking:]:
            packet.stream = stream
            cut.mux(packet)
    frames = kept(service, post(service, start_video=video_uri(found.getvalue())).json())
    assert [number_of(frame) for frame in frames] == list(range(40 - TAKEN, 40))


def test_frames_are_taken_at_the_asked_rate(service: Service) -> None:
    faster = kept(service, post(service, start_video=video_uri(filmed(34, 2 * FPS))).json())
    assert [number_of(frame) for frame in faster] == list(range(1, 34, 2))
    like = kept(service, post(service, start_video=video_uri(filmed(20, Fraction(FPS * 1000, 1001)))).json())
    assert [number_of(frame) for frame in like] == list(range(3, 20))


def test_a_video_is_turned_and_fitted(service: Service) -> None:
    """As phones hold them: on their side, with a mark of how to turn them."""
    asked = {"start_video": video_uri(filmed(20, turned=-90))}
    upright = post(service, **asked).json()
    assert upright["size"] == "64x128"
    assert_corners(kept(service, upright)[0].rotate(90, expand=True))
    contained = kept(service, post(service, **asked, size="64x64", fit="contain").json())[0]
    assert contained.getpixel((2, 32)) == (0, 0, 0) and contained.getpixel((32, 32)) != (0, 0, 0)


@pytest.mark.parametrize(
    ("pixels", "size"), [(Fraction(1, 2), "64x64"), (Fraction(1, 4), "64x128"), (Fraction(2), "128x64")], ids=str
)
def test_a_video_has_the_shape_in_which_it_is_shown(service: Service, pixels: Fraction, size: str) -> None:
    """Not that in which it is stored, of pixels that are no squares."""
    video = post(service, start_video=video_uri(filmed(20, pixels=pixels))).json()
    assert video["size"] == size
    assert_corners(kept(service, video)[0])


def test_a_video_is_shared_and_goes_with_the_last_job(service: Service) -> None:
    batch = post(service, start_video=video_uri(wide()), n=2).json()["data"]
    remixed = service.http.post(f"/videos/{batch[0]['id']}/remix", json={"prompt": "a blue circle"}).json()
    assert remixed["task"] == "video_continuation" and remixed["inputs"][0]["sha256"] == batch[0]["inputs"][0]["sha256"]
    link = service.http.get(f"/videos/{remixed['id']}/link", params={"variant": "start_video"}).json()["url"]
    assert httpx.get(link).headers["content-type"] == "video/webm"
    assert len(service.parts.storage.keys("inputs/")) == 1
    again = post(service, start_video=video_uri(httpx.get(link).content)).json()
    assert again["inputs"][0]["sha256"] == batch[0]["inputs"][0]["sha256"], "what was kept can be sent again"
    for video in (*batch, remixed, again):
        service.http.delete(f"/videos/{video['id']}")
    until(lambda: not service.parts.storage.keys("inputs/"), "it goes with the last job")


BAD: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "no video": (lambda: {"start_video": video_uri(b"a red circle")}, "is not a video; allowed: an MP4"),
    "empty": (lambda: {"start_video": "data:video/mp4;base64,"}, "is empty"),
    "cut off": (lambda: {"start_video": video_uri(wide()[: len(wide()) // 2])}, "damaged or incomplete"),
    "cut off behind its index": (
        lambda: {"start_video": video_uri(filmed(options={"movflags": "+faststart"})[:-2000])},
        "damaged or incomplete",
    ),
    "cut off in WebM": (
        lambda: {"start_video": video_uri(filmed(kind="webm", codec="libvpx-vp9")[:3000])},
        "damaged or incomplete",
    ),
    "cut off in its index": (
        lambda: {"start_video": video_uri(filmed(20, kind="mov")[:-600])},
        "is damaged, or in an unknown codec",
    ),
    "an image": (lambda: {"start_video": video_uri(picture())}, "is not a video; allowed: an MP4"),
    "an image by its type": (lambda: {"start_video": data_uri(picture())}, "is 'image/png'"),
    "a playlist": (lambda: {"start_video": video_uri(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")}, "is not a video"),
    "another codec": (lambda: {"start_video": video_uri(filmed(codec="mpeg4"))}, "is in mpeg4; allowed: an MP4"),
    "too short": (
        lambda: {"start_video": video_uri(filmed(TAKEN - 1))},
        "has 16 frames at 8 FPS; allowed: 17 or more",
    ),
    "too slow": (lambda: {"start_video": video_uri(filmed(40, 4))}, "has fewer than 8 frames per second"),
    "too long": (
        lambda: {"start_video": video_uri(filmed(210, size=(64, 64)))},
        "has over 200 frames; allowed: up to 200",
    ),
    "too many pixels": (lambda: {"start_video": video_uri(filmed(20, size=(400, 300)))}, "is 400x300, 120000 pixels"),
    "a large file": (
        lambda: {"start_video": video_uri(bytes(LIMIT + 1))},
        f"is too large; allowed: up to {LIMIT} bytes",
    ),
    "a path": (lambda: {"start_video": "/etc/passwd"}, "an http or https URL"),
    "twice": (
        lambda: {"start_video": video_uri(wide()), "conditions": [{"role": "first", "kind": "video", "url": "x"}]},
        "more than once",
    ),
    "beside an image": (
        lambda: {"start_video": video_uri(wide()), "input_reference": data_uri(picture())},
        "model goes-on does not support this combination of inputs; it supports: text_to_video, image_to_video",
    ),
    "a whole clip": (
        lambda: {"start_video": video_uri(wide()), "num_frames": 17},
        "its last 17 frames begin the clip, which has 17",
    ),
    "a model of texts": (
        lambda: {"start_video": video_uri(wide()), "model": "text"},
        "does not take this video; it supports: text_to_video",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_video_is_refused_and_nothing_stays(service: Service, name: str) -> None:
    fields, allowed = BAD[name]
    response = post(service, **fields())
    param = "input_reference" if name == "beside an image" else "start_video"
    check_refused(service, response, 413 if "large" in name else 400, param, allowed)
    assert service.parts.storage.keys("") == []


def test_what_a_refused_video_is_called(service: Service, videos: str) -> None:
    """Its error has the code of a video, and so has a page at its URL, and a form's file that is too large."""
    large = service.http.post("/videos", data={"prompt": "x"}, files={"start_video": ("a.mp4", bytes(LIMIT + 1))})
    assert (large.status_code, large.json()["error"]["code"]) == (413, "video_too_large")
    page = post(service, start_video=f"{videos}/page").json()["error"]
    assert page["code"] == "invalid_video" and "content is 'text/html'" in page["message"]
    image = post(service, input_reference=video_uri(wide())).json()["error"]
    assert (image["code"], image["param"]) == ("invalid_image", "input_reference")
