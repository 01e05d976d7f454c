"""``GET /webhooks/secret``: what the receiver of a key's events verifies with."""

from typing import Literal

from adaspa_jobs.job import OPEN_OWNER
from fastapi import APIRouter
from pydantic import BaseModel, Field

from adaspa_service.errors import ApiError
from adaspa_service.gateway.access import Writer
from adaspa_service.gateway.state import StateDep
from adaspa_service.webhooks.signing import secrets_of

router = APIRouter(tags=["webhooks"])


class WebhookSecret(BaseModel):
    """Secret that signs the events of a key's jobs."""

    object: Literal["webhook_secret"] = "webhook_secret"
    secret: str = Field(description="Current secret.", examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    replaced: list[str] = Field(description="Earlier secrets that also sign until they expire.")


@router.get("/webhooks/secret")
def get_webhook_secret(state: StateDep, caller: Writer) -> WebhookSecret:
    """Return the secret that signs the events of this key's jobs. Each key has its own.

    A service without API keys has a single secret, which `adaspa webhooks secret` prints for its operator.
    """
    if caller.owner == OPEN_OWNER:
        message = "a service without API keys shows its secret only to its operator, with `adaspa webhooks secret`"
        raise ApiError(404, "no_secret", message)
    current, *replaced = secrets_of(caller.owner, state.settings, state.deliveries)
    return WebhookSecret(secret=current, replaced=replaced)
