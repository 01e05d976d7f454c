"""``adaspa storage orphans``, as an operator runs it beside a running gateway."""

import json
import os
from pathlib import Path

import pytest
from adaspa_command import adaspa, in_terminal
from adaspa_jobs.settings import Settings
from running_gateway import FILES, Service

DAY = 86400.0


@pytest.fixture
def forgotten(service: Service, settings: Settings) -> str:
    """The id of a video whose job Redis lost two days ago, with a file that a killed writer left."""
    video_id = service.completed()
    objects = Path(settings.storage_url)
    (objects / "videos" / video_id / "half#1").write_bytes(b"half")
    for path in objects.rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_mtime - 2 * DAY,) * 2)
    service.store.client.flushall()
    return video_id


def test_files_of_jobs_that_redis_forgot_are_listed_and_removed(
    service: Service, settings: Settings, redis_url: str, forgotten: str
) -> None:
    kept, young = service.completed(), f"video_{0:032x}"
    service.parts.storage.create(f"videos/{young}/1-a/video.mp4", b"its job may just have been lost")
    for place in ("0-a", "2-z"):  # listed before and after its latest file
        service.parts.storage.create(f"videos/{young}/{place}/old", b"left by an earlier attempt")
        os.utime(Path(settings.storage_url) / "videos" / young / place / "old", (0, 0))
    service.parts.storage.create("videos/readme.txt", b"not ours")
    own = {"ADASPA_REDIS_URL": redis_url, "ADASPA_STORAGE_URL": settings.storage_url}
    listed = json.loads(adaspa("storage", "orphans", "--json", **own).stdout)
    content = sum(len(content) for _, _, content in FILES.values())
    assert [(found["video_id"], found["files"], found["bytes"]) for found in listed] == [(forgotten, 3, content)]
    assert adaspa("storage", "orphans", **own).stdout.startswith(f"{forgotten}\t3\t")
    refused = adaspa("storage", "orphans", "--remove", **own)
    assert (refused.returncode, "use --yes" in refused.stderr) == (2, True)
    before = service.parts.storage.keys("")
    removed = adaspa("storage", "orphans", "--remove", "--yes", **own)
    assert removed.returncode == 0 and "removed: 1 jobs" in removed.stdout
    assert {key for key in before if forgotten not in key} == set(service.parts.storage.keys(""))
    assert not (Path(settings.storage_url) / "videos" / forgotten).exists()
    assert service.http.get(f"/videos/{kept}/content").status_code == 200
    assert adaspa("storage", "orphans", **own).stdout == ""
    all_ages = json.loads(adaspa("storage", "orphans", "--older-than", "0s", "--json", **own).stdout)
    assert [found["video_id"] for found in all_ages] == [young]


@pytest.mark.parametrize("answer", ["y", ""])
def test_a_terminal_asks_before_files_are_removed(
    service: Service, settings: Settings, redis_url: str, forgotten: str, answer: str
) -> None:
    for _ in range(2):
        service.completed()
    before = service.parts.storage.keys("")
    own = {"ADASPA_REDIS_URL": redis_url, "ADASPA_STORAGE_URL": settings.storage_url}
    status, shown = in_terminal("storage", "orphans", "--remove", answer=answer, **own)
    said = " ".join(shown.split())
    assert "Permanently remove the files of 1 jobs? Storage also has files of 2 known jobs. [y/N]" in said
    assert (status, "removed: 1 jobs" in said) == ((0, True) if answer else (1, False))
    left = [key for key in before if answer == "" or forgotten not in key]
    assert service.parts.storage.keys("") == left
