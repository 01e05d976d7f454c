"""What has to hold in every history, whatever was killed. A violation comes with the shortest history that shows it.

A rule looks at the entries of one job, key or walk and yields what is wrong, each time with the few entries that show
it. Two entries are in order only if the first had been answered when the second was sent.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from chaos.history import Entry

ENDS = ("completed", "failed", "cancelled")


@dataclass
class Violation:
    """A promise that was not kept, and the entries that show it."""

    what: str
    shown_by: list[Entry]

    def __str__(self) -> str:
        return "\n    ".join([self.what, *map(str, self.shown_by)])


Rule = Callable[[list[Entry]], Iterator[Violation]]


def check(entries: Iterable[Entry]) -> list[Violation]:
    """All violations: for each rule and each job, key or walk at most one, which the fewest entries show."""
    entries, found = list(entries), []
    for groups, rules in ((_jobs(entries), OF_A_JOB), (_keys(entries), OF_A_KEY), (_walks(entries), OF_A_WALK)):
        for group in groups:
            every = [list(rule(group)) for rule in rules]
            found += [min(each, key=lambda violation: len(violation.shown_by)) for each in every if each]
    return found


# Rules of one job


def status_only_goes_on(entries: list[Entry]) -> Iterator[Violation]:
    """A status goes back only by a requeue that the job's events tell of, and an ended job stays as it ended."""
    reads = _reads(entries)
    for before, after in _in_order(reads):
        was, now, same = before.seen, after.seen, before.epoch == after.epoch
        if was["status"] in ENDS and now["status"] != was["status"] and (same or was["status"] == "completed"):
            yield Violation(f"{after.target}: was {was['status']}, and is {now['status']} again", [before, after])
        if same and now["attempt"] < was["attempt"]:
            what = f"{after.target}: was at attempt {was['attempt']}, and is at {now['attempt']}"
            yield Violation(what, [before, after])
    for stream in _streams(entries):
        told = {(event["status"], event["attempt"]) for event in stream.seen["events"]}
        for read in reads:
            stands = (read.seen["status"], read.seen["attempt"])
            if read.epoch == stream.epoch and read.ended < stream.began and stands not in told:
                what = f"{read.target}: was {stands[0]} at attempt {stands[1]}, which its events do not tell"
                yield Violation(what, [read, stream])


def progress_never_falls(entries: list[Entry]) -> Iterator[Violation]:
    """Within an attempt, neither in what is polled nor in the events."""

    def falls(was: dict[str, object], now: dict[str, object]) -> bool:
        running = was["status"] == now["status"] == "in_progress" and was["attempt"] == now["attempt"]
        return running and now["progress"] < was["progress"]  # type: ignore[operator]

    for before, after in _in_order(_reads(entries)):
        if before.epoch == after.epoch and falls(before.seen, after.seen):
            what = f"progress fell from {before.seen['progress']} to {after.seen['progress']}"
            yield Violation(f"{after.target}: {what}", [before, after])
    for stream in _streams(entries):
        for first, then in pairwise(stream.seen["events"]):
            if falls(first, then):
                what = f"its events tell progress {first['progress']}, then {then['progress']}"
                told = replace(stream, seen={"events": [first, then]})
                yield Violation(f"{stream.target}: {what}", [told])


def what_was_accepted_is_there(entries: list[Entry]) -> Iterator[Violation]:
    """At every gateway from its answer on, until somebody asks for its deletion."""
    for made, read in _in_order(entries):
        own = made.act == "create" and made.outcome == "ok" and (made.tenant, made.epoch) == (read.tenant, read.epoch)
        if own and read.status == 404 and read.act != "delete" and not _deletion_asked(entries, read.ended):
            yield Violation(f"{read.target}: was accepted, and is unknown", [made, read])


def what_was_deleted_stays_away(entries: list[Entry]) -> Iterator[Violation]:
    """From the answer to its deletion on: it is not found, not listed, and no key gives it again."""
    for gone, read in _in_order(entries):
        if gone.act == "delete" and gone.outcome == "ok" and read.outcome == "ok":
            yield Violation(f"{gone.target}: was deleted, and is there again", [gone, read])


def a_cancelled_job_never_completes(entries: list[Entry]) -> Iterator[Violation]:
    """Once its cancel was answered before it had ended."""
    for cancel in entries:
        if cancel.act == "cancel" and cancel.outcome == "ok" and cancel.seen["status"] not in ("completed", "failed"):
            for read in _reads(entries):
                if read.seen["status"] == "completed":
                    yield Violation(f"{cancel.target}: its cancel was acknowledged, and it completed", [cancel, read])


def its_content_is_one(entries: list[Entry]) -> Iterator[Violation]:
    """All that is ever downloaded of one video is the same bytes."""
    loads = [entry for entry in entries if entry.act == "content" and entry.outcome == "ok"]
    for first, then in pairwise(loads):
        if first.seen["sha256"] != then.seen["sha256"]:
            yield Violation(f"{then.target}: its content has changed", [first, then])


def it_is_its_owners_alone(entries: list[Entry]) -> Iterator[Violation]:
    """Whoever else asks for it finds nothing."""
    for made in entries:
        if made.act == "create" and made.outcome == "ok":
            for other in entries:
                if other.outcome == "ok" and other.tenant != made.tenant:
                    yield Violation(f"{made.seen['ids'][0]}: another tenant has it", [made, other])


