"""Signatures of Standard Webhooks: HMAC-SHA256 over ``{id}.{timestamp}.{body}``, one by each secret that holds."""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence

from adaspa_jobs.job import OPEN_OWNER
from adaspa_jobs.settings import SECRET_PREFIX, Settings

from adaspa_service.webhooks.deliveries import DeliveryStore


def secrets_of(owner: str, settings: Settings, store: DeliveryStore) -> list[str]:
    """Return the secrets that sign an owner's events, the current one first: of the settings, or else those in Redis.

    An API key has its own, derived from the service's: who receives the events of one key cannot sign in the name of
    the service towards another's receivers. Raises StoreUnavailable.
    """
    secrets = settings.webhook_keys or store.secrets()
    return secrets if owner == OPEN_OWNER else [_derived(secret, owner) for secret in secrets]


def headers(event_id: str, timestamp: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """Make the three headers of an attempt.

    Args:
        event_id: the same for every attempt.
        timestamp: of this attempt, Unix seconds.
        body: as it is sent.
        secrets: ``whsec_`` and base64; while a secret is replaced, the new and the old one.
    """
    signed = f"{event_id}.{timestamp}.".encode() + body
    signatures = [b64encode(hmac.digest(_key(secret), signed, "sha256")).decode() for secret in secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def _key(secret: str) -> bytes:
    return b64decode(secret.removeprefix(SECRET_PREFIX))


def _derived(secret: str, owner: str) -> str:
    return SECRET_PREFIX + b64encode(hmac.digest(_key(secret), f"webhooks of {owner}".encode(), "sha256")).decode()
