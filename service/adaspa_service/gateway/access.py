"""Who asks, and what they may do."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends

from adaspa_service.contract.job import OPEN_OWNER


@dataclass(frozen=True)
class Caller:
    """The one who asks.

    Args:
        owner: whose jobs these are: the id of the API key.
    """

    owner: str


def _identify() -> Caller:
    return Caller(OPEN_OWNER)


Reader = Annotated[Caller, Depends(_identify)]
"""May look jobs up, follow them and download their files."""
Writer = Annotated[Caller, Depends(_identify)]
"""May also create, cancel and delete jobs."""
