"""Time after which a client is to ask for a job again: the header that OpenAI's clients heed."""

from adaspa_api.videos import Video
from fastapi import Response

HEADER = "openai-poll-after-ms"
SHARE = 0.1
"""Share of the expected time left after which a client polls again, ..."""
SHORTEST_MS, LONGEST_MS = 500, 10_000
"""... within these."""
UNKNOWN_MS = 1000


def tell(response: Response, video: Video) -> None:
    """Say when to ask again, unless the job has ended."""
    if not video.done:
        response.headers[HEADER] = str(poll_after_ms(video))


def poll_after_ms(video: Video) -> int:
    """Milliseconds until something may have come of a job."""
    if video.eta_seconds is not None:
        left = video.eta_seconds
    elif video.starts_in_seconds is not None:
        left = video.starts_in_seconds + (video.estimated_seconds or 0.0)
    else:
        return UNKNOWN_MS
    return round(min(max(left * SHARE * 1000, SHORTEST_MS), LONGEST_MS))
