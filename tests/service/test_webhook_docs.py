"""What docs/webhooks.md says is so: its snippet runs, its tables are those of the code."""

import re
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from adaspa_jobs.settings import Settings
from adaspa_service.webhooks import attempt, deliverer, deliveries
from adaspa_service.webhooks.deliveries import Outcome
from adaspa_service.webhooks.event import EventType
from adaspa_service.webhooks.signing import headers

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXM="
UNITS = {"s": 1, "min": 60, "h": 3600}


def test_the_snippet_takes_what_we_sign_and_nothing_else(capsys: Any) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names: dict[str, Any] = {}
    exec(snippet.replace("whsec_...", SECRET), names)
    body = b'{"type": "video.completed", "data": {"id": "video_1"}}'
    now = int(time.time())
    assert names["receive"](body, headers("evt_1", now, body, [SECRET])) == 204
    assert capsys.readouterr().out == "video.completed video_1\n"
    assert names["receive"](body + b" ", headers("evt_1", now, body, [SECRET])) == 401
    assert names["receive"](body, headers("evt_1", now - 600, body, [SECRET])) == 401
    assert names["receive"](body, headers("evt_1", now, body, ["whsec_" + "A" * 32])) == 401


def test_the_schedule_is_that_of_the_settings() -> None:
    (row,) = re.findall(r"^\| after the one before \| at once \| (.*) \|$", PAGE, re.M)
    waits = [int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+) (\w+)", row)]
    assert tuple(waits) == Settings().webhook_retry_seconds


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (r"within (\d+) seconds, and do the work afterwards", attempt.TOTAL_SECONDS),
        (r"`Retry-After` \(seconds or a date; at most (a) day\)", deliverer.LONGEST_WAIT_SECONDS / 86400),
        (r"Each wait is up to (\d+) % shorter or longer", 100 * deliverer.JITTER),
        (r"It is kept for\s+(\d+) days", deliveries.DEAD_SECONDS / 86400),
        (r"and (\d+) for one API key", deliveries.OWNER_ATTEMPTS),
        (r"another gateway repeats it (\d+) s later", deliveries.ATTEMPT_SECONDS),
        (r"Redis keeps up to ([\d,]+) pending and dead events", deliveries.KEPT),
        (r"about (a) day after the job's end", round(sum(Settings().webhook_retry_seconds) / 86400)),
    ],
)
def test_the_numbers_are_those_of_the_code(words: str, meant: float) -> None:
    (told,) = re.findall(words, PAGE)
    assert (1 if told == "a" else int(told.replace(",", ""))) == meant


def test_events_settings_and_outcomes_are_those_of_the_code() -> None:
    assert set(re.findall(r"^\| `(video\.\w+)`", PAGE, re.M)) == set(get_args(EventType))
    settings = {f"ADASPA_{name.upper()}" for name in Settings.model_fields if name.startswith("webhook_")}
    assert set(re.findall(r"^\| `(ADASPA_\w+)`", PAGE, re.M)) == settings
    (outcomes,) = re.findall(r"^\| `adaspa_webhook_attempts_total\{outcome\}` \| (.*) \|$", PAGE, re.M)
    assert all(outcome in outcomes for outcome in Outcome)
