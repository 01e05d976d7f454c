"""The queue of deliveries under random use: each event ends once, whatever is lost on its way, and nothing is left."""

import random
import time
from collections.abc import Callable

import pytest
from adaspa_jobs.job import JobParams
from adaspa_jobs.store import JobStore
from adaspa_service.webhooks.deliveries import Delivery, DeliveryDamaged, DeliveryStore, Outcome
from admitting import admit
from claiming import VIDEO, claimed
from redis import Redis
from redis.exceptions import ResponseError
from running_gateway import REPORT
from valkey_process import running_valkey
from waiting import until

FAILURES = [Outcome.rejected, Outcome.unreachable, Outcome.timed_out, Outcome.interrupted]


def note(gateway: DeliveryStore, delivery: Delivery, chance: random.Random) -> None:
    """A random outcome: delivered, again soon, or given up."""
    what = chance.random()
    body = chance.choice(["", "{}"])
    if what < 0.4:
        gateway.note(delivery, Outcome.delivered, body="{}")
    elif what < 0.9:
        gateway.note(delivery, chance.choice(FAILURES), error="e", body=body, again_in=chance.uniform(0, 0.02))
    else:
        gateway.note(delivery, Outcome.gone, error="HTTP 410", body=body)


def drain(gateway: DeliveryStore) -> None:
    """Deliver all that wait."""

    def deliver() -> bool:
        for delivery in gateway.take(10):
            gateway.note(delivery, Outcome.delivered, body="{}")
        return gateway.counts().waiting == 0

    until(deliver, "no delivery is stuck")


@pytest.mark.parametrize("seed", range(3))
def test_each_event_ends_once_and_nothing_is_left(store: JobStore, params: Callable[..., JobParams], seed: int) -> None:
    chance = random.Random(seed)
    gateways = [DeliveryStore(store.client, attempt_seconds=0.1, owner_attempts=4) for _ in range(3)]
    made: list[str] = []
    deleted: set[str] = set()
    under_way: list[tuple[DeliveryStore, Delivery]] = []
    for _ in range(600):
        action = chance.random()
        if action < 0.3 and len(made) < 80:
            url = f"https://host{chance.randrange(5)}.example.com/"
            job, _ = admit(store, params(), owner=chance.choice(["one", "other"]), webhook_url=url)
            store.request_cancel(job.id)
            made.append(job.id)
        elif action < 0.6:
            gateway = chance.choice(gateways)
            taken = gateway.take(chance.randrange(1, 8))
            assert len({delivery.lane for delivery in taken}) == len(taken)
            under_way += [(gateway, delivery) for delivery in taken if chance.random() < 0.8]  # the others die with it
        elif action < 0.9 and under_way:
            note(*under_way.pop(chance.randrange(len(under_way))), chance)
        elif action < 0.93 and made:
            gateways[0].redeliver(chance.choice(made))
        elif action < 0.95 and made:
            video_id = chance.choice(made)
            if gateways[0].get(video_id):
                deleted.add(video_id)
            store.discard(video_id)
        else:
            time.sleep(0.005)
    drain(gateways[0])
    for job_id, _ in gateways[0].ids("dead"):
        assert gateways[0].redeliver(job_id)
    drain(gateways[0])
    assert gateways[0].counts().ended["delivered"] == len(made) - len(deleted)
    time.sleep(0.15)  # what died with a gateway holds its lane and its owner's place for so long
    gateways[0].take(10)
    left = {key.decode() for key in store.client.scan_iter("adaspa:webhook*")}
    assert left <= {"adaspa:webhook_counts", "adaspa:webhook_trying:one", "adaspa:webhook_trying:other"}


def test_an_event_that_is_sent_anew_no_longer_expires(store: JobStore, params: Callable[..., JobParams]) -> None:
    job, _ = admit(store, params(), webhook_url="https://hooks.example.com/")
    store.request_cancel(job.id)
    deliveries = DeliveryStore(store.client)
    (delivery,) = deliveries.take(10)
    deliveries.note(delivery, Outcome.gone, error="HTTP 410", body="{}")
    assert store.client.ttl(f"adaspa:webhook:{job.id}") > 0, "what was given up is kept for a while"
    assert deliveries.redeliver(job.id)
    assert store.client.ttl(f"adaspa:webhook:{job.id}") == -1


