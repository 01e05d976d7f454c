"""Several videos by one request: seeds that follow one another, all accepted or none."""

from pathlib import Path
from typing import Any

import pytest
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.settings import Settings
from adaspa_service.access.keys import Scope
from running_gateway import Service, serving
from waiting import until


def test_n_makes_so_many_jobs_with_seeds_that_follow_one_another(service: Service) -> None:
    answer = service.create(n=3, seed=41, quality="fast")
    assert (answer["object"], answer["has_more"], len(answer["data"])) == ("list", False, 3)
    assert [video["seed"] for video in answer["data"]] == [41, 42, 43]
    assert [video["queue_position"] for video in answer["data"]] == [1, 2, 3]
    assert {video["quality"] for video in answer["data"]} == {"fast"}
    ids = [video["id"] for video in answer["data"]]
    assert (answer["first_id"], answer["last_id"]) == (ids[0], ids[-1]) and len(set(ids)) == 3
    assert [v["id"] for v in service.http.get("/videos", params={"order": "asc"}).json()["data"]] == ids
    assert service.messages() == 3
    assert service.store.client.zcard("adaspa:outbox") == 0


def test_one_is_a_list_too_and_without_n_the_answer_is_the_video(service: Service) -> None:
    assert [video["object"] for video in service.create(n=1)["data"]] == ["video"]
    assert service.create()["object"] == "video"
    form = {"prompt": (None, "x"), "n": (None, "2")}
    assert len(service.http.post("/videos", files=form).json()["data"]) == 2


def test_seeds_are_drawn_once_for_all(service: Service) -> None:
    seeds = [video["seed"] for video in service.create(n=4)["data"]]
    assert seeds == list(range(seeds[0], seeds[0] + 4))


@pytest.mark.parametrize(
    ("fields", "param", "allowed"),
    [
        ({"n": 0}, "n", "allowed: 1 to 8"),
        ({"n": 9}, "n", "allowed: 1 to 8"),
        ({"n": "2"}, "n", "allowed: 1 to 8"),
        ({"n": 2, "seed": 2**53 - 1}, "seed", f"allowed with n 2: 0 to {2**53 - 2}"),
    ],
)
def test_a_bad_batch_is_refused_and_makes_nothing(
    service: Service, fields: dict[str, Any], param: str, allowed: str
) -> None:
    response = service.http.post("/videos", json={"prompt": "x", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param) and allowed in error["message"]
    assert service.messages() == 0 and service.http.get("/videos").json()["data"] == []


def test_a_batch_that_does_not_fit_the_queue_is_refused_as_a_whole(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"queue_cap": 4}), tmp_path) as service:
        service.create(n=2)
        response = service.http.post("/videos", json={"prompt": "x", "n": 3})
        assert (response.status_code, response.json()["error"]["code"]) == (429, "queue_full")
        assert len(service.http.get("/videos").json()["data"]) == service.messages() == 2
        assert len(service.create(n=2)["data"]) == 2


def test_no_more_is_offered_than_an_empty_queue_takes(settings: Settings, tmp_path: Path) -> None:
    with serving(settings.model_copy(update={"queue_cap": 4}), tmp_path) as service:
        demo = Catalog.load(None).default
        for model, max_batch in (("announced", demo.max_batch), ("small", 2)):
            service.store.announce(demo.model_copy(update={"id": model, "max_batch": max_batch}), "worker")
        offered = {"demo": 4, "announced": 4, "small": 2}

        def shown() -> dict[str, int]:
            return {model["id"]: model["max_batch"] for model in service.http.get("/models").json()["data"]}

        until(
            lambda: shown() == offered | {"demo-image": 4},
            "each model shows the lesser of its own limit and the queue's",
        )
        for model, most in offered.items():
            for n in (most + 1, "many"):
                response = service.http.post("/videos", json={"prompt": "x", "model": model, "n": n})
                error = response.json()["error"]
                assert (response.status_code, error["param"]) == (400, "n")
                assert error["message"].endswith(f"allowed: 1 to {most}") and "Retry-After" not in response.headers
        assert service.messages() == 0 and len(service.create(n=4)["data"]) == 4


@pytest.mark.asks
def test_more_than_the_key_may_have_in_flight_is_refused_for_good(service: Service) -> None:
    _, token = service.parts.keys.create("small", frozenset(Scope), max_in_flight=3)
    service.http.headers["Authorization"] = f"Bearer {token}"
    service.create(n=2)
    for n, status in ((4, 400), (2, 429)):
        response = service.http.post("/videos", json={"prompt": "x", "n": n})
        assert response.status_code == status and ("Retry-After" in response.headers) == (status == 429)
        assert status == 429 or "n: 4 is out of range; allowed: 1 to 3" in response.json()["error"]["message"]
    assert service.messages() == 2


def test_a_key_gives_the_same_batch_again(service: Service) -> None:
    def post(**fields: Any) -> Any:
        headers = {"Idempotency-Key": "one"}
        return service.http.post("/videos", json={"prompt": "x", **fields}, headers=headers)

    first = post(n=3)
    again = post(n=3)
    assert again.json() == first.json() and again.headers["idempotent-replayed"] == "true"
    assert post(n=2).status_code == 422
    ids = [video["id"] for video in first.json()["data"]]
    service.http.delete(f"/videos/{ids[1]}")
    assert [video["id"] for video in post(n=3).json()["data"]] == [ids[0], ids[2]], "what was deleted stays so"
    service.http.delete(f"/videos/{ids[0]}")
    assert len({video["id"] for video in post(n=3).json()["data"]} - set(ids)) == 3, "its key is forgotten"
    assert service.http.delete(f"/videos/{ids[2]}").status_code == 200
    assert post(n=3).headers["idempotent-replayed"] == "true", "which another of the old batch does not undo"
