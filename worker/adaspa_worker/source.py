"""Place of a model's weights: a bundled model, a folder, or a hub name; checked without importing torch."""

import json
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from adaspa_api.words import Task
from adaspa_jobs.catalog import ModelSpec
from safetensors import SafetensorError, safe_open

from adaspa_worker import hub
from adaspa_worker.hub import first_line, index_of

BUNDLED = "adaspa_demo_model"
"""Package that holds the models with a distribution of their own."""
BUNDLED_FOLDERS: dict[str, Callable[[Any], Path]] = {
    "demo": lambda package: package.PIPELINE_FOLDER,
    "demo-image": lambda package: package.image_pipeline(),
}
"""Their names, each with how the package tells its folder."""
WEIGHTLESS = ("tokenizer", "scheduler", "feature_extractor", "image_processor", "processor", "audio_scheduler")
"""Component names (or their beginnings) that have files but no weights."""


class ModelUnavailable(Exception):
    """A model cannot be found, read or loaded. The message is one line that names the model's source."""


def folder_of(spec: ModelSpec) -> Path:
    """Return the folder of a catalog entry's model, checked. Raises ModelUnavailable."""
    return resolve(spec.source, spec.tasks)


def resolve(source: str, tasks: Sequence[Task] = ()) -> Path:
    """Return the folder of a model's ``source``, checked to be a whole diffusers pipeline.

    ``builtin:<name>`` is a model that is installed as a package; an existing folder, or anything written like a path,
    is that folder; ``owner/name`` is fetched from the Hugging Face hub, or taken from its local cache;
    ``owner/name@commit`` is that commit's.

    Raises:
        ModelUnavailable: unknown bundled name, its package not installed, missing or broken folder, hub not reachable.
    """
    if source.startswith("builtin:"):
        name = source.removeprefix("builtin:")
        if name not in BUNDLED_FOLDERS:
            raise ModelUnavailable(f"{source}: not a built-in model; allowed: {', '.join(BUNDLED_FOLDERS)}")
        folder = bundled(name)
    elif is_hub_name(source):
        folder = fetch(source, tasks)
    else:
        folder = Path(source).expanduser()
    check_folder(folder, tasks)
    return folder


def bundled(name: str) -> Path:
    """Return the pipeline's folder of a bundled model."""
    try:
        return BUNDLED_FOLDERS[name](import_module(BUNDLED))
    except ModuleNotFoundError as error:
        raise ModelUnavailable(f"builtin:{name}: {BUNDLED.replace('_', '-')} is not installed") from error
    except OSError as error:
        raise ModelUnavailable(f"builtin:{name}: cannot create its folder ({first_line(error)})") from error


def bundled_lora(name: str) -> Path:
    """Return the file of a bundled model's adapter. Raises ModelUnavailable."""
    try:
        folder: Path = import_module(BUNDLED).LORA_FOLDER
    except ModuleNotFoundError as error:
        raise ModelUnavailable(f"builtin:{name}: {BUNDLED.replace('_', '-')} is not installed") from error
    files = {file.stem: file for file in sorted(folder.iterdir())}
    if name not in files:
        raise ModelUnavailable(f"builtin:{name}: not a built-in adapter; allowed: {', '.join(files)}")
    return files[name]


def is_hub_name(source: str) -> bool:
    """Tell whether a source, if it is not bundled, names a model of the hub and not a folder."""
    path_like = source.startswith(("/", ".", "~", "builtin:")) or source.partition("@")[0].count("/") != 1
    return not path_like and not Path(source).is_dir()


def fetch(name: str, tasks: Sequence[Task] = ()) -> Path:
    """Return the local snapshot of a hub model; download it first if it is not complete. Raises ModelUnavailable."""
    try:
        return hub.fetch(name, tasks).folder
    except hub.NotAtHub as error:
        raise ModelUnavailable(f"{name}: {error}") from error


def check_folder(folder: Path, tasks: Sequence[Task] = ()) -> None:
    """Check that every component that ``index_of`` names is there, if the tasks use it, and its weight files are whole.

    Raises:
        ModelUnavailable: naming the file or folder at fault.
    """
    index = index_of(folder)
    if not folder.is_dir():
        raise ModelUnavailable(f"{folder}: the model folder does not exist")
    try:
        components = json.loads(index.read_text())
    except FileNotFoundError as error:
        raise ModelUnavailable(f"{folder}: not a diffusers pipeline, model_index.json is missing") from error
    except (ValueError, OSError) as error:
        raise ModelUnavailable(f"{index}: cannot be read ({first_line(error)})") from error
    if not isinstance(components, dict):
        raise ModelUnavailable(f"{index}: must contain a JSON object")
    for name in hub.components(components, tasks):
        check_component(folder / name)


def check_component(folder: Path) -> None:
    """Check one component's folder: a JSON configuration, and weights whose header fits the file's length."""
    configs = sorted(folder.glob("*.json"))
    if not configs:
        raise ModelUnavailable(f"{folder}: the component's folder or its configuration is missing")
    for config in configs:
        try:
            json.loads(config.read_text())
        except (ValueError, OSError) as error:
            raise ModelUnavailable(f"{config}: cannot be read ({first_line(error)})") from error
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and not folder.name.startswith(WEIGHTLESS):
        raise ModelUnavailable(f"{folder}: no safetensors weights")
    for file in weights:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelUnavailable(f"{file}: damaged weights ({first_line(error)})") from error
