"""Links to files: they need no key, hold for a while, and open nothing else."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from adaspa_jobs.settings import Settings
from adaspa_service.access.keys import Scope
from adaspa_service.access.links import Links
from adaspa_service.errors import ApiError
from pydantic import SecretStr
from running_gateway import FILES, Service, serving
from s3_servers import URL, s3_server
from waiting import until

pytestmark = pytest.mark.asks
VIDEO = FILES["video"][2]
Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def owner(service: Service) -> Service:
    """The service, asked with a key."""
    _, token = service.parts.keys.create("test", frozenset(Scope))
    service.http.headers["Authorization"] = f"Bearer {token}"
    return service


def link(service: Service, video_id: str, **query: Any) -> str:
    """The address of a link."""
    response = service.http.get(f"/videos/{video_id}/link", params=query)
    assert response.status_code == 200, response.text
    url: str = response.json()["url"]
    return url


def code(response: httpx.Response) -> tuple[int, str]:
    """Status and error code."""
    return response.status_code, response.json()["error"]["code"]


@pytest.mark.parametrize("variant", FILES)
def test_a_link_gives_its_file_to_whoever_has_it(owner: Service, variant: str) -> None:
    url = link(owner, owner.completed(), variant=variant)
    whole = httpx.get(url)
    assert (whole.status_code, whole.content) == (200, FILES[variant][2])
    assert whole.headers["cross-origin-resource-policy"] == "cross-origin", "it may stand in another site's page"
    part = httpx.get(url, headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, FILES[variant][2][2:6])
    assert httpx.head(url).headers["content-length"] == str(len(FILES[variant][2]))
    assert httpx.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304


def test_a_link_expires(owner: Service) -> None:
    video_id = owner.completed()
    lasting, short = (
        owner.http.get(f"/v1/videos/{video_id}/link", params={"expires_in": seconds}).json() for seconds in (600, 1)
    )
    assert (lasting["object"], 0 < lasting["expires_at"] - time.time() <= 601) == ("video.link", True)
    assert httpx.get(lasting["url"]).status_code == 200
    until(lambda: time.time() > short["expires_at"], "the other's time is over")
    assert code(httpx.get(short["url"])) == (403, "link_expired")


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_a_link_lives_for_as_long_as_was_asked(owner: Service, monkeypatch: pytest.MonkeyPatch, part: float) -> None:
    video_id, now = owner.completed(), int(owner.store.now()) + part
    monkeypatch.setattr(owner.store, "now", lambda: now)
    for seconds in (1, 2, 600):
        made = owner.http.get(f"/videos/{video_id}/link", params={"expires_in": seconds}).json()
        assert 0 <= made["expires_at"] - (now + seconds) < 1, "and not a second longer"


def test_a_bad_link_does_not_tell_which_videos_there_are(owner: Service) -> None:
    done, waits, deleted = owner.completed(), owner.create()["id"], owner.completed()
    owner.http.delete(f"/videos/{deleted}")
    for query in ("expires=99999999999&signature=AAAA", "signature=AAAA", "expires=1&signature=AAAA"):
        answers = {
            code(httpx.get(f"{owner.url}/videos/{video_id}/content?{query}"))
            for video_id in (done, waits, deleted, f"video_{0:032x}", "nonsense")
        }
        assert len(answers) == 1 and answers.pop()[0] == 403, answers


def test_a_link_opens_nothing_else(owner: Service) -> None:
    video_id, other_id = owner.completed(), owner.completed()
    url = httpx.URL(link(owner, video_id))
    later = str(int(url.params["expires"]) + 1)
    signature = url.params["signature"]
    for changed in (
        str(url).replace(video_id, other_id),
        str(url.copy_set_param("variant", "thumbnail")),
        str(url.copy_set_param("expires", later)),
        str(url.copy_set_param("expires", "1")),
        str(url.copy_remove_param("expires")),
        str(url.copy_set_param("signature", signature[:-1])),
        str(url.copy_set_param("signature", "")),
        str(url.copy_set_param("signature", "é" * 43)),
    ):
        assert code(httpx.get(changed)) == (403, "invalid_link"), changed
    assert code(httpx.get(url.copy_remove_param("signature"))) == (401, "missing_api_key")
    assert code(httpx.get(url.copy_set_param("signature", "x" * 65))) == (400, "invalid_value")
    for path in ("", "/events", "/link"):
        asked = httpx.get(f"{owner.url}/videos/{video_id}{path}", params=dict(url.params))
        assert code(asked) == (401, "missing_api_key")


def test_only_the_owner_makes_links_and_only_to_files_there_are(owner: Service) -> None:
    video_id = owner.completed()
    _, token = owner.parts.keys.create("another", frozenset(Scope))
    other = {"Authorization": f"Bearer {token}"}
    path = f"/videos/{video_id}/link"
    assert code(owner.http.get(path, headers=other)) == (404, "video_not_found")
    assert code(owner.http.get(path, params={"variant": "../video"})) == (400, "invalid_value")
    assert code(owner.http.get(path, params={"expires_in": 8 * 86400})) == (400, "invalid_value")
    assert code(owner.http.get(f"/videos/{owner.create()['id']}/link")) == (409, "video_not_ready")


def test_a_link_holds_with_a_later_version_too(settings: Settings) -> None:
    links = Links(settings.model_copy(update={"signing_secret": SecretStr("s" * 40)}), None)  # type: ignore[arg-type]
    signature = "PMMhfoBWw-1wLvPjVSCZDNEvqDWz8J-FfXz5oJ-_BFY"
    assert links.sign("video_1", "video", 1700000000) == signature
    links.check("video_1", "video", 1700000000, signature, 1699999999.9)
    for now in (1700000000.0, 1700000001.0):
        with pytest.raises(ApiError, match="the link has expired"):
            links.check("video_1", "video", 1700000000, signature, now)


def test_a_link_ends_with_its_video(owner: Service) -> None:
    video_id = owner.completed()
    url = link(owner, video_id)
    owner.http.delete(f"/videos/{video_id}")
    assert code(httpx.get(url)) == (404, "video_not_found")


def test_a_link_ends_with_its_key(owner: Service) -> None:
    keys, mine = owner.parts.keys, owner.completed()
    url = link(owner, mine)
    (key,) = keys.all()
    keys.rotate(key.id, 0)
    assert httpx.get(url).content == VIDEO, "which a new secret does not end"
    keys.revoke(key.id)
    assert code(httpx.get(url)) == code(httpx.get(url, headers={"Range": "bytes=0-1"})) == (403, "link_revoked")
    assert httpx.head(url).status_code == 403


def test_a_link_says_when_its_key_ends_it(service: Service) -> None:
    key, token = service.parts.keys.create("short", frozenset(Scope), lifetime_seconds=600)
    service.http.headers["Authorization"] = f"Bearer {token}"
    video_id = service.completed()
    answer = service.http.get(f"/videos/{video_id}/link").json()
    assert answer["expires_at"] == key.expires_at == int(httpx.URL(answer["url"]).params["expires"])
    assert httpx.get(answer["url"]).content == VIDEO


def test_links_of_an_open_service_hold_when_it_is_closed(service: Service) -> None:
    url = link(service, service.completed())
    key, _ = service.parts.keys.create("first", frozenset(Scope))
    assert httpx.get(f"{service.url}/videos").status_code == 401
    assert httpx.get(url).content == VIDEO
    service.parts.keys.revoke(key.id)
    assert httpx.get(url).content == VIDEO


def test_every_gateway_takes_the_links_of_the_others(owner: Service, settings: Settings, tmp_path: Path) -> None:
    url = link(owner, owner.completed())
    with serving(settings, tmp_path) as second:
        assert httpx.get(url.replace(owner.url, second.url)).content == VIDEO
    own = settings.model_copy(update={"signing_secret": SecretStr("s" * 40)})
    with serving(own, tmp_path) as third:
        assert code(httpx.get(url.replace(owner.url, third.url))) == (403, "invalid_link")


def test_a_store_that_signs_serves_the_file_itself(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nanio checks signatures."""
    with s3_server("nanio", tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with serving(settings.model_copy(update={"storage_url": URL}), tmp_path) as service:
            video_id = service.completed()
            url = link(service, video_id, via="storage")
            assert httpx.URL(url).port == server.port
            assert httpx.get(url).content == VIDEO
            assert httpx.get(url, headers={"Range": "bytes=0-9"}).content == VIDEO[:10]
            assert httpx.get(httpx.URL(url).copy_set_param("X-Amz-Signature", "0" * 64)).status_code == 403
            assert httpx.get(link(service, video_id)).content == VIDEO, "the gateway's own works there too"
            _, token = service.parts.keys.create("short", frozenset(Scope), lifetime_seconds=60)
            service.http.headers["Authorization"] = f"Bearer {token}"
            url = link(service, service.completed(), via="storage")
            assert int(httpx.URL(url).params["X-Amz-Expires"]) <= 60, "as long as its key"


def test_a_folder_signs_nothing(service: Service) -> None:
    refused = service.http.get(f"/videos/{service.completed()}/link", params={"via": "storage"})
    assert code(refused) == (400, "invalid_value") and "allowed: gateway" in refused.text
