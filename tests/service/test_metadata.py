"""What a client notes at its jobs: taken in every form, shown, sent, and what lists are filtered by."""

import json
from typing import Any

import pytest
from adaspa_client import Client
from adaspa_jobs import store as job_store
from adaspa_service.cli import app
from refusals import check_refused
from running_gateway import Service
from typer.testing import CliRunner

PAIRS = {"order": "17", "shop": "a, b = c"}


def test_it_is_kept_with_the_job_however_it_is_sent(service: Service) -> None:
    made = service.create(metadata=PAIRS, user="anna")
    assert (made["metadata"], made["user"]) == (PAIRS, "anna")
    service.complete(service.claim(made["id"]))
    shown = service.http.get(f"/videos/{made['id']}").json()
    assert (shown["metadata"], shown["user"]) == (PAIRS, "anna")
    fields = {"prompt": "x", "metadata[order]": "17", "metadata[shop]": "a, b = c"}
    ways = [fields, {"prompt": "x", "metadata": json.dumps(PAIRS)}]
    for form in ways:
        answer = service.http.post("/videos", files={name: (None, text) for name, text in form.items()})
        assert answer.json()["metadata"] == PAIRS, answer.text
    assert service.create(metadata="order=17, shop=b")["metadata"] == {"order": "17", "shop": "b"}
    remix = service.http.post(f"/videos/{made['id']}/remix", json={"prompt": "y", "metadata": {"a": "b"}}).json()
    assert (remix["metadata"], remix["user"]) == ({"a": "b"}, None)
    with service.openai() as client:
        assert client.videos.create(prompt="x", extra_body={"metadata": PAIRS}).metadata == PAIRS  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "parts",
    [
        [("metadata[a]", "1"), ("metadata[a]", "1")],
        [("metadata[a]", "1"), ("metadata[b]", "1"), ("metadata[a]", "2")],
        [("metadata[a]", "1"), ("metadata", "b=2")],
        [("metadata", "b=2"), ("metadata[a]", "1")],
        [("metadata", "a=1"), ("metadata", "a=1")],
        [("user", "anna"), ("user", "anna")],
    ],
    ids=str,
)
def test_what_a_form_gives_twice_is_refused(service: Service, parts: list[tuple[str, str]]) -> None:
    form = [("prompt", (None, "x")), *((name, (None, text)) for name, text in parts)]
    check_refused(service, service.http.post("/videos", files=form), 400, parts[-1][0], "given more than once")


@pytest.mark.parametrize(
    "metadata",
    [
        {f"key{i}": "" for i in range(17)},
        {"k" * 65: ""},
        {"": "x"},
        {"k": "v" * 513},
        {"k": 1},
        "no pair",
        "{",
        '{"a": 1}',
        f'{{"a": {"1" * 5000}}}',
        '{"a": ' + "[" * 100_000,
        ",".join(f"{i:x}=" for i in range(100_000)),
        '{"a": "\\ud800"}',
        '{"\\udc00": "a"}',
    ],
    ids=[
        *("too many", "long key", "no key", "long value", "a number", "no pair", "no JSON", "a number in JSON"),
        *("a number too long for Python", "deep JSON", "as many as a body holds"),
        *("half a character", "half a character in a key"),
    ],
)
def test_what_is_no_metadata_is_refused(service: Service, metadata: Any) -> None:
    answer = service.http.post("/videos", json={"prompt": "x", "metadata": metadata})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "metadata"), answer.text
    assert "allowed: " in answer.json()["error"]["message"]
    assert service.http.post("/videos", json={"prompt": "x", "user": "u" * 257}).json()["error"]["param"] == "user"


@pytest.mark.parametrize("metadata", [{"a": "b", "shop": 1}, '{"a": "b", "shop": 1}'], ids=["an object", "a text"])
def test_the_pair_at_fault_is_named(service: Service, metadata: Any) -> None:
    answer = service.http.post("/videos", json={"prompt": "x", "metadata": metadata})
    assert answer.json()["error"]["message"].startswith("metadata.shop: ")


def test_a_list_is_filtered_by_it_over_all_pages(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_store, "BATCH", 2)
    monkeypatch.setattr(job_store, "SCANNED", 4)
    odd = [service.create(metadata={"odd": str(i % 2), "shop": "a"} if i < 11 else None)["id"] for i in range(14)][
        1:11:2
    ]
    with Client(service.url) as client:
        found = client.list("asc", page_size=2, metadata={"odd": "1", "shop": "a"})
        assert [video.id for video in found] == odd
        assert [video.id for video in client.list(page_size=1, metadata={"odd": "1"})] == odd[::-1], "full pages"
        assert [video.id for video in client.list(metadata={"odd": "1"})] == odd[::-1]
        assert list(client.list(metadata={"odd": "1", "shop": "b"})) == []
    short = service.http.get("/videos", params={"metadata[odd]": "2"}).json()
    assert (short["data"], short["has_more"]) == ([], True), "it has looked at four only"
    assert service.http.get("/videos", params={"metadata": "odd"}).json()["error"]["param"] == "metadata"
    listed = CliRunner().invoke(app, ["jobs", "--json", "--metadata", "odd=1,shop=a", "--server", service.url])
    assert [job["id"] for job in json.loads(listed.stdout)] == odd[::-1], listed.output
