"""``/models``: what is served, and what may be asked of it."""

from adaspa_api.models import Model, ModelList
from adaspa_jobs.catalog import ModelSpec
from fastapi import APIRouter

from adaspa_service import views
from adaspa_service.errors import ApiError
from adaspa_service.gateway.access import Reader
from adaspa_service.gateway.state import AppState, StateDep

router = APIRouter(tags=["models"])


@router.get("/models")
def list_models(state: StateDep, _: Reader) -> ModelList:
    """List the served models. The first is the default."""
    return ModelList(data=[view(state, spec) for spec in state.catalog.models.values()])


@router.get("/models/{model_id}")
def get_model(model_id: str, state: StateDep, _: Reader) -> Model:
    """Return one served model."""
    spec = state.catalog.get(model_id)
    if spec is None:
        message = f"there is no model {model_id[:60]!r}; allowed: {', '.join(state.catalog.models)}"
        raise ApiError(404, "model_not_found", message, "model_id")
    return view(state, spec)


def view(state: AppState, spec: ModelSpec) -> Model:
    """A model with how busy it is."""
    load = state.store.load(spec.id)
    created = state.started_at if load.since is None else load.since
    return views.model(spec, created, waiting=load.waiting, running=load.running, workers=load.workers)
