"""Times as commands print them."""

from datetime import UTC, datetime, tzinfo

BEYOND = "after 9999"
"""Text for a time beyond the calendar."""


def written(seconds: float, form: str | None = None, zone: tzinfo | None = None) -> str:
    """Format a Unix time as ``strftime`` does, or as ISO 8601; in this machine's time zone if none is named."""
    try:
        moment = datetime.fromtimestamp(seconds, zone).astimezone(zone)
    except (ValueError, OverflowError, OSError):
        return BEYOND
    return moment.strftime(form) if form else moment.isoformat(" ", "seconds")


def written_in_utc(seconds: float) -> str:
    """Format a Unix time in UTC, to the second."""
    return written(seconds, "%Y-%m-%d %H:%M:%SZ", UTC)
