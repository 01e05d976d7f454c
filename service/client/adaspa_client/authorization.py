"""API key of a client, as the header that carries it."""

from adaspa_api.headers import fits_into_a_header


def authorization(api_key: str | None) -> dict[str, str]:
    """Return the header with a key; none without one.

    Raises:
        ValueError: no header can carry the key, which the message does not repeat.
    """
    if not api_key:
        return {}
    if not fits_into_a_header(api_key):
        raise ValueError("api_key: contains a space, a line break or a character outside ASCII; allowed: a key as made")
    return {"Authorization": f"Bearer {api_key}"}
