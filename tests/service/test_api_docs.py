"""docs/api.md: its Python runs, as that of the quick start, and it leaves no route, field or format out."""

import re
import threading
from pathlib import Path

import pytest
from adaspa_service.gateway.schemas import VideoCreate
from running_gateway import Service, until

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "api.md").read_text()


def run_example(text: str, service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the first Python block of a page in ``folder``, while its job is completed."""
    monkeypatch.chdir(folder)
    code = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0]

    def work() -> None:
        until(service.messages, "the example has created its job")
        service.complete(service.claim(service.http.get("/videos").json()["data"][0]["id"]))

    worker = threading.Thread(target=work)
    worker.start()
    exec(compile(code.replace("http://127.0.0.1:8000", service.url), "example", "exec"), {})
    worker.join()
    assert (folder / "out.mp4").stat().st_size > 0


def test_the_python_example_runs(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example(TEXT, service, tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert "completed" in printed and "steps steps: 0 is out of range; allowed: 1 to 100" in printed


def test_the_example_of_the_quick_start_runs(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_example((DOCS / "quickstart.md").read_text(), service, tmp_path, monkeypatch)


def test_every_route_and_field_is_there(service: Service) -> None:
    document = service.http.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            name = f"{method.upper()} {path.removeprefix('/v1')}".replace("{video_id}", "{id}").replace(
                "{model_id}", "{id}"
            )
            assert f"`{name}`" in TEXT, name
    assert [name for name in VideoCreate.model_fields if f"`{name}`" not in TEXT] == []