def places_begin_at_one(entries: list[Entry]) -> Iterator[Violation]:
    """1 is next."""
    for read in entries:
        if (place := read.seen.get("place")) is not None and place < 1:
            yield Violation(f"{read.target}: is said to be at place {place}", [read])


# Rules of one Idempotency-Key, and of one walk


def a_key_stands_for_one_request(entries: list[Entry]) -> Iterator[Violation]:
    """Of one tenant: the same request gives the same jobs, another is refused; until one of the jobs is deleted."""
    made = [entry for entry in entries if entry.act == "create"]
    for first, then in _in_order([entry for entry in made if entry.outcome == "ok"]):
        alike = (first.tenant, first.epoch) == (then.tenant, then.epoch)
        own = [entry for entry in entries if entry.act == "delete" and entry.target in first.seen["ids"]]
        if alike and not _deletion_asked(own, then.ended):
            if first.asked != then.asked:
                yield Violation(f"key {first.target}: two requests were accepted with it", [first, then])
            elif first.seen["ids"] != then.seen["ids"]:
                yield Violation(f"key {first.target}: its request was accepted twice", [first, then])
    for refused in made:
        used = {entry.asked for entry in made if entry.tenant == refused.tenant and entry.began < refused.ended}
        if refused.status == 422 and used <= {refused.asked}:
            yield Violation(f"key {refused.target}: was refused, and its tenant used it for this alone", [refused])


def pages_neither_repeat_nor_hide(entries: list[Entry]) -> Iterator[Violation]:
    """A walk shows each job once: those that were accepted before it and were not deleted, as far as it went."""
    pages = [entry for entry in entries if entry.act == "list"]
    if any(page.outcome != "ok" or page.epoch != pages[0].epoch for page in pages):
        return
    shown = [(job_id, page) for page in pages for job_id in page.seen["ids"]]
    for (first, page), (then, following) in pairwise(shown):
        if then >= first:
            what = f"walk {page.target}: shows {first}, then {then}"
            yield Violation(what, [page] if page is following else [page, following])
    ids = {job_id for job_id, _ in shown}
    gone = {entry.target for entry in entries if entry.act == "delete"}
    end = min(ids, default="") if pages[-1].seen["more"] else ""
    for made in entries:
        if made.act == "create" and made.epoch == pages[0].epoch:
            for job_id in set(made.seen["ids"]) - gone - ids:
                if job_id > end:
                    yield Violation(f"walk {pages[0].target}: {job_id} is not shown", [made, *pages])


OF_A_JOB: list[Rule] = [
    status_only_goes_on,
    progress_never_falls,
    what_was_accepted_is_there,
    what_was_deleted_stays_away,
    a_cancelled_job_never_completes,
    its_content_is_one,
    it_is_its_owners_alone,
    places_begin_at_one,
]
OF_A_KEY: list[Rule] = [a_key_stands_for_one_request]
OF_A_WALK: list[Rule] = [pages_neither_repeat_nor_hide]


# What belongs together


def _jobs(entries: list[Entry]) -> Iterable[list[Entry]]:
    """The entries that tell of one job, also creations and lists that show it."""
    found = defaultdict(list)
    for entry in entries:
        for job_id in entry.seen.get("ids", ()) if entry.act in ("create", "list") else [entry.target]:
            found[job_id].append(entry)
    return found.values()


def _keys(entries: list[Entry]) -> Iterable[list[Entry]]:
    """All creations with one key, whoever asked, and the deletions of what they made."""
    found, keys_of = defaultdict(list), defaultdict(set)
    for entry in entries:
        if entry.act == "create":
            found[entry.target].append(entry)
            for job_id in entry.seen.get("ids", ()):
                keys_of[job_id].add(entry.target)
    for entry in entries:
        for key in keys_of[entry.target] if entry.act == "delete" else ():
            found[key].append(entry)
    return found.values()


def _walks(entries: list[Entry]) -> Iterable[list[Entry]]:
    """The pages of one walk, with what its tenant had been told was accepted, and the deletions asked for by then."""
    walks = defaultdict(list)
    for entry in entries:
        if entry.act == "list":
            walks[entry.target].append(entry)
    for pages in walks.values():
        own = [entry for entry in entries if entry.tenant == pages[0].tenant]
        made = [e for e in own if e.act == "create" and e.outcome == "ok" and e.ended < pages[0].began]
        yield [*made, *(e for e in own if e.act == "delete" and e.began < pages[-1].ended), *pages]


def _reads(entries: list[Entry]) -> list[Entry]:
    """Those that saw the job's status."""
    return [entry for entry in entries if entry.act == "get" and entry.outcome == "ok"]


def _streams(entries: list[Entry]) -> list[Entry]:
    """Those that read its events to their end."""
    return [entry for entry in entries if entry.act == "events" and entry.outcome == "ok"]


def _in_order(entries: list[Entry]) -> Iterable[tuple[Entry, Entry]]:
    return ((first, then) for first in entries for then in entries if first.ended < then.began)


def _deletion_asked(entries: list[Entry], by: float) -> bool:
    return any(entry.act == "delete" and entry.began < by for entry in entries)
