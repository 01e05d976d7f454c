"""The signatures of Standard Webhooks: HMAC-SHA256 over ``{id}.{timestamp}.{body}``, one by each secret that holds."""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence

from adaspa_service.contract.settings import SECRET_PREFIX


def headers(event_id: str, timestamp: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """The three headers of an attempt.

    Args:
        event_id: the same for every attempt.
        timestamp: of this attempt, Unix seconds.
        body: as it is sent.
        secrets: ``whsec_`` and base64; while a secret is replaced, the new and the old one.
    """
    signed = f"{event_id}.{timestamp}.".encode() + body
    keys = [b64decode(secret.removeprefix(SECRET_PREFIX)) for secret in secrets]
    signatures = [b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
