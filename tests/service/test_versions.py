"""A rolling update: versions that share one Redis. Each captures what it leaves there before the next comes to be; as
long as there is only one, what it leaves itself stands in for that."""

import json
from pathlib import Path
from typing import Any

import pytest
import redis
from adaspa_api.loras import LoraUse
from adaspa_api.words import JobStatus, Priority, Role, Task
from adaspa_jobs.catalog import Catalog, ModelSpec
from adaspa_jobs.job import SCHEMA_VERSION, Input, Job, JobParams, since
from adaspa_jobs.record import RecordUnreadable
from adaspa_jobs.store import JobStore
from admitting import admit, create
from faults import let_time_pass
from pydantic import Field
from records import PARAMS, capture, make_jobs, restore
from running_gateway import Service
from waiting import until

CAPTURED = sorted((Path(__file__).parent / "records").glob("version_*.json"))
PRESENT = "present"
OTHER_FILE = {"name": "oil", "source": "oil.safetensors", "sha256": "d" * 64}
LORA = {"name": "ink", "source": "ink.safetensors", "sha256": "a" * 64}
NEWER = {"schema_version": str(SCHEMA_VERSION + 1), "invented": "1"}


@pytest.fixture(params=[*CAPTURED, PRESENT], ids=lambda found: found if found == PRESENT else found.stem)
def captured(request: pytest.FixtureRequest, store: JobStore, redis_url: str) -> dict[str, Any]:
    """What a version left, as it is kept in a file."""
    if request.param != PRESENT:
        return json.loads(request.param.read_text())  # type: ignore[no-any-return]
    made = make_jobs(store, redis_url)
    found = {"jobs": made, **capture(store.client)}
    store.client.flushall()
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


@pytest.fixture
def earlier(captured: dict[str, Any], valkey: redis.Redis) -> dict[str, str]:
    """The same, in Redis; ids by state."""
    restore(valkey, captured)
    jobs: dict[str, str] = captured["jobs"]
    return jobs


def get(store: JobStore, job_id: str) -> Job:
    job = store.get(job_id)
    assert job is not None
    return job


@pytest.mark.usefixtures("earlier")
def test_what_is_restored_is_what_was_captured(captured: dict[str, Any], valkey: redis.Redis) -> None:
    """Else the tests below prove nothing; times are moved to the present."""
    found = capture(valkey)["keys"]
    first = captured["keys"]
    assert found.keys() == first.keys()
    assert all(found[key] == first[key] for key in first if first[key]["type"] != "zset")


def test_the_jobs_of_an_earlier_version_are_shown(earlier: dict[str, str], service: Service) -> None:

    def listed() -> set[str]:
        return {video["id"] for video in service.http.get("/videos", params={"limit": 100}).json()["data"]}

    until(lambda: listed() == set(earlier.values()) - {earlier["deleted"]}, "the gateway lists them")
    for state in ("queued", "in_progress", "completed", "failed"):
        assert service.http.get(f"/videos/{earlier[state]}").json()["status"] == state
    events = service.http.get(f"/videos/{earlier['completed']}/events").text
    assert "event: completed" in events


def test_the_waiting_jobs_of_an_earlier_version_are_claimed_and_completed(
    earlier: dict[str, str], service: Service
) -> None:
    for state in ("queued", "without_bell", "released"):
        job = service.complete(service.claim(earlier[state]))
        assert (job.status, job.params.prompt) == (JobStatus.completed, f"a red circle, {state}")


def test_the_running_jobs_of_an_earlier_version_are_ended_by_their_workers_or_taken_over(
    earlier: dict[str, str], service: Service, valkey: redis.Redis
) -> None:
    """The worker of the earlier version goes on with its own scripts; its lease is one that this version keeps to."""
    valkey.zadd("adaspa:leases", {earlier["in_progress"]: 0, earlier["asked_to_stop"]: 0}, xx=True)
    until(lambda: get(service.store, earlier["in_progress"]).status is JobStatus.queued, "the lease has run out")
    until(lambda: get(service.store, earlier["asked_to_stop"]).status is JobStatus.cancelled, "the cancel is heard")
    assert service.complete(service.claim(earlier["in_progress"])).attempt == 2


def test_the_ended_jobs_of_an_earlier_version_are_removed_in_their_time(
    earlier: dict[str, str], service: Service, valkey: redis.Redis
) -> None:
    until(lambda: service.store.get(earlier["deleted"]) is None, "the deleted job is gone")
    valkey.zadd("adaspa:expiry", {earlier["completed"]: 0}, xx=True)
    until(lambda: service.store.get(earlier["completed"]) is None, "the expired job is gone")


def test_a_repeated_request_finds_the_job_of_an_earlier_version(earlier: dict[str, str], store: JobStore) -> None:
    job, new = admit(store, JobParams.model_validate(PARAMS), ("key", "digest"))
    assert (job.id, new) == (earlier["queued"], False)


