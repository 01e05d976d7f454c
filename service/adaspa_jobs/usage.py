"""Usage by owner, model and day, counted in the transitions themselves."""

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from adaspa_api.usage import UsageRow
from redis import Redis

from adaspa_jobs.counters import Counters
from adaspa_jobs.scripts import reaching

MOST_DAYS = 400
"""Counts of earlier days are gone."""
DAY_SECONDS = 86400


class Usages:
    """Part of a JobStore that knows the usage."""

    client: Redis

    def usage(self, days: int, owner: str | None = None) -> dict[str, list[UsageRow]]:
        """Sum up the jobs of each owner, or of one, in the latest days, today included; the latest first."""
        found: dict[str, list[UsageRow]] = defaultdict(list)
        with reaching():
            now: Any = self.client.time()
        today = int(now[0]) // DAY_SECONDS
        latest = range(today, today - days, -1)
        counted = Counters.read(self.client, {f"usage:{day}": 3 for day in latest})
        for day, counters in zip(latest, counted, strict=True):
            date = datetime.fromtimestamp(day * DAY_SECONDS, UTC).date().isoformat()
            rows: dict[tuple[str, str], UsageRow] = {}
            for (whose, model, what), count in sorted(counters.by_name.items()):
                row = rows.setdefault((whose, model), UsageRow(date=date, model=model))
                if what == "gpu_ms":
                    row.gpu_seconds = count / 1000
                elif what in UsageRow.model_fields:  # else a later version counts it
                    setattr(row, what, count)
            for (whose, _), row in rows.items():
                if owner in (None, whose):
                    found[whose].append(row)
        return dict(found)
