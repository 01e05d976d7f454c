"""Texts that an HTTP header can carry."""


def fits_into_a_header(secret: str) -> bool:
    """Return whether a header can carry a key or token: printable ASCII without spaces."""
    return secret.isascii() and secret.isprintable() and " " not in secret
