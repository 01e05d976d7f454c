"""A sound in a request, which the video's is to follow: how it is taken, what is kept, what is refused."""

import json
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from adaspa_client import Client
from adaspa_command import adaspa
from adaspa_jobs.settings import Settings
from adaspa_worker.sound import Sound
from drawn import picture
from filmed import filmed
from http_server import serving_file
from recorded import recorded, tone
from refusals import check_refused
from running_gateway import Service, data_uri, demo_catalog, serving
from waiting import until

LIMIT = 1_200_000
FPS, FRAMES = 8, 33
MODELS = {
    "hears": {"tasks": ["reference_to_video", "reference_audio_to_video"], "frames": [17, 33]},
    "sees": {"tasks": ["text_to_video", "reference_to_video"]},
}

sound_uri = partial(data_uri, kind="audio/wav")
SOMEBODY = data_uri(picture(200, 104))


@cache
def voice() -> bytes:
    """A WAV file of six seconds."""
    return recorded(seconds=6)


@pytest.fixture(scope="module")
def gateway(valkey_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One gateway with a model that takes a sound, and one that does not."""
    folder = tmp_path_factory.mktemp("gateway")
    settings = Settings(
        redis_url=f"unix://{valkey_socket}?db=0",
        storage_url=str(folder / "objects"),
        catalog=demo_catalog(folder / "catalog.json", MODELS),
        audio_bytes=LIMIT,
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
def sounds() -> Iterator[str]:
    """The address of a server of one sound, and of a page."""
    with serving_file(voice(), "audio/wav", {"/page": "text/html", "/image": "image/png"}) as port:
        yield f"http://sounds.example.com:{port}"


def post(service: Service, **fields: Any) -> httpx.Response:
    body = {"prompt": "a red circle", "fps": FPS, "num_frames": FRAMES, "reference_image": SOMEBODY, **fields}
    return service.http.post("/v1/videos", json={name: value for name, value in body.items() if value is not None})


def kept(service: Service, video: dict[str, Any], folder: Path) -> Sound:
    """The sound of a job, as its worker reads it, by the URL that the video shows."""
    (given,) = (each for each in video["inputs"] if each["role"] == "audio")
    response = service.http.get(given["url"])
    assert (response.status_code, response.headers["content-type"]) == (200, "audio/flac"), response.text
    (path := folder / "kept.flac").write_bytes(response.content)
    sound = Sound.read(path)
    assert given["width"] is given["height"] is given["frames"] is None
    assert given["seconds"] == pytest.approx(sound.samples.shape[1] / sound.rate, abs=0.001)
    return sound


@pytest.mark.parametrize("way", ["file", "form text", "json", "url", "conditions"])
def test_a_sound_is_taken_as_each_client_sends_it(service: Service, sounds: str, tmp_path: Path, way: str) -> None:
    uri = sound_uri(voice())
    picture_too = {"role": "reference", "url": SOMEBODY}
    fields: dict[str, Any] = {
        "json": {"reference_audio": uri},
        "url": {"reference_audio": f"{sounds}/good"},
        "conditions": {
            "reference_image": None,
            "conditions": [picture_too, {"role": "reference", "kind": "audio", "url": uri}],
        },
    }
    files: dict[str, Any] = {"file": ("a.wav", voice(), "audio/wav"), "form text": (None, uri)}
    if way in files:
        form = {"prompt": "a red circle", "fps": str(FPS), "num_frames": str(FRAMES), "reference_image": SOMEBODY}
        response = service.http.post("/videos", data=form, files={"reference_audio": files[way]})
    else:
        response = post(service, **fields[way])
    assert response.status_code == 200, response.text
    video = response.json()
    assert (video["task"], video["size"]) == ("reference_audio_to_video", "128x128")
    sound, seconds = kept(service, video, tmp_path), FRAMES / FPS
    assert sound.rate == 44_100
    np.testing.assert_allclose(sound.samples, tone(6, 44_100)[:, : int(seconds * 44_100)], atol=1 / 32_000)


def test_client_and_command_send_a_file(service: Service, tmp_path: Path) -> None:
    path, image = tmp_path / "voice.wav", tmp_path / "somebody.png"
    path.write_bytes(voice())
    image.write_bytes(picture(200, 104))
    with Client(service.url) as client:
        for given in (str(path), sound_uri(voice())):
            made = client.create("a red circle", reference_image=str(image), reference_audio=given, fps=FPS)
            assert made.task == "reference_audio_to_video"
    asked = ("generate", "a red circle", "--fps", str(FPS), "--detach", "--json", "--server", service.url)
    done = adaspa(*asked, "--reference-image", str(image), "--reference-audio", str(path))
    assert {each["role"] for each in json.loads(done.stdout)["inputs"]} == {"reference", "audio"}, done.stderr


@pytest.mark.parametrize(
    "how",
    [
        {"kind": "wav", "codec": "pcm_f32le", "channels": 2},
        {"kind": "flac", "codec": "flac", "rate": 96_000},
        {"kind": "mp3", "codec": "libmp3lame", "channels": 2},
        {"kind": "ipod", "codec": "aac"},
        {"kind": "ipod", "codec": "alac"},
        {"kind": "adts", "codec": "aac"},
        {"kind": "ogg", "codec": "libopus", "rate": 48_000},
    ],
    ids=lambda how: "-".join([how["kind"], how["codec"]]),
)
def test_each_kind_of_file_is_kept_at_its_own_rate(service: Service, tmp_path: Path, how: dict[str, Any]) -> None:
    response = post(service, reference_audio=sound_uri(recorded(**how)))
    assert response.status_code == 200, response.text
    sound = kept(service, response.json(), tmp_path)
    assert (sound.rate, len(sound.samples)) == (how.get("rate", 44_100), how.get("channels", 1))
    assert 2.9 < sound.samples.shape[1] / sound.rate < 3.2
    spectrum = np.abs(np.fft.rfft(sound.samples, axis=1))
    heard = spectrum.argmax(axis=1) * sound.rate / sound.samples.shape[1]
    np.testing.assert_allclose(heard, [440 * 2**n for n in range(len(sound.samples))], rtol=0.01)


def test_a_sound_goes_with_its_job(service: Service) -> None:
    video = post(service, reference_audio=sound_uri(voice())).json()
    assert len(service.parts.storage.keys("inputs/")) == 2
    assert service.http.delete(f"/videos/{video['id']}").is_success
    until(lambda: not service.parts.storage.keys(""), "its image and its sound go")


def test_a_remix_has_the_same_sound(service: Service) -> None:
    video = post(service, reference_audio=sound_uri(voice())).json()
    remixed = service.http.post(f"/videos/{video['id']}/remix", json={"prompt": "a blue circle"}).json()
    assert remixed["task"] == "reference_audio_to_video"
    assert [each["sha256"] for each in remixed["inputs"]] == [each["sha256"] for each in video["inputs"]]


def wav(samples: np.ndarray) -> bytes:
    """A WAV file of these samples, which FFmpeg writes as they are."""
    head = recorded(codec="pcm_f32le", seconds=1)
    return head[: -44_100 * 4] + np.resize(samples, 44_100).astype("<f4").tobytes()


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "an image": ({"reference_audio": sound_uri(picture(8, 8))}, "reference_audio", "is not a sound; allowed: a WAV"),
    "an image by its type": (
        {"reference_audio": SOMEBODY},
        "reference_audio",
        "'image/png'; allowed: a WAV",
    ),
    "a silent video": ({"reference_audio": sound_uri(filmed())}, "reference_audio", "contains no sound"),
    "nothing": ({"reference_audio": sound_uri(b"")}, "reference_audio", "is empty"),
    "noise": ({"reference_audio": sound_uri(b"\xff\xfb" + bytes(5000))}, "reference_audio", "is damaged or incomplete"),
    "half a WAV": ({"reference_audio": sound_uri(voice()[:100_000])}, "reference_audio", "is damaged or incomplete"),
    "half a FLAC": (
        {"reference_audio": sound_uri(recorded("flac", "flac")[:20_000])},
        *("reference_audio", "is damaged or incomplete"),
    ),
    "half an M4A": (
        {"reference_audio": sound_uri(recorded("ipod", "aac")[:10_000])},
        *("reference_audio", "is damaged or incomplete"),
    ),
    "too short": ({"reference_audio": sound_uri(recorded(seconds=0.2))}, "reference_audio", "allowed: 0.5 s or more"),
    "six channels": (
        {"reference_audio": sound_uri(recorded(channels=6, seconds=1))},
        *("reference_audio", "has 6 channels; allowed: mono or stereo"),
    ),
    "a telephone's rate": (
        {"reference_audio": sound_uri(recorded(rate=4000))},
        *("reference_audio", "has 4000 samples per second; allowed: 8000 to 192000"),
    ),
    "another codec": (
        {"reference_audio": sound_uri(recorded(codec="pcm_mulaw"))},
        *("reference_audio", "is in pcm_mulaw"),
    ),
    "no numbers": (
        {"reference_audio": sound_uri(wav(np.array([np.nan], np.float32)))},
        *("reference_audio", "no numbers"),
    ),
    "no image": (
        {"reference_audio": sound_uri(voice()), "reference_image": None},
        *("reference_image", "required by model hears"),
    ),
    "another model": (
        {"reference_audio": sound_uri(voice()), "model": "sees", "num_frames": None},
        *(
            "reference_audio",
            "it supports: text_to_video, reference_to_video; models that take this audio: hears",
        ),
    ),
    "two": (
        {
            "reference_audio": sound_uri(voice()),
            "conditions": [{"role": "reference", "kind": "audio", "url": "http://a.example.com"}],
        },
        *("reference_audio", "given more than once"),
    ),
    "a path": ({"reference_audio": "/etc/passwd"}, "reference_audio", "is not a sound; allowed: an http or https URL"),
    "too large": (
        {"reference_audio": sound_uri(recorded(seconds=14))},
        "reference_audio",
        f"up to {LIMIT} bytes",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_sound_is_refused_and_nothing_stays(service: Service, name: str) -> None:
    fields, param, allowed = BAD[name]
    check_refused(service, post(service, **fields), 413 if name == "too large" else 400, param, allowed)
    assert service.parts.storage.keys("") == []


@pytest.mark.parametrize(("path", "said"), [("page", "text/html"), ("image", "image/png")])
def test_a_url_that_says_it_has_something_else_is_refused(service: Service, sounds: str, path: str, said: str) -> None:
    response = post(service, reference_audio=f"{sounds}/{path}")
    check_refused(service, response, 400, "reference_audio", f"the URL's content is '{said}'; allowed: a WAV")
    assert service.parts.storage.keys("") == []


def test_a_strip_is_no_reference(service: Service) -> None:
    response = post(service, reference_image=data_uri(picture(500, 100)))
    check_refused(service, response, 400, "reference_image", "is 500x100; allowed: a shape between 1:4 and 4:1")
