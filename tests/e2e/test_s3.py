"""The whole service with its files on a real S3-compatible server."""

from pathlib import Path

import httpx
from s3_servers import URL, s3_server
from service_process import Service, environment
from waiting import until


def test_a_video_is_made_downloaded_and_deleted(catalog: Path, tmp_path: Path) -> None:
    """tests/service/test_storage_s3.py asks more of the storage, and of another server too."""
    with s3_server("nanio", tmp_path / "server") as server:
        env = environment(catalog, storage_url=URL) | server.environment
        service = Service(tmp_path / "data", env).start()
        try:
            video = service.run()
            assert video.status == "completed", video.error
            names = [key.rsplit("/", 1)[1] for key in server.objects()]
            assert names == ["spritesheet.webp", "thumbnail.webp", "video.mp4"]
            whole = service.client.download(video.id, tmp_path / "video.mp4").read_bytes()
            url = f"http://127.0.0.1:{service.port}/videos/{video.id}/content"
            part = httpx.get(url, headers=service.headers | {"Range": "bytes=100-199"})
            assert (part.status_code, part.content) == (206, whole[100:200])
            service.client.delete(video.id)
            until(lambda: server.objects() == [], "the objects are gone")
        finally:
            service.stop()
