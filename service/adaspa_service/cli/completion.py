"""Values for shell completion: job and model ids, from the server that the environment names."""

import os
from collections.abc import Callable, Iterator
from itertools import islice

import httpx
from adaspa_client import ApiError, Client

from adaspa_service.cli.server import SERVER

LATEST = 100
"""Number of job ids to offer."""
SECONDS = 2.0
"""Time limit of a request; a shell that waits longer for the Tab key feels stuck."""


def video_ids(incomplete: str) -> Iterator[tuple[str, str]]:
    """Return the ids of the latest jobs, with their prompts."""
    return asked(lambda client: [(video.id, video.prompt) for video in islice(client.list(), LATEST)], incomplete)


def model_ids(incomplete: str) -> Iterator[tuple[str, str]]:
    """Return the ids of the served models, with their descriptions."""
    return asked(lambda client: [(model.id, model.description) for model in client.models()], incomplete)


def asked(question: Callable[[Client], list[tuple[str, str]]], incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield the matching answers, or none if the server fails: completion has no place for an error."""
    server, key = os.environ.get("ADASPA_SERVER", SERVER), os.environ.get("ADASPA_API_KEY")
    try:
        with Client(server, timeout=SECONDS, api_key=key, retries=0) as client:
            found = question(client)
    except (httpx.HTTPError, httpx.InvalidURL, ApiError, ValueError):
        return
    yield from ((value, text) for value, text in found if value.startswith(incomplete))
