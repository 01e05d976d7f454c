"""Clients of a gateway for other programs, sync and async; they need httpx and pydantic, nothing heavier.

from adaspa_client import Client

with Client("http://127.0.0.1:8000", api_key="...") as client:
    video = client.create("a red circle moves left", quality="balanced")
    for event in client.events(video.id):
        print(event.type, event.data.get("step"))
    client.download(video.id, Path("out.mp4"))
"""

from adaspa_api.models import Model
from adaspa_api.video_fields import Variant, VideoFields
from adaspa_api.videos import Video

from adaspa_client.asynchronous import AsyncClient
from adaspa_client.errors import (
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    NotUnderstood,
    ServiceUnavailable,
    TooManyRequests,
    Unauthorized,
)
from adaspa_client.events import Event
from adaspa_client.sync import Client

__all__ = [
    "ApiError",
    "AsyncClient",
    "BadRequest",
    "Client",
    "Conflict",
    "Event",
    "Forbidden",
    "Model",
    "NotFound",
    "NotUnderstood",
    "ServiceUnavailable",
    "TooManyRequests",
    "Unauthorized",
    "Variant",
    "Video",
    "VideoFields",
]
