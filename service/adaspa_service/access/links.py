"""Signed links: addresses of files that need no key and hold for a while.

A signature is ``HMAC-SHA256(secret, "{video id} {variant} {expires}")``. Elements of a page, which can send no header,
load their files by such links.
"""

import base64
import hashlib
import hmac

from adaspa_jobs.settings import Settings

from adaspa_service.access.keys import KeyStore
from adaspa_service.errors import ApiError


class Links:
    """Signs links and checks them. Both methods raise StoreUnavailable.

    Args:
        settings: of the gateway.
        keys: keeps the secret of a service whose settings name none.
    """

    def __init__(self, settings: Settings, keys: KeyStore) -> None:
        self._settings, self._keys = settings, keys

    def sign(self, video_id: str, variant: str, expires: int) -> str:
        """Sign a link that holds until ``expires`` (Unix seconds)."""
        own = self._settings.signing_secret
        secret = own.get_secret_value().encode() if own else self._keys.signing_secret()
        mac = hmac.digest(secret, f"{video_id} {variant} {expires}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()

    def check(self, video_id: str, variant: str, expires: int, signature: str, now: float) -> None:
        """Make sure that a link is this service's and holds at ``now`` (Unix seconds). Raises ApiError 403."""
        if not hmac.compare_digest(self.sign(video_id, variant, expires).encode(), signature.encode()):
            raise ApiError(403, "invalid_link", "signature: not a link of this service", "signature")
        if now >= expires:
            raise ApiError(403, "link_expired", "expires: the link has expired; request another", "expires")