USE = LoraUse(name="ink", scale=0.5, sha256="a" * 64)
OTHER = LoraUse(name="oil", scale=0.5, sha256="d" * 64)
LORAS = [LORA, OTHER_FILE]
INPUT = Input(key="inputs/x/first.png", content_type="image/png", bytes=1, sha256="b" * 64, role=Role.first)


@pytest.mark.parametrize(
    ("asked", "entries", "what"),
    [
        ({"loras": [USE]}, ({}, {"loras": [LORA]}), "has the adapter ink"),
        ({"loras": [USE]}, ({"loras": [LORA | {"sha256": "c" * 64}]}, {"loras": [LORA]}), "has the adapter ink"),
        ({"inputs": [INPUT]}, ({}, {"tasks": [Task.text_to_video, Task.image_to_video]}), "has the inputs first"),
        ({}, ({"tasks": [Task.image_to_video]}, {}), "has a task without inputs"),
        ({"audio": True}, ({}, {"audio": True}), "has sound"),
        ({"loras": [USE, OTHER]}, ({"loras": LORAS, "max_loras": 1}, {"loras": LORAS}), "allows 2 adapters"),
        ({"loras": [USE.model_copy(update={"scale": 0.0})]}, (None, {}), ""),
        ({"loras": [USE.model_copy(update={"sha256": None})]}, (None, {"loras": [LORA]}), ""),
    ],
)
def test_a_job_is_left_to_workers_whose_catalog_has_what_it_asks_for(
    store: JobStore,
    caplog: pytest.LogCaptureFixture,
    asked: dict[str, Any],
    entries: tuple[dict[str, Any] | None, dict[str, Any]],
    what: str,
) -> None:
    demo = Catalog.load(None).default.model_dump() | {"loras": [], "default_loras": []}
    params = JobParams.model_validate(PARAMS | asked)
    if params.inputs_folder:
        store.await_inputs(params.inputs_folder)
    job = create(store, params)
    lacking, having = entries
    if lacking is not None:
        for _ in range(2):
            assert store.claim("demo", "worker-1", spec=ModelSpec.model_validate(demo | lacking)) is None
        assert caplog.text.count(f"{job.id}: requires a worker whose catalog entry {what}") == 1
        assert get(store, job.id).attempt == 0
    lease = store.claim("demo", "worker-2", spec=ModelSpec.model_validate(demo | having))
    assert lease is not None and lease.job.id == job.id


def test_a_job_that_asks_for_what_no_entry_has_waits_as_long_as_for_any_worker(store: JobStore) -> None:
    demo = Catalog.load(None).default.model_dump() | {"default_loras": []}
    without, ink = (ModelSpec.model_validate(demo | {"loras": loras}) for loras in ([], [LORA]))
    job = create(store, JobParams.model_validate(PARAMS | {"loras": [USE]}))

    def passed_over(*others: ModelSpec) -> None:
        for number, spec in enumerate((*others, without)):
            store.announce(spec, f"worker-{number}")
        assert store.claim("demo", f"worker-{len(others)}", spec=without) is None

    def time_out() -> list[str]:
        store.announce(without, "worker-0")
        return store.time_out()

    passed_over()
    let_time_pass(store.client, store.unserved_seconds - 10)
    assert not time_out()
    passed_over(ink)
    let_time_pass(store.client, 20)
    assert not time_out(), "a worker with the adapter came"
    passed_over()
    let_time_pass(store.client, store.unserved_seconds - 10)
    assert not time_out()
    let_time_pass(store.client, 20)
    assert time_out() == [job.id]
    error = get(store, job.id).error
    assert error and error.code == "model_not_served" and "No worker's catalog entry had" in error.message
    assert not store.client.exists("adaspa:unoffered:demo")


def test_a_job_that_an_earlier_version_took_out_of_the_queue_does_not_fail_as_one_that_waits(
    store: JobStore, valkey: redis.Redis
) -> None:
    """Its scripts do not know the list of jobs that no catalog entry offers."""
    job, waits = (create(store, JobParams.model_validate(PARAMS)) for _ in range(2))
    store.request_cancel(job.id)
    valkey.zadd("adaspa:unoffered:demo", {job.id: 0, waits.id: 0})
    store.announce(Catalog.load(None).default.model_copy(update={"loras": []}), "worker")
    valkey.zadd("adaspa:unoffered:demo", {job.id: 0, waits.id: 0})
    assert store.time_out() == [waits.id]
    assert (get(store, job.id).status, valkey.exists("adaspa:unoffered:demo")) == (JobStatus.cancelled, 0)


