"""Scheduler that a model is denoised with: its folder's, or the one that the catalog puts in its place."""

import inspect
from collections.abc import Mapping
from typing import Any

from adaspa_jobs.catalog import ModelSpec

Config = Mapping[str, Any]
IN_FLOWS: dict[str, dict[str, Any]] = {
    "FlowMatchEulerDiscreteScheduler": {},
    "UniPCMultistepScheduler": {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    "DPMSolverMultistepScheduler": {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
}
"""Options that each scheduler a catalog may name needs, so that it does not take the model's output for noise."""
SPACINGS = ("use_beta_sigmas", "use_exponential_sigmas", "use_karras_sigmas", "use_lu_lambdas")
"""Options that space the noise levels anew between the first and the last, whatever the shift (diffusers 0.42.1).

UniPC and DPM-Solver then take the levels of noise prediction, which make NaN of a flow, or ignore the shift as well.
"""


def flows(scheduler: Config) -> bool:
    """Tell whether a scheduler is one of a flow-matching model, by its configuration."""
    return str(scheduler.get("_class_name")).startswith("FlowMatch") or bool(scheduler.get("use_flow_sigmas"))


def spacing(scheduler: Config) -> str | None:
    """Name the option of a scheduler's configuration that spaces its noise levels anew; None if it has none."""
    return next((option for option in SPACINGS if scheduler.get(option)), None)


def shift_field(scheduler: Config) -> str | None:
    """Name the field of a scheduler's configuration for the shift of its schedule; None if it has or uses none."""
    if spacing(scheduler):
        return None
    if "shift" in scheduler and not scheduler.get("use_dynamic_shifting"):
        return "shift"
    return "flow_shift" if scheduler.get("use_flow_sigmas") else None


def shifted(scheduler: Any, shift: float) -> Any:
    """A scheduler whose schedule is shifted so far.

    Raises:
        ValueError: ``shift_field`` says that it cannot be.
    """
    field = shift_field(scheduler.config)
    if field is None:
        raise ValueError("flow_shift: the model's scheduler has no shift; allowed: none")
    return type(scheduler).from_config(scheduler.config, **{field: shift})


def options_of(name: str) -> list[str]:
    """Return the options of a scheduler of diffusers."""
    import diffusers  # noqa: PLC0415  slow, and most catalogs leave a model its own

    return [option for option in inspect.signature(getattr(diffusers, name).__init__).parameters if option != "self"]


def served(spec: ModelSpec, own: Any) -> Any:
    """Return the scheduler of a catalog entry, for a model with a scheduler of its own.

    Another kind keeps the shift of the model's own, which it may have another name for.
    """
    scheduler = own
    if spec.scheduler is not None:
        import diffusers  # noqa: PLC0415  slow, and most catalogs leave a model its own

        kind, known = getattr(diffusers, spec.scheduler.name), options_of(spec.scheduler.name)
        # What it does not know it would keep in its configuration all the same, such as a shift under another name.
        kept = {option: value for option, value in own.config.items() if option in known}
        scheduler = kind(**kept | IN_FLOWS[spec.scheduler.name] | spec.scheduler.options)
        field, before = shift_field(scheduler.config), shift_field(own.config)
        if field and before and not {field, "use_dynamic_shifting"} & spec.scheduler.options.keys():
            scheduler = shifted(scheduler, own.config[before])
    return scheduler if spec.flow_shift is None else shifted(scheduler, spec.flow_shift)
