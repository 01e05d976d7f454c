"""A scene of the numbers in the documents' sentences: limits, times and counts that a reader relies on."""

import re

from adaspa_api import fields, metadata
from adaspa_jobs import announcements, times, usage
from adaspa_jobs.settings import Settings
from adaspa_service.gateway import body, connections, events, links, polling, waiting
from adaspa_service.inputs import fetch, images, jpeg, reader, turns
from adaspa_service.webhooks import addresses, attempt, deliverer, deliveries
from adaspa_worker import group, heartbeat, preview, runner

from chaos.by_people import DOCS
from chaos.scenes import Scene
from chaos.stage import Stage

KB, MB, GB = 2**10, 2**20, 2**30
MINUTE, HOUR, DAY = 60, 3600, 86400
UNITS = {"s": 1, "min": MINUTE, "h": HOUR}
TOLD: dict[str, list[tuple[str, tuple[float, ...]]]] = {
    "api.md": [
        ("within {} s and {} redirects", (fetch.TOTAL_SECONDS, fetch.REDIRECTS)),
        ("limit of {} MiB does not count images", (body.MAX_BODY_BYTES / MB,)),
        ("the rest of the body is over {} MiB", (body.MAX_BODY_BYTES / MB,)),
        ("head: {} s; body: {} s, plus", (connections.HEAD_SECONDS, body.BODY_SECONDS)),
        ("plus 1 s per {} KiB", (body.BYTES_A_SECOND / KB,)),
        ("its head is over {} KiB", (connections.MAX_HEAD_BYTES / KB,)),
        ("After {} seconds of silence", (events.HEARTBEAT_SECONDS,)),
        ("less than {} % of its denoising time", (100 * preview.SHARE,)),
        ("from {} to {} s. OpenAI's", (polling.SHORTEST_MS / 1000, polling.LONGEST_MS / 1000)),
        ("up to {} days). A link", (links.MAX_SECONDS / DAY,)),
        ("(30, including today; up to {})", (usage.MOST_DAYS,)),
        ("up to N seconds ({} at most)", (waiting.LONGEST_SECONDS,)),
        ("Up to {} key-value pairs", (metadata.MOST_PAIRS,)),
        ("up to {} scans and {:,} segments", (jpeg.MAX_SCANS, jpeg.MAX_SEGMENTS)),
        ("shorter side is kept at up to {:,}", (images.DETAIL,)),
    ],
    "webhooks.md": [
        ("Answer with a status within {} seconds", (attempt.TOTAL_SECONDS,)),
        ("up to {} % shorter or longer", (100 * deliverer.JITTER,)),
        ("It is kept for {} days", (deliveries.DEAD_SECONDS / DAY,)),
        ("and {} for one API key", (deliveries.OWNER_ATTEMPTS,)),
        ("of up to {} characters", (fields.MAX_URL_CHARS,)),
        ("another gateway repeats it {} s later", (deliveries.ATTEMPT_SECONDS,)),
        ("Redis keeps up to {:,} pending and dead events", (deliveries.KEPT,)),
    ],
    "operations.md": [
        ("({}, {}, {}, then {} s after each failure)", runner.BACK_OFF_SECONDS),
        ("announce every {} s", (heartbeat.EVERY_SECONDS,)),
        ("silent for {} s is dropped", (announcements.ANNOUNCED_SECONDS,)),
        ("workers heard from in the last {} s", (announcements.COUNTED_SECONDS,)),
        ("Open answers get {} s more", (connections.STOP_SECONDS,)),
        ("for {} requests at a time and {} per key", (turns.AT_A_TIME, turns.OF_AN_OWNER)),
        ("Further requests wait for {} s", (turns.WAIT_SECONDS,)),
        ("{} GiB of addresses", (reader.MEMORY_BYTES / GB,)),
        ("its open event streams within {} s", (events.RECHECK_SECONDS,)),
    ],
    "models.md": [("silent for {} s, all of them end", (group.SILENT_SECONDS,))],
}
"""By page: what it says, and the numbers that belong there."""
IN_WORDS = [
    ("webhooks.md", "at most a day", deliverer.LONGEST_WAIT_SECONDS, DAY),
    ("webhooks.md", "At most four host names are looked up", addresses.OWNER_LOOKUPS, 4),
    ("operations.md", "two minutes of a processor", reader.SECONDS, 2 * MINUTE),
    ("operations.md", "after a minute without reading", connections.STALL_SECONDS, MINUTE),
    ("operations.md", "A quarter may be event streams", events.STREAMS_SHARE, 4),
    ("api.md", "a quarter of the gateway's connections", events.STREAMS_SHARE, 4),
    ("api.md", "a tenth of the expected time left", 1 / polling.SHARE, 10),
    ("api.md", "median of up to ten of them", times.LATEST, 10),
    ("api.md", "up to four times as wide as high", images.MOST_SLIM, 4),
    ("api.md", "at most one preview per second", preview.EVERY_SECONDS, 1),
]
"""Page, sentence, what the service has, and the number that the sentence means."""


class Numbered(Scene):
    """The documents' sentences with a number in them."""

    name = "by hand: numbers in the documents"
    promise = "limits, times and counts are as the documents say"

    def play(self, stage: Stage) -> None:
        pages = {page: " ".join((DOCS / page).read_text().split()) for page in TOLD}
        for page, told in TOLD.items():
            for sentence, numbers in told:
                said = sentence.format(*(int(each) if each == int(each) else each for each in numbers))
                assert said in pages[page], f"docs/{page} does not say: {said}"
        for page, sentence, found, meant in IN_WORDS:
            assert sentence in pages[page] and found == meant, f"docs/{page}: {sentence!r} is {found}"
        row = re.search(r"^\| after the one before \| at once \|(.*)\|$", (DOCS / "webhooks.md").read_text(), re.M)
        assert row, "docs/webhooks.md says nothing of the waits between attempts"
        waits = [float(number) * UNITS[unit] for number, unit in map(str.split, row[1].split("|"))]
        assert list(Settings(_env_file=None).webhook_retry_seconds) == waits, f"docs/webhooks.md: waits of {waits}"


SCENES: list[Scene] = [Numbered()]
