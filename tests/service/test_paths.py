"""No text that a client sends becomes a part of a file's name."""

from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from adaspa_jobs.settings import Settings
from running_gateway import Service
from waiting import PATIENCE

SECRET = "nobody may read this"
NAMES = (
    "../secret.txt",
    "..%2Fsecret.txt",
    "..%252Fsecret.txt",
    "%2e%2e%2fsecret.txt",
    "....//secret.txt",
    "..\\secret.txt",
    "/etc/passwd",
    "%2Fetc%2Fpasswd",
    "video_%00",
    "video_" + "0" * 32 + "/../../secret.txt",
    "video_" + "0" * 32 + "%2F..%2F..%2Fsecret.txt",
    "video_" + "%EF%BC%90" * 32,  # digits, for whom it suffices
    "video_" + "0" * 31 + "%0A",
    "file:///etc/passwd",
    "%ff%fe",
    "a" * 5000,
)


def files(folder: Path) -> set[str]:
    """Every file below, but those of the test itself."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def raw(service: Service, method: str, target: str) -> tuple[int, str]:
    """Status and text of a request whose path is sent as it stands."""
    url = httpx.URL(service.url)
    connection = HTTPConnection(url.host, url.port, timeout=PATIENCE)
    connection.request(method, target)
    with connection.getresponse() as response:
        return response.status, response.read().decode(errors="replace")


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_no_path_leads_to_a_file(service: Service, settings: Settings, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    (Path(settings.storage_url) / "secret.txt").write_text(SECRET)
    service.completed()
    before = files(tmp_path)
    for method, template in (
        ("GET", "/static/{}"),
        ("GET", "/videos/{}"),
        ("GET", "/videos/{}/content"),
        ("GET", "/videos/{}/link"),
        ("GET", "/videos/{}/events"),
        ("GET", "/models/{}"),
        ("POST", "/videos/{}/cancel"),
        ("DELETE", "/videos/{}"),
        ("GET", "/{}"),
    ):
        status, text = raw(service, method, template.format(name))
        assert status in (400, 404, 405), (method, template)
        assert SECRET not in text and "root:" not in text
    assert files(tmp_path) == before


def test_no_field_becomes_a_name(service: Service, settings: Settings, tmp_path: Path) -> None:
    before = files(tmp_path)
    for field in ("model", "size", "seed"):
        for name in NAMES:
            assert service.http.post("/videos", json={"prompt": "x", field: name}).status_code == 400
    prompt, key = "../../prompt.txt\0; rm -rf /", "../../key.txt"
    answer = service.http.post("/videos", json={"prompt": prompt.replace("\0", "")}, headers={"Idempotency-Key": key})
    video_id = answer.raise_for_status().json()["id"]
    token = service.complete(service.claim(video_id)).token
    made = files(tmp_path) - before
    objects = Path(settings.storage_url).relative_to(tmp_path)
    names = {"video.mp4", "thumbnail.webp", "spritesheet.webp"}
    assert made - names == {f"{objects}/videos/{video_id}/{token}/{name}" for name in names}, (
        "the id is ours, the rest is fixed"
    )
    names = service.http.get(f"/videos/{video_id}/content").headers["content-disposition"]
    assert names == f'inline; filename="{video_id}.mp4"'


def test_a_models_id_may_hold_no_path(settings: Settings, tmp_path: Path, service: Service) -> None:
    """Ids name queues and metrics; a worker's announcement is not believed blindly either."""
    service.store.client.hset("adaspa:served", "../evil", '{"id": "../evil"}')
    service.store.client.zadd("adaspa:served_until", {"../evil": 10**15})
    assert service.store.announced() == []
    assert raw(service, "GET", "/models/..%2Fevil")[0] == 404