@pytest.mark.parametrize(
    ("lost", "value"),
    [
        (None, None),
        *((name, None) for name in ("url", "type", "owner", "lane", "attempts")),
        *(("attempts", value) for value in ("many", "1.5", "-1", "1e3", " 1", "", "9" * 30)),
    ],
)
def test_a_delivery_without_its_whole_record_stops_no_other(
    store: JobStore, params: Callable[..., JobParams], lost: str | None, value: str | None
) -> None:
    """As after a restored backup."""
    ids = []
    for _ in range(2):
        job, _ = admit(store, params(), webhook_url="https://hooks.example.com/")
        store.request_cancel(job.id)
        ids.append(job.id)
    deliveries = DeliveryStore(store.client)
    key = f"adaspa:webhook:{ids[0]}"
    if lost is None:
        store.client.delete(key)
    elif value is not None:
        store.client.hset(key, lost, value)
    else:
        store.client.hdel(key, lost)
    taken = [delivery.job_id for _ in range(3) for delivery in deliveries.take(10)]
    assert taken == [ids[1]]
    counts = deliveries.counts()
    assert (counts.waiting, counts.dead, counts.ended) == (1, 1, {"damaged": 1})
    assert [job_id for job_id, _ in deliveries.ids("dead")] == [ids[0]]
    assert "damaged" in store.client.hget(key, "error").decode() and store.client.ttl(key) > 0
    assert deliveries.redeliver(ids[0]) == (lost == "attempts"), "the number of attempts begins anew, all else is lost"


