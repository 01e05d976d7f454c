"""What stands beside a service that runs: its page's address, and commands that get in its way."""

from pathlib import Path

import httpx
from adaspa_service.local.supervisor import free_port
from adaspa_service.local.valkey import socket_path
from service_process import Service, adaspa, assert_one_clear_line, environment
from waiting import until


def test_the_pages_address_with_the_token_is_printed_and_stands_nowhere_else(service: Service) -> None:
    url = f"http://127.0.0.1:{service.port}"
    until(lambda: f"Page: {url}/#token={service.token}\n" in service.output.read_text(), "it is printed")
    assert httpx.get(f"{url}/videos").status_code == 401
    assert httpx.post(f"{url}/videos", json={"prompt": "x"}).status_code == 401
    assert httpx.get(f"{url}/videos", headers=service.headers).status_code == 200
    for log in (service.data_dir / "logs").iterdir():
        assert service.token not in log.read_text()


def test_a_second_server_on_one_data_folder_is_one_clear_line(service: Service) -> None:
    arguments = ("--port", free_port("127.0.0.1"), "--data-dir", service.data_dir)
    result = adaspa("serve", *arguments, env=service.env)
    assert_one_clear_line(result, "another service is using", str(service.data_dir), "--data-dir")
    assert service.run().status == "completed"


def test_a_worker_alone_says_in_one_line_that_the_storage_cannot_be_written(
    service: Service, catalog: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    env = environment(
        catalog,
        redis_url=f"unix://{socket_path(service.data_dir)}?db=0",
        storage_url=str(tmp_path / "file" / "objects"),
    )
    assert_one_clear_line(adaspa("worker", env=env), "adaspa worker", "objects")
