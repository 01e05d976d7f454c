"""Values that the shell completes: ids of jobs, models. They are asked for where the environment says."""

import os
from collections.abc import Callable, Iterator
from itertools import islice

import httpx
from adaspa_client import ApiError, Client
from pydantic import ValidationError

from adaspa_service.cli.server import SERVER

LATEST = 100
"""Jobs whose ids are offered."""
SECONDS = 2.0
"""A shell that waits longer for the Tab key feels stuck."""


def video_ids(incomplete: str) -> Iterator[tuple[str, str]]:
    """Ids of the latest jobs, with their prompts."""
    return asked(lambda client: [(video.id, video.prompt) for video in islice(client.list(), LATEST)], incomplete)


def model_ids(incomplete: str) -> Iterator[tuple[str, str]]:
    """Ids of the served models, with what they are."""
    return asked(lambda client: [(model.id, model.description) for model in client.models()], incomplete)


def asked(question: Callable[[Client], list[tuple[str, str]]], incomplete: str) -> Iterator[tuple[str, str]]:
    """The answers that begin so; none if the server cannot be asked, because there is no place to say why."""
    server, key = os.environ.get("ADASPA_SERVER", SERVER), os.environ.get("ADASPA_API_KEY")
    try:
        with Client(server, timeout=SECONDS, api_key=key, retries=0) as client:
            found = question(client)
    except (httpx.HTTPError, ApiError, ValidationError):
        return
    yield from ((value, text) for value, text in found if value.startswith(incomplete))
