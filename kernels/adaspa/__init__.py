"""AdaSpa: training-free adaptive sparse attention for video diffusion transformers (arXiv 2502.21079)."""

from adaspa import ops
from adaspa.attention import attention
from adaspa.config import AdaSpaConfig
from adaspa.handle import AdaSpaHandle
from adaspa.index import BlockIndex
from adaspa.parallelize import parallelize
from adaspa.patch import apply, remove
from adaspa.plan import Plan
from adaspa.plot import plot
from adaspa.record import RequestRecord
from adaspa.schedule import Schedule, StepKind
from adaspa.state import AdaSpaState

__all__ = [
    "AdaSpaConfig",
    "AdaSpaHandle",
    "AdaSpaState",
    "BlockIndex",
    "Plan",
    "RequestRecord",
    "Schedule",
    "StepKind",
    "apply",
    "attention",
    "ops",
    "parallelize",
    "plot",
    "remove",
]
