"""Findings on this machine as a worker would meet them: ``python -m adaspa_worker.doctor`` prints a JSON array.

Each is ``{"check", "state": "ok" | "warning" | "broken", "found", "mend"}``; ``mend`` is empty where nothing is to do.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

from adaspa_api.words import OutputFormat
from adaspa_jobs.catalog import Catalog, CatalogError, ModelSpec
from adaspa_jobs.settings import SettingsError, get_settings

from adaspa_worker import doctor_gpus, offer
from adaspa_worker.hub import first_line
from adaspa_worker.readiness import has_limit
from adaspa_worker.source import ModelUnavailable, folder_of, is_hub_name

TOLERANCE = 0.05
"""Largest difference from its reference that a kernel may show in bfloat16, on values of the size of 1."""
Finding = dict[str, str]


def finding(check: str, state: str, found: str, mend: str = "") -> Finding:
    return {"check": check, "state": state, "found": found, "mend": mend}


def device() -> Finding:
    """Name the device that the model would run on."""
    import torch  # noqa: PLC0415  slow, and perhaps broken: that is a finding too

    if not torch.cuda.is_available():
        built = torch.version.cuda
        if built is None:
            found = f"PyTorch {torch.__version__} has no GPU support; {os.cpu_count()} CPU cores"
            return finding("GPU", "warning", found, "to use a GPU, install PyTorch with CUDA and NVIDIA's driver")
        found = f"PyTorch {torch.__version__} for CUDA {built} sees no GPU; {os.cpu_count()} CPU cores"
        return finding("GPU", "warning", found, "check `nvidia-smi`; for a container, pass --gpus")
    free, total = torch.cuda.mem_get_info()
    properties = torch.cuda.get_device_properties(0)
    found = f"{properties.name}, compute {properties.major}.{properties.minor}, {gib(free)} of {gib(total)} free"
    if free < total / 2:
        return finding("GPU", "warning", found, "another process uses its memory: see `nvidia-smi`")
    return finding("GPU", "ok", found)


def together() -> Finding:
    """Check whether the GPUs of this machine can make one video together."""
    return finding("GPUs together", *doctor_gpus.found())


def kernels() -> Finding:
    """Check the kernels that run here against their references."""
    import torch  # noqa: PLC0415
    from adaspa.ops import dense_attention  # noqa: PLC0415
    from adaspa.self_check import deviations  # noqa: PLC0415

    if not torch.cuda.is_available():
        q, k, v = torch.randn(3, 1, 2, 200, 64).unbind()
        apart = dense_attention(q, k, v)[0] - torch.nn.functional.scaled_dot_product_attention(q, k, v)
        if not apart.abs().max() <= TOLERANCE:
            return finding("kernels", "broken", "the PyTorch kernels give wrong results", "reinstall")
        return finding("kernels", "ok", "the PyTorch kernels work (Triton kernels need a GPU)")
    rows = deviations(torch.bfloat16)
    wrong = [row for row in rows if not max(row["max_abs_difference"]) <= TOLERANCE]
    if wrong:
        named = ", ".join(f"{row['op']} at head dimension {row['dim']}" for row in wrong)
        mend = "install another Triton version (constraints.txt has the tested one)"
        return finding("kernels", "broken", f"Triton {version('triton')}: wrong results from {named}", mend)
    worst = max(max(row["max_abs_difference"]) for row in rows)
    found = f"Triton {version('triton')}: {len(rows)} kernels match their references within {worst:.3g}"
    return finding("kernels", "ok", found)


def encoders() -> Finding:
    """Check which files can be written."""
    import av  # noqa: PLC0415

    from adaspa_worker import formats  # noqa: PLC0415

    needed = {output: formats.of(output).codec for output in OutputFormat}
    missing = [f"{name} ({codec})" for name, codec in needed.items() if codec not in av.codecs_available]
    if missing:
        found = f"PyAV {av.__version__} cannot write {', '.join(missing)}"
        return finding("video encoders", "broken", found, "install PyAV's own wheel: pip install --force-reinstall av")
    return finding("video encoders", "ok", f"PyAV {av.__version__} writes {', '.join(OutputFormat)}")


def model(spec: ModelSpec) -> Finding:
    """Check that a model's files are there and whole, and can do what its catalog entry offers. Downloads nothing."""
    check = f"model {spec.id}"
    if is_hub_name(spec.source):
        return finding(
            check, "ok", f"{spec.source}: will be downloaded from the Hugging Face Hub when its worker first starts"
        )
    try:
        folder = folder_of(spec)
    except ModelUnavailable as error:
        return finding(
            check, "broken", str(error), "put its diffusers folder there, or correct `source` in the catalog"
        )
    try:
        offer.check(spec, folder)
    except ModelUnavailable as error:
        return finding(check, "broken", str(error), "correct the field in the catalog")
    return finding(check, "ok", f"{spec.source}: complete, in {folder}")


def memory(spec: ModelSpec) -> Finding:
    """Check whether everything that a model's catalog entry offers fits into this machine's memory."""
    from adaspa_worker import memory_limit, room  # noqa: PLC0415  torch

    check, limit = f"memory of {spec.id}", memory_limit.memory_limit()
    if limit is None:  # NVIDIA's driver, and a PyTorch that does not use it
        return finding(check, "ok", "no limit")
    if is_hub_name(spec.source):
        return finding(check, "ok", "known once the model is downloaded")
    try:
        fits = room.fitting(spec, folder_of(spec), limit)
    except (ModelUnavailable, NotImplementedError) as error:
        return finding(check, "ok", f"not known: {error}")
    if missing := fits.missing(spec):
        mend = "remove these from the catalog, or set fields of `memory`; requests for them are rejected"
        return finding(check, "warning", f"{gib(limit)} is too little for {missing}", mend)
    return finding(check, "ok", f"all that the catalog offers fits into {gib(limit)}")


def guarded(check: str, look: Callable[[], Finding]) -> Finding:
    """A look at something; an error of whatever kind is what was found."""
    try:
        return look()
    except Exception as error:
        return finding(check, "broken", f"{type(error).__name__}: {first_line(error)}", "install adaspa-serve[worker]")


def findings() -> list[Finding]:
    """Everything a worker needs."""
    looks: dict[str, Callable[[], Finding]] = {
        "GPU": device,
        "GPUs together": together,
        "kernels": kernels,
        "video encoders": encoders,
    }
    found = [guarded(check, look) for check, look in looks.items()]
    try:
        settings = get_settings()
        specs = Catalog.load(settings.catalog).models.values()
    except (SettingsError, CatalogError):
        return found  # the one who asked has looked at the catalog
    found += [model(spec) for spec in specs]
    if has_limit(settings):
        found += [guarded(f"memory of {spec.id}", partial(memory, spec)) for spec in specs]
    return found


def gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


if __name__ == "__main__":
    json.dump(findings(), sys.stdout)
