"""Folder for the output of Triton and torch.compile, if ADASPA_KERNEL_CACHE is set."""

import os
from pathlib import Path

from adaspa_jobs.settings import Settings, SettingsError

FOLDERS = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
"""Variables of the libraries, and the part of the folder that each gets."""


def use(settings: Settings) -> None:
    """Set the folder for this process and those that it starts, before PyTorch and Triton are imported.

    A variable of theirs that is set takes precedence.

    Raises:
        SettingsError: nothing can be written there.
    """
    folder = settings.kernel_cache
    if folder is None:
        return
    for variable, name in FOLDERS.items():
        place = Path(os.environ.setdefault(variable, str(folder.resolve() / name)))
        try:
            place.mkdir(parents=True, exist_ok=True)
            probe = place / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SettingsError(f"ADASPA_KERNEL_CACHE: cannot write to {place} ({error.strerror})") from error
