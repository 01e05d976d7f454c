"""``/models``: what is served, and what may be asked of it."""

from adaspa_api.models import Model, ModelList
from adaspa_jobs.catalog import ModelSpec
from fastapi import APIRouter

from adaspa_service import views
from adaspa_service.gateway.access import Reader
from adaspa_service.gateway.errors import ApiError
from adaspa_service.gateway.parts import Parts, PartsOf

router = APIRouter(tags=["models"])


@router.get("/models")
def list_models(parts: PartsOf, _: Reader) -> ModelList:
    """The served models; the first is the default."""
    return ModelList(data=[view(parts, spec) for spec in parts.catalog.models.values()])


@router.get("/models/{model_id}")
def get_model(model_id: str, parts: PartsOf, _: Reader) -> Model:
    """One served model."""
    spec = parts.catalog.get(model_id)
    if spec is None:
        message = f"there is no model {model_id[:60]!r}; there is {', '.join(parts.catalog.models)}"
        raise ApiError(404, "model_not_found", message, "model_id")
    return view(parts, spec)


def view(parts: Parts, spec: ModelSpec) -> Model:
    """A model with how busy it is."""
    load = parts.store.load(spec.id)
    return views.model(spec, waiting=load.waiting, running=load.running, workers=load.workers)
