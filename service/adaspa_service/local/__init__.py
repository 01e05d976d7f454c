"""Everything on one machine: an embedded Valkey, the gateway and a worker under one supervisor."""

from adaspa_service.local.folder import LocalError
from adaspa_service.local.supervisor import Supervisor

__all__ = ["LocalError", "Supervisor"]