@pytest.mark.parametrize("damaged", ["webhook", "webhook_lane", "webhook_trying"])
def test_a_key_of_another_type_stops_no_other_delivery(
    store: JobStore, params: Callable[..., JobParams], damaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = []
    for owner in ("a", "b"):
        job, _ = admit(store, params(), owner=owner, webhook_url=f"https://{owner}.example.com/")
        store.request_cancel(job.id)
        made.append(job.id)
    deliveries = DeliveryStore(store.client)
    first = deliveries.get(made[0])
    assert first is not None
    key = {"webhook": made[0], "webhook_lane": first.lane, "webhook_trying": "a"}[damaged]
    store.client.delete(f"adaspa:{damaged}:{key}")
    store.client.set(f"adaspa:{damaged}:{key}", "odd")
    taken = {delivery.job_id for _ in range(3) for delivery in deliveries.take(10)}
    assert taken == set(made[damaged != "webhook_trying" :])
    if damaged == "webhook_lane":
        assert "webhooks to a.example.com: a queue" in caplog.text
        assert deliveries.redeliver(made[0]) and [each.job_id for each in deliveries.take(10)] == made[:1]
    elif damaged == "webhook":
        assert [job_id for job_id, _ in deliveries.ids("dead")] == made[:1]


@pytest.mark.parametrize("way", ["owed", "given up", "delivered", "redelivered", "deleted"])
def test_a_lane_of_another_type_holds_up_nothing_that_ends(
    store: JobStore, params: Callable[..., JobParams], way: str
) -> None:
    """Also while it is in no list of lanes that are looked at, as after its last event was delivered."""
    job, _ = admit(store, params(), webhook_url="https://hooks.example.com/")
    deliveries = DeliveryStore(store.client)
    if way != "owed":
        store.request_cancel(job.id)
        (delivery,) = deliveries.take(10)
    if way in ("redelivered", "deleted"):
        deliveries.note(delivery, Outcome.gone)
    lane = f"hooks.example.com#{int(job.id[-1], 16) % 4}"
    store.client.delete(f"adaspa:webhook_lane:{lane}")
    store.client.set(f"adaspa:webhook_lane:{lane}", "odd")
    if way in ("given up", "delivered"):
        deliveries.note(delivery, Outcome.gone if way == "given up" else Outcome.delivered)
        assert deliveries.counts().ended == {"dead" if way == "given up" else "delivered": 1}
    elif way == "deleted":
        store.discard(job.id)
        assert deliveries.ids("dead") == []
    else:
        assert deliveries.redeliver(job.id) if way == "redelivered" else store.request_cancel(job.id)
        assert [each.job_id for each in deliveries.take(10)] == [job.id]
    assert not store.client.keys("adaspa:webhook_lane:*") or way in ("owed", "redelivered")


def test_outcomes_are_counted_anew_where_their_key_has_another_type(
    store: JobStore, params: Callable[..., JobParams]
) -> None:
    job, _ = admit(store, params(), webhook_url="https://hooks.example.com/")
    store.request_cancel(job.id)
    store.client.set("adaspa:webhook_counts", "odd")
    deliveries = DeliveryStore(store.client)
    counts = deliveries.counts()
    assert (counts.waiting, counts.ended, counts.damaged) == (1, {}, 1)
    drain(deliveries)
    counts = deliveries.counts()
    assert (counts.attempts, counts.ended, counts.damaged) == ({"delivered": 1}, {"delivered": 1}, 0)


def test_what_is_removed_for_its_type_is_named_in_the_log_of_redis(params: Callable[..., JobParams]) -> None:
    with (
        running_valkey("--logfile", "valkey.log") as folder,
        Redis(unix_socket_path=str(folder / "valkey.sock")) as client,
    ):
        store = JobStore(client)
        job, _ = admit(store, params(), webhook_url="https://hooks.example.com/")
        keys = "adaspa:ended", f"adaspa:webhook_lane:hooks.example.com#{int(job.id[-1], 16) % 4}"
        for key in keys:
            client.set(key, "odd")
        store.request_cancel(job.id)
        told = (folder / "valkey.log").read_text()
        assert all(f"{key} was no" in told for key in keys)


def test_only_a_record_of_another_type_is_named_as_one(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: str) -> None:
        raise ResponseError("ERR unknown command 'hgetall'")

    monkeypatch.setattr(store.client, "hgetall", refused)
    with pytest.raises(ResponseError, match="unknown command"):
        DeliveryStore(store.client).get("video_1")


def test_a_dead_event_of_another_type_is_told_and_forgotten(store: JobStore, params: Callable[..., JobParams]) -> None:
    job, _ = admit(store, params(), webhook_url="https://hooks.example.com/")
    store.request_cancel(job.id)
    deliveries = DeliveryStore(store.client, dead_seconds=0.0)
    (delivery,) = deliveries.take(1)
    deliveries.note(delivery, Outcome.gone)
    store.client.delete(f"adaspa:webhook:{job.id}")
    store.client.set(f"adaspa:webhook:{job.id}", "odd")
    with pytest.raises(DeliveryDamaged, match="it is no hash"):
        deliveries.get(job.id)
    assert not deliveries.redeliver(job.id)
    deliveries.trim()
    assert deliveries.ids("dead") == [] and not store.client.exists(f"adaspa:webhook:{job.id}")


def test_a_deleted_event_is_no_damaged_one(store: JobStore, params: Callable[..., JobParams]) -> None:
    """Though its record did not say where it waits."""
    job, _ = admit(store, params(), webhook_url="https://hooks.example.com/")
    store.request_cancel(job.id)
    store.client.hdel(f"adaspa:webhook:{job.id}", "lane")
    store.discard(job.id)
    deliveries = DeliveryStore(store.client)
    assert [deliveries.take(10) for _ in range(2)] == [[], []]
    assert (deliveries.counts().dead, deliveries.counts().ended) == (0, {})
    assert not store.client.keys("adaspa:webhook*")


@pytest.mark.parametrize(
    ("name", "value"), [("tried_at", "soon"), ("tried_at", ""), ("error", b"\xff"), ("invented", "1")]
)
def test_what_a_delivery_can_do_without_is_passed_over(
    store: JobStore, params: Callable[..., JobParams], name: str, value: str | bytes
) -> None:
    job, _ = admit(store, params(), webhook_url="https://hooks.example.com/")
    store.request_cancel(job.id)
    store.client.hset(f"adaspa:webhook:{job.id}", name, value)  # type: ignore[arg-type]
    deliveries = DeliveryStore(store.client)
    shown = deliveries.get(job.id)
    (taken,) = deliveries.take(10)
    assert shown is not None and (taken.job_id, taken.tried_at, taken.job().id) == (job.id, None, job.id)


def test_what_is_heard_late_of_an_attempt_frees_no_lane_that_another_has(
    store: JobStore, params: Callable[..., JobParams]
) -> None:
    """A receiver gets one at a time in a lane, also when an attempt ends after its time was over."""
    made = [admit(store, params(), webhook_url="https://hooks.example.com/")[0].id for _ in range(5)]
    lanes = [int(job_id[-1], 16) % 4 for job_id in made]  # four, so that two of five have one
    ids = next([a, b] for at, a in enumerate(made) for b in made[at + 1 :] if lanes[made.index(b)] == lanes[at])
    for job_id in ids:
        store.request_cancel(job_id)
    hasty, patient = (DeliveryStore(store.client, attempt_seconds=seconds) for seconds in (0.01, 600.0))

    def taken(deliveries: DeliveryStore) -> Delivery:
        found: list[Delivery] = []
        until(lambda: found.extend(deliveries.take(10)) or found, "the lane's next attempt begins")
        (delivery,) = found
        return delivery

    late = [taken(hasty), taken(hasty)]
    assert [delivery.job_id for delivery in late] == ids
    again = taken(patient)
    assert (again.job_id, again.attempts) == (ids[0], 2)
    for delivery in late:
        hasty.note(delivery, Outcome.rejected, error="HTTP 500", again_in=0.0)
        assert patient.take(10) == [], "another attempt is under way"
    patient.note(again, Outcome.delivered, body="{}")
    assert taken(patient).job_id == ids[1]


def begun(deliveries: DeliveryStore, attempts: int) -> Delivery:
    """The next attempt at the only event, which is so many."""
    found: list[Delivery] = []
    until(lambda: found.extend(deliveries.take(10)) or found, "the next attempt begins")
    (delivery,) = found
    assert delivery.attempts == attempts
    return delivery


@pytest.mark.parametrize("noted", [False, True], ids=["under way", "noted"])
@pytest.mark.parametrize("again_in", [None, 7200.0])
def test_what_is_heard_late_is_no_outcome_of_what_an_operator_sent_again(
    store: JobStore, params: Callable[..., JobParams], again_in: float | None, noted: bool
) -> None:
    """Both are the first attempt of their delivery."""
    job, _ = admit(store, params(), webhook_url="https://hooks.example.com/")
    store.request_cancel(job.id)
    hasty, patient = (DeliveryStore(store.client, attempt_seconds=seconds) for seconds in (0.01, 600.0))
    late = begun(hasty, 1)
    patient.note(begun(patient, 2), Outcome.gone, error="HTTP 410", body="{}")
    assert patient.redeliver(job.id)
    anew = begun(patient, 1)
    if noted:
        patient.note(anew, Outcome.rejected, error="HTTP 500", again_in=3600.0)
    before = patient.get(job.id), patient.ids("waiting"), store.client.keys("adaspa:webhook_busy:*")
    hasty.note(late, Outcome.timed_out, error="late", body='{"late": 1}', again_in=again_in)
    after = patient.get(job.id), patient.ids("waiting"), store.client.keys("adaspa:webhook_busy:*")
    assert after == before and patient.ids("dead") == [] and patient.counts().ended == {"dead": 1}
    if not noted:
        patient.note(anew, Outcome.rejected, error="HTTP 500", again_in=3600.0)
    left = patient.get(job.id)
    assert left is not None and (left.error, left.body) == ("HTTP 500", "{}")


def test_an_attempt_whose_time_is_over_has_no_say_but_that_the_event_came(
    store: JobStore, params: Callable[..., JobParams]
) -> None:
    job, _ = admit(store, params(), webhook_url="https://hooks.example.com/")
    store.request_cancel(job.id)
    hasty = DeliveryStore(store.client, attempt_seconds=0.01)
    lost = begun(hasty, 1)
    later = begun(hasty, 2)
    for late in (lost, later):
        until(lambda late=late: time.time() * 1000 > late.over_ms, "its time is over")  # type: ignore[misc]
        hasty.note(late, Outcome.gone, error="HTTP 410")
    assert hasty.counts().waiting == 1 and hasty.counts().ended == {}
    hasty.note(lost, Outcome.delivered)
    assert hasty.counts().waiting == 0 and hasty.counts().ended == {"delivered": 1}


def test_that_one_end_came_says_nothing_of_another(store: JobStore, params: Callable[..., JobParams]) -> None:
    """A power cut undid the first one meanwhile, and the job ended in another way."""
    job, _ = admit(store, params(), webhook_url="https://hooks.example.com/")
    written = {name: store.client.dump(name) for name in store.client.scan_iter()}
    store.request_cancel(job.id)
    deliveries = DeliveryStore(store.client)
    cancelled = begun(deliveries, 1)
    with store.client.pipeline() as pipe:
        pipe.flushdb()
        for name, value in written.items():
            pipe.restore(name, 0, value)
        pipe.execute()
    store.complete(claimed(store, job), VIDEO, REPORT, {})
    deliveries.note(cancelled, Outcome.delivered)
    assert deliveries.counts().waiting == 1
    completed = begun(deliveries, 1)
    assert (cancelled.type, completed.type) == ("video.cancelled", "video.completed")
    deliveries.note(cancelled, Outcome.delivered)
    deliveries.note(completed, Outcome.delivered)
    assert deliveries.counts().ended == {"delivered": 1}


def test_beyond_the_number_that_is_kept_those_go_that_failed_most(
    store: JobStore, params: Callable[..., JobParams]
) -> None:
    ids = []
    for number in range(5):
        job, _ = admit(store, params(), webhook_url=f"https://host{number}.example.com/")
        store.request_cancel(job.id)
        ids.append(job.id)
    deliveries = DeliveryStore(store.client, kept=3)
    for delivery in deliveries.take(5):
        deliveries.note(delivery, Outcome.rejected, body="{}", again_in=60.0 * (1 + ids.index(delivery.job_id)))
    assert deliveries.trim() == [ids[4], ids[3]]
    assert deliveries.trim() == []
    counts = deliveries.counts()
    assert (counts.waiting, counts.ended) == (3, {"dropped": 2})
