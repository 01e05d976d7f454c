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
    """What signs the events of a key's jobs."""

    object: Literal["webhook_secret"] = "webhook_secret"
    secret: str = Field(description="The current one.", examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    replaced: list[str] = Field(description="Those before it that sign too, until they end.")


@router.get("/webhooks/secret")
def get_webhook_secret(state: StateDep, caller: Writer) -> WebhookSecret:
    """The secret that signs the events of the key's jobs; no other key's events are signed with it.

    A service that asks for no keys has one secret, which its operator's command shows.
    """
    if caller.owner == OPEN_OWNER:
        message = "a service without API keys shows its secret to its operator alone: adaspa webhooks secret"
        raise ApiError(404, "no_secret", message)
    current, *replaced = secrets_of(caller.owner, state.settings, state.deliveries)
    return WebhookSecret(secret=current, replaced=replaced)
