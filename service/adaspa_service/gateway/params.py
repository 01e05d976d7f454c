"""Job parameters of a request: catalog defaults are filled in, and anything not allowed is refused."""

import secrets
from typing import Any

from adaspa_api.fields import MAX_SEED, ROLES, Frame, Kept, VideoCreate, rows
from adaspa_api.limits import Refused, shown
from adaspa_api.videos import VideoRemix
from adaspa_api.words import Priority
from adaspa_jobs.catalog import Catalog, ModelSpec
from adaspa_jobs.job import Job, JobParams, Labels

from adaspa_service.errors import ApiError, bad_field


def resolve(asked: VideoCreate, catalog: Catalog) -> JobParams:
    """Resolve the parameters of the job that was asked for. A seed is drawn if none is given.

    Raises:
        ApiError: 400 with the field and what is allowed.
    """
    spec = catalog.default if asked.model is None else catalog.get(asked.model)
    if spec is None:
        message = f"model: {shown(asked.model)} is not served; allowed: {', '.join(catalog.models)}"
        raise bad_field("model", message, "model_not_found")
    try:
        settled = settle(asked, spec)
    except ApiError as error:
        raise ApiError(400, error.code, error.message + elsewhere(error.param, asked, catalog), error.param) from error
    width, height = map(int, settled["size"].split("x"))
    return JobParams.model_validate(
        {name: settled[name] for name in Kept.model_fields}
        | {"width": width, "height": height, "num_frames": frame_count(asked, settled)}
        | ({} if asked.seed is not None else {"seed": secrets.randbelow(2**32)})
    )


def elsewhere(field: str | None, asked: VideoCreate, catalog: Catalog) -> str:
    """Words that name the models that take the input that this one refuses; empty if there are none."""
    if field not in ROLES or getattr(asked, field) is None:
        return ""
    taken = [
        spec.id
        for spec in catalog.models.values()
        if ROLES[field] in {role for task in spec.tasks for role in task.roles}
    ]
    return (
        f"; models that take this {ROLES[field].kind}: {', '.join(taken)}" if taken and asked.model not in taken else ""
    )


def settle(asked: VideoCreate, spec: ModelSpec) -> dict[str, Any]:
    """Each field as it was asked for, or its default with the model.

    Raises:
        ApiError: 400 with the field and what is allowed.
    """
    found: dict[str, Any] = {}
    table = rows(Kept) | rows(Frame)
    for name in table:
        found[name] = settle_one(name, asked, spec, found)
    for name, row in table.items():
        if getattr(asked, name) is not None and (why := row.clash(found, spec)):
            raise bad_field(name, f"{name}: {why}")
    return found


def settle_one(name: str, asked: VideoCreate, spec: ModelSpec, settled: dict[str, Any]) -> Any:
    """A field as it was asked for, or its default; ``settled`` are those before it. Raises ApiError: 400."""
    try:
        return rows(VideoCreate)[name].limits.settle(getattr(asked, name), spec, settled)
    except Refused as error:
        raise bad_field(name, error.of(name)) from error


def batch(asked: VideoCreate, catalog: Catalog) -> list[JobParams]:
    """List the parameters of each job that was asked for: ``n`` of them, with seeds that follow one another.

    Raises:
        ApiError: 400 with the field and what is allowed.
    """
    params = resolve(asked, catalog)
    n = settle_one("n", asked, catalog.models[params.model], {})
    if params.seed > MAX_SEED - (n - 1):
        raise bad_field("seed", f"seed: {params.seed} is out of range; allowed with n {n}: 0 to {MAX_SEED - (n - 1)}")
    return [params.model_copy(update={"seed": params.seed + i}) for i in range(n)]


def labels(asked: VideoCreate | VideoRemix, spec: ModelSpec) -> Labels:
    """Read the labels that the client gives the jobs. Raises ApiError: 400."""
    found = {}
    for name in Labels.model_fields:
        try:
            found[name] = rows(type(asked))[name].limits.settle(getattr(asked, name), spec, {})
        except Refused as error:
            raise bad_field(name, error.of(name)) from error
    return Labels.model_validate(found)


def remix(source: Job, prompt: str, catalog: Catalog) -> JobParams:
    """Return the parameters of a job with another prompt, checked against what the model allows now.

    Raises:
        ApiError: 400 with the field and what is allowed.
    """
    kept = source.params.model_dump(mode="json", include=set(VideoCreate.model_fields))
    size = f"{source.params.width}x{source.params.height}"
    inputs = source.params.inputs
    images = {name: each.sha256 for name, role in ROLES.items() for each in inputs if each.role is role}
    asked = VideoCreate.model_validate({**kept, **images, "prompt": prompt, "size": size})
    return resolve(asked, catalog).model_copy(update={"remixed_from": source.id, "inputs": inputs})


def allowed(field: str, catalog: Catalog, model: object) -> str:
    """Say in words what a field may be; for the default model if ``model`` is not served."""
    if field == "model":
        return ", ".join(catalog.models)
    spec = (catalog.get(model) if isinstance(model, str) else None) or catalog.default
    return rows(VideoCreate)[field].limits.allowed(spec)


def resolve_priority(asked: str | None, spec: ModelSpec, cost: float) -> Priority:
    """Choose the queue of a request: bulk if it costs more than the catalog has for the other one, or if asked for.

    Raises:
        ApiError: 400, if interactive is asked for a request that costs too much.
    """
    if cost <= spec.bulk_above:
        return Priority(asked or Priority.interactive)
    if asked == Priority.interactive:
        why = f"the request is {cost:.3g} times the work of the default one; the limit is {spec.bulk_above:g} times"
        raise bad_field("priority", f"priority: interactive is not possible, because {why}; allowed: bulk")
    return Priority.bulk


def frame_count(asked: VideoCreate, settled: dict[str, Any]) -> int:
    """Compute the number of frames from ``num_frames`` or ``seconds``; if both are given they have to agree."""
    frames, fitting = settled["num_frames"], settled["seconds"]
    if fitting is None:
        return int(frames)
    if asked.num_frames is None:
        return int(fitting[0])
    if frames not in fitting:
        why = f"{shown(asked.seconds)} at {settled['fps']} fps contradicts num_frames {frames}; allowed: one of the two"
        raise bad_field("seconds", f"seconds: {why}")
    return int(frames)
