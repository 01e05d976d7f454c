"""Everything on one machine: an embedded Valkey, the gateway and a worker under one supervisor."""

from adaspa_service.local.supervisor import LocalError, Supervisor

__all__ = ["LocalError", "Supervisor"]
