"""Selection policies by name. A new one is a file with its `Policy`, and a line here."""

from dataclasses import fields, replace
from typing import Any

from adaspa.selection.marginal_mass import MarginalMass
from adaspa.selection.policy import Policy
from adaspa.selection.retained_mass import RetainedMass
from adaspa.selection.sub_block import SubBlock
from adaspa.selection.top_k import TopK

POLICIES: dict[str, type[Policy]] = {kind.name: kind for kind in (TopK, RetainedMass, MarginalMass, SubBlock)}


def policy(selection: Policy | str, **settings: Any) -> Policy:
    """Return the policy of this name, or this one, with these settings.

    Raises:
        ValueError: naming the policies there are, or a setting and what is allowed.
        TypeError: for a setting that the policy does not have.
    """
    if not isinstance(selection, Policy):
        if not isinstance(selection, str) or selection not in POLICIES:
            raise ValueError(f"selection must be one of {tuple(POLICIES)} or a Policy, got {selection!r}")
        selection = POLICIES[selection]()
    known = [field.name for field in fields(selection)]
    for setting in settings:
        if setting not in known:
            raise TypeError(f"{setting} is not a setting of {selection.name}, which has {', '.join(known)}")
    return replace(selection, **settings)
