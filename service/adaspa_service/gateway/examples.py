"""Examples for the OpenAPI document: made by the same classes as the answers, so that they cannot fall behind."""

import json
from typing import Any

from adaspa_api.estimates import Estimate, Expectation, Measured
from adaspa_api.fields import EXAMPLE
from adaspa_api.models import ModelList
from adaspa_api.report import AttentionReport, LayerReport
from adaspa_api.usage import Usage, UsageRow
from adaspa_api.videos import Link, Video, VideoDeleted, VideoList
from adaspa_api.words import JobStatus, OutputFormat, Quality
from adaspa_jobs.catalog import Catalog
from adaspa_jobs.job import Artifact, Job, JobParams, Progress
from pydantic import BaseModel

from adaspa_service import views
from adaspa_service.gateway.health import Health
from adaspa_service.gateway.webhook_secret import WebhookSecret
from adaspa_service.views import QueuePosition
from adaspa_service.webhooks.event import VideoEvent

IDS = ("video_06611cfb2682ffb607d12a592291f64d", "video_06611cfd91f13dc25d17f6ec9a2fb2e7")
CREATED = 1_764_090_000
PARAMETERS = {"video_id": IDS[0], "model_id": "demo", "after": IDS[0], "idempotency-key": "7f8c5d1e-order-17"}
ERRORS = {
    400: ("steps: 0 is out of range; allowed: 1 to 100", "invalid_request_error", "steps", "invalid_value"),
    401: ("Authorization: the API key is not valid", "invalid_request_error", "Authorization", "invalid_api_key"),
    403: ("the key needs the scope write; it has read", "invalid_request_error", None, "missing_scope"),
    404: (f"there is no video {IDS[0]!r}", "invalid_request_error", "video_id", "video_not_found"),
    408: ("the request body did not arrive within 20 s", "invalid_request_error", None, "request_timeout"),
    409: (
        f"video {IDS[0]} is queued; its files are available once it is completed",
        "invalid_request_error",
        "video_id",
        "video_not_ready",
    ),
    410: (
        f"the record of video {IDS[0]} is damaged and cannot be shown; delete it, and create it again",
        "invalid_request_error",
        "video_id",
        "record_damaged",
    ),
    412: (
        'If-Match: is not the file\'s ETag; allowed: "9f86d081884c7d65"',
        "invalid_request_error",
        "If-Match",
        "precondition_failed",
    ),
    413: (
        "the request body is too large; allowed: up to 1048576 bytes",
        "invalid_request_error",
        None,
        "request_too_large",
    ),
    415: (
        "Content-Type text/plain is not supported; allowed: application/json, multipart/form-data",
        "invalid_request_error",
        None,
        "unsupported_media_type",
    ),
    416: (
        "Range: is outside the file; allowed: within its 10240 bytes",
        "invalid_request_error",
        "Range",
        "range_not_satisfiable",
    ),
    421: (
        "Host: 'example.com' is not a name of this service; allowed: localhost, an IP address, 127.0.0.1. "
        "ADASPA_ALLOWED_HOSTS adds others",
        "invalid_request_error",
        "Host",
        "wrong_host",
    ),
    422: (
        "Idempotency-Key: already used with a different request; allowed: a new key for each request",
        "invalid_request_error",
        "Idempotency-Key",
        "idempotency_key_reused",
    ),
    429: (
        "1000 interactive jobs are waiting for model demo; allowed: 1000. Try again later.",
        "rate_limit_error",
        "model",
        "queue_full",
    ),
    503: ("The job store is unavailable; try again.", "server_error", None, "service_unavailable"),
}
"""Message, type, param and code by status."""
EVENT = {
    "id": "1764090009000-0",
    "event": "progress",
    "data": json.dumps(
        {
            "id": IDS[0],
            "object": "video",
            "status": "in_progress",
            "progress": 40,
            "phase": "denoising",
            "step": 10,
            "steps": 24,
            "step_kind": "sparse",
            "eta_seconds": 12.4,
            "attempt": 1,
        }
    ),
}


def job(number: int = 0, /, **state: Any) -> Job:
    """A job of the example request."""
    asked = {"negative_prompt": None, "width": 128, "height": 128, "num_frames": 33, "fps": 8, "guidance_scale": 4.0}
    params = JobParams.model_validate({**asked, **EXAMPLE, "seed": 7 + number, "quality": Quality.balanced})
    params = params.model_copy(update=state.pop("params", {}))
    return Job(id=IDS[number], params=params, created_at=CREATED, **{"status": JobStatus.queued, **state})


