"""An owner's jobs are apart from everybody else's."""

from collections.abc import Callable

from adaspa_jobs.job import JobParams
from adaspa_jobs.store import JobStore
from admitting import admit

Params = Callable[..., JobParams]


def test_an_owner_pages_through_its_own_jobs_alone(store: JobStore, params: Params) -> None:
    mine, others = [], []
    for _ in range(5):
        mine.append(admit(store, params(), owner="me")[0].id)
        others.append(admit(store, params(), owner="you")[0].id)
    found, cursor = store.page(limit=3, owner="me")
    assert ([job.id for job in found], cursor) == (mine[:1:-1], mine[2])
    assert {job.owner for job in found} == {"me"}
    found, cursor = store.page(after=found[-1].id, limit=3, owner="me")
    assert ([job.id for job in found], cursor) == (mine[1::-1], None)
    store.discard(mine[0])
    assert [job.id for job in store.page(order="asc", owner="me")[0]] == mine[1:]
    assert [job.id for job in store.page(order="asc", owner="you")[0]] == others
    assert store.page() == ([], None), "nor does a service without keys show them"


def test_two_owners_may_use_the_same_idempotency_key(store: JobStore, params: Params) -> None:
    mine, new = admit(store, params(), ("key", "digest"), owner="me")
    yours, also_new = admit(store, params(), ("key", "another digest"), owner="you")
    assert new and also_new and mine.id != yours.id
    assert admit(store, params(), ("key", "digest"), owner="me") == (mine, False)
    store.discard(mine.id)
    assert admit(store, params(), ("key", "another digest"), owner="you") == (yours, False)
