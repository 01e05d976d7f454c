"""A gateway that looks for orphaned checkpoints every few seconds, so that an audit need not wait a minute."""

from adaspa_service.gateway import janitor
from adaspa_service.gateway.__main__ import main

if __name__ == "__main__":
    janitor.ORPHANS_SECONDS = 5.0
    main()