def videos() -> dict[str, Video]:
    """Make the example job at three times, and another that was made from it."""
    report = AttentionReport(
        attention_work=0.43,
        density=0.31,
        recall=0.952,
        recall_is_estimate=True,
        unevenness=0.004,
        attention_calls={"dense": 12, "search": 8, "sparse": 76, "skipped": 0},
        kernels={
            "attention": {"hopper": 8},
            "dense_attention": {"hopper": 4},
            "attention_with_block_mass": {"hopper": 4},
            "block_mass": {"hopper": 4},
            "block_sparse_attention": {"hopper": 80},
        },
        searches=2,
        dense_steps=3,
        search_steps=2,
        sparse_steps=19,
        dense_seconds=4.1,
        search_seconds=3.0,
        sparse_seconds=15.2,
        cache_bytes=1_843_200,
        weights={
            "text_encoder": {"bfloat16": 9_437_184},
            "transformer": {"bfloat16": 19_922_944},
            "vae": {"float32": 2_097_152},
        },
        layers=[LayerReport(layer=0, density=[0.35, 0.27], recall=[0.96, 0.94])],
    )
    ended: dict[str, Any] = {
        "started_at": CREATED + 1,
        "completed_at": CREATED + 35,
        "expires_at": CREATED + 35 + 7 * 86400,
        "attempt": 1,
        "progress": Progress(phase="uploading", step=24, steps=24, step_kind="sparse"),
    }
    file = Artifact(key="", content_type=OutputFormat.mp4.content_type, bytes=184_320, sha256="")
    timings = {"loading": 2.1, "encoding_prompt": 0.1, "denoising": 24.2, "decoding": 4.9, "uploading": 0.1}
    remixed = {"prompt": "a small red star moves left", "seed": 7, "remixed_from": IDS[0]}
    return {
        "queued": views.video(job(), QueuePosition(1, 12.5, 2), 29.2),
        "completed": views.video(
            job(status=JobStatus.completed, report=report, timings=timings, artifacts={"video": file}, **ended), None
        ),
        "cancelled": views.video(job(status=JobStatus.cancelled, cancel_requested=True, **ended), None),
        "remix": views.video(job(1, params=remixed), QueuePosition(2, 46.0, 2)),
        "second": views.video(job(1), QueuePosition(2, 46.0, 2)),
    }


def estimate() -> Estimate:
    """Return the example job's fields."""
    asked = {"model": "demo", "size": "128x128", "num_frames": 33, "fps": 8, "steps": 24, "quality": Quality.balanced}
    near = Measured(jobs=10, size="128x128", num_frames=33, steps=24, scaled=False)
    known = Expectation(estimated_seconds=29.2, denoising_seconds=24.2, measured=near, reason=None)
    queue = {"priority": "interactive", "starts_in_seconds": 12.5, "workers": 2}
    return Estimate.model_validate(known.model_dump() | asked | queue | {"qualities": {"balanced": known}})


def page(*data: Video) -> VideoList:
    """A list of these."""
    return VideoList(data=list(data), first_id=data[0].id, last_id=data[-1].id, has_more=False)


def answers() -> dict[str, BaseModel]:
    """An example by the name of its schema, and by method and path where there is a better one."""
    shown = videos()
    model = views.model(Catalog.load(None).default, CREATED - 3600, waiting=2, running=1, workers=2)
    used = UsageRow(date="2026-11-28", model="demo", completed=41, failed=1, cancelled=1, gpu_seconds=1290.5)
    event = job(status=JobStatus.completed, completed_at=CREATED + 35)
    return {
        "Video": shown["completed"],
        "VideoList": page(shown["second"], shown["completed"]),
        "VideoDeleted": VideoDeleted(id=IDS[0]),
        "VideoEvent": VideoEvent.of(f"evt_{IDS[0][6:]}_completed", "video.completed", event),
        "Estimate": estimate(),
        "Usage": Usage(days=30, jobs=43, gpu_seconds=1290.5, data=[used]),
        "WebhookSecret": WebhookSecret(secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", replaced=[]),
        "Link": Link(url=f"http://127.0.0.1:8000/v1/videos/{IDS[0]}/content?signature=...", expires_at=CREATED + 3600),
        "Model": model,
        "ModelList": ModelList(data=[model]),
        "Health": Health(),
        "post /v1/videos": shown["queued"],
        "post /v1/videos several": page(shown["queued"], shown["second"]),
        "post /v1/videos/{video_id}/remix": shown["remix"],
        "post /v1/videos/{video_id}/cancel": shown["cancelled"],
    }


def illustrate(document: dict[str, Any]) -> None:
    """Put an example to each parameter that needs one, each body and each answer."""
    found = {name: model.model_dump(mode="json") for name, model in answers().items()}
    for path, operations in (document["paths"] | document.get("webhooks", {})).items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in PARAMETERS:
                    parameter["example"] = PARAMETERS[parameter["name"]]
            for body in operation.get("requestBody", {}).get("content", {}).values():
                body["example"] = body["schema"].get("example") or found.get(_name(body["schema"]))
            for status, answer in operation["responses"].items():
                content = answer.get("content", {})
                if "text/event-stream" in content:
                    content["text/event-stream"]["example"] = EVENT
                if "application/json" not in content:
                    continue
                if status.isdigit() and int(status) in ERRORS:
                    content["application/json"]["example"] = {
                        "error": dict(zip(("message", "type", "param", "code"), ERRORS[int(status)], strict=True))
                    }
                else:
                    _exemplify(content["application/json"], f"{method} {path}", found)


def _exemplify(content: dict[str, Any], operation: str, found: dict[str, Any]) -> None:
    if several := found.get(f"{operation} several"):
        content["examples"] = {"one": {"value": found[operation]}, "with n": {"value": several}}
    elif example := found.get(operation, found.get(_name(content["schema"]))):
        content["example"] = example


def _name(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).rsplit("/", 1)[-1]