def test_a_worker_tells_once_for_each_reason_why_it_leaves_jobs_to_others(
    store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    demo = Catalog.load(None).default.model_dump() | {"loras": [], "default_loras": []}
    spec = ModelSpec.model_validate(demo)
    jobs = [create(store, JobParams.model_validate(PARAMS | {"loras": [USE]})) for _ in range(3)]
    for _ in range(3):
        assert store.claim("demo", "worker", spec=spec) is None
    (told,) = caplog.messages
    assert told == f"{jobs[0].id}: requires a worker whose catalog entry has the adapter ink with this SHA-256"


def test_a_job_that_needs_a_later_version_is_left_to_its_workers(
    store: JobStore, valkey: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    job = create(store, JobParams.model_validate(PARAMS))
    valkey.hset(f"adaspa:job:{job.id}", mapping=NEWER)
    assert store.claim("demo", "worker-1") is None
    assert f"{job.id}: requires a worker of a later version" in caplog.text
    left = get(store, job.id)
    assert (left.status, left.attempt, left.lost_attempts) == (JobStatus.queued, 0, 0)
    valkey.hset(f"adaspa:job:{job.id}", "schema_version", SCHEMA_VERSION)
    assert store.claim("demo", "worker-1") is not None


@pytest.mark.parametrize("priority", Priority)
def test_jobs_behind_one_that_needs_a_later_version_are_claimed_in_their_order(
    store: JobStore, valkey: redis.Redis, caplog: pytest.LogCaptureFixture, priority: Priority
) -> None:
    """A hundred are looked at."""
    params = JobParams.model_validate(PARAMS)
    newer = store.admit_all([params] * 98, priority=priority).jobs
    for job in newer:
        valkey.hset(f"adaspa:job:{job.id}", mapping=NEWER)
    jobs = store.admit_all([params] * 3, priority=priority).jobs
    other = store.admit_all([params], priority=next(each for each in Priority if each is not priority)).jobs
    claimed = [store.claim("demo", f"worker-{number}") for number in range(4)]
    begun = [lease.job.id for lease in claimed if lease]
    assert sorted(begun) == [job.id for job in (*jobs, *other)]
    assert [job_id for job_id in begun if job_id != other[0].id] == [job.id for job in jobs]
    assert "later version" not in caplog.text, "there was something to do"
    assert store.claim("demo", "worker") is None and "later version" in caplog.text


def test_what_a_later_version_adds_is_passed_over(store: JobStore, valkey: redis.Redis) -> None:
    job = create(store, JobParams.model_validate(PARAMS))
    params = json.loads(valkey.hget(f"adaspa:job:{job.id}", "params") or "")  # type: ignore[arg-type]
    valkey.hset(f"adaspa:job:{job.id}", mapping={"invented": "1", "params": json.dumps(params | {"invented": None})})
    lease = store.claim("demo", "worker-1")
    assert lease is not None and lease.job.params == job.params


def test_a_record_that_cannot_be_read_stands_in_nobodys_way(service: Service, valkey: redis.Redis) -> None:
    unreadable, other = service.create()["id"], service.create()["id"]
    valkey.hset(f"adaspa:job:{unreadable}", mapping=NEWER | {"status": "paused"})
    with pytest.raises(RecordUnreadable, match=f"{unreadable}: record of version {SCHEMA_VERSION + 1}: status"):
        service.store.get(unreadable)
    answer = service.http.get(f"/videos/{unreadable}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert answer.headers["Retry-After"]
    assert [video["id"] for video in service.http.get("/videos").json()["data"]] == [other]
    valkey.zadd("adaspa:leavings", {unreadable: 0, other: 0})  # the janitor is to look after both
    until(lambda: valkey.zscore("adaspa:leavings", other) is None, "it comes to the other one")


def test_a_seed_that_an_earlier_version_allowed_is_read(store: JobStore) -> None:
    job = create(store, JobParams.model_validate(PARAMS | {"seed": 2**63 - 1}))
    assert get(store, job.id).params.seed == 2**63 - 1


def test_parameters_say_which_version_brought_them() -> None:
    """A parameter without a mark would be dropped in silence by the workers of an earlier version."""
    first: set[str] = {*PARAMS, "negative_prompt", "sparsity", "quality", "retained_mass", "warmup", "flow_shift"}
    first |= {"guidance_scale_2", "loras", "output_format", "audio", "remixed_from", "inputs"}
    versions = {name: since(field) for name, field in JobParams.model_fields.items()}
    assert {name for name, version in versions.items() if version == 1} == first
    assert max(versions.values()) <= SCHEMA_VERSION
    assert not [name for name, field in JobParams.model_fields.items() if name not in first and field.is_required()]


def test_a_job_needs_the_version_of_its_newest_parameter() -> None:
    class Later(JobParams):
        loop: bool = Field(default=False, json_schema_extra={"since": 7})

    def needs(**changes: Any) -> int:
        return Later.model_validate(PARAMS | changes).needs

    assert (needs(), needs(sparsity=0.5), needs(loop=False), needs(loop=True)) == (1, 1, 1, 7)
    # by which a worker knows a checkpoint of another version's worker as one of its job
    assert Later.model_validate(PARAMS).identity == JobParams.model_validate(PARAMS).identity
    assert Later.model_validate(PARAMS | {"loop": True}).identity != JobParams.model_validate(PARAMS).identity
