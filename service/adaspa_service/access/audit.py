"""Audit log ``adaspa.audit``: a line for each creation, cancellation and deletion, at every log level.

No line holds what was asked for, such as a prompt, and none a secret. What operators' commands do, they leave in Redis
for a gateway to write down.
"""

import json
import logging
from collections.abc import Mapping

from adaspa_jobs.logs import AUDIT
from starlette.requests import Request

from adaspa_service.access.caller import Caller

log = logging.getLogger(AUDIT)
TAKEN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
"""Names that a log record has for itself. A field with one, as a later version's act may have, gets an underscore."""


def note(request: Request, caller: Caller, event: str, **about: str) -> None:
    """Write down what a caller did.

    Args:
        request: it came with.
        caller: who it was.
        event: what was done, such as ``job.created``.
        about: to what.
    """
    address = request.client.host if request.client else ""
    who = {"actor": caller.owner, "actor_name": caller.name, "address": address}
    write({"event": event, **about, **who, "request_id": request.state.request_id})


def write(fields: Mapping[str, str]) -> None:
    """Write a line: as text each field behind its name, as JSON each under it."""
    shown = {f"{name}_" if name in TAKEN else name: value for name, value in fields.items() if value}
    log.info(" ".join(f"{name}={_word(value)}" for name, value in shown.items()), extra=shown)


def _word(value: str) -> str:
    """A value in a line of text: quoted, unless it is plainly one word."""
    return value if value.isascii() and value.isprintable() and not set(value) & set(' "=%') else json.dumps(value)
