"""API key of a client, as the header that carries it."""


def authorization(api_key: str | None) -> dict[str, str]:
    """Return the header with a key; none without one.

    Raises:
        ValueError: no header can carry the key, which the message does not repeat.
    """
    if not api_key:
        return {}
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise ValueError("api_key: contains a space, a line break or a character outside ASCII; allowed: a key as made")
    return {"Authorization": f"Bearer {api_key}"}
