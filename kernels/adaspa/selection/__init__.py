"""Selection of the key blocks that each query block keeps: one policy a file, and `registry` that lists them."""

from adaspa.selection.geometry import Geometry
from adaspa.selection.marginal_mass import MarginalMass
from adaspa.selection.policy import Policy, Search, Selected, index_recall
from adaspa.selection.registry import POLICIES, policy
from adaspa.selection.retained_mass import RetainedMass
from adaspa.selection.scored import Scored
from adaspa.selection.top_k import TopK

__all__ = [
    "POLICIES",
    "Geometry",
    "MarginalMass",
    "Policy",
    "RetainedMass",
    "Scored",
    "Search",
    "Selected",
    "TopK",
    "index_recall",
    "policy",
]
