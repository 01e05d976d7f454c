"""Check of a ``webhook_url`` when its job is admitted."""

import logging

from adaspa_api.fields import MAX_URL_CHARS
from adaspa_jobs.settings import Settings
from pydantic import HttpUrl, TypeAdapter, ValidationError

from adaspa_service.errors import ApiError, bad_field
from adaspa_service.gateway.state import AppState
from adaspa_service.webhooks.addresses import AddressRefused, LookupFailed

log = logging.getLogger(__name__)

FIELD = "webhook_url"
_url = TypeAdapter(HttpUrl)


def allowed(settings: Settings) -> str:
    """Say in words what a URL may be."""
    scheme = "an http or https URL" if settings.webhook_http else "an https URL"
    return f"{scheme} of up to {MAX_URL_CHARS} characters at a public address, without user, password or fragment"


async def check_webhook(state: AppState, text: str | None, owner: str) -> str | None:
    """Return the URL in its normal form if its host may be called now; each attempt looks it up again.

    Raises:
        ApiError: 400, or 503 where the lookup of the host gets no answer. A name that is not found and one at a private
            address get the same words: what names the operator's network knows is not the client's business.
    """
    if text is None:
        return None
    limits = f"allowed: {allowed(state.settings)}"
    try:
        url = _url.validate_python(text)
    except ValidationError as error:
        raise bad_field(FIELD, f"{FIELD}: is not a URL; {limits}") from error
    if url.scheme != "https" and not state.settings.webhook_http:
        raise _refused(f"{FIELD}: is not https; {limits}")
    if url.username is not None or url.password is not None or url.fragment is not None:
        raise bad_field(FIELD, f"{FIELD}: has a user, a password or a fragment; {limits}")
    if len(str(url)) > MAX_URL_CHARS:
        raise bad_field(FIELD, f"{FIELD}: has {len(str(url))} characters when encoded; {limits}")
    if url.host is None or not url.port:
        raise bad_field(FIELD, f"{FIELD}: has no host, or port 0; {limits}")
    try:
        await state.addresses.of(url.host.strip("[]"), url.port, owner)
    except AddressRefused as error:
        raise _refused(f"{FIELD}: the host does not exist or has a private address; {limits}") from error
    except LookupFailed as error:
        log.warning("%s: %s", FIELD, error)
        message = f"{FIELD}: looking up the host failed; try again"
        raise ApiError(503, "service_unavailable", message, FIELD) from error
    return str(url)


def _refused(message: str) -> ApiError:
    return bad_field(FIELD, message, "webhook_url_not_allowed")
