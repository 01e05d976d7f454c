"""Where a model's weights lie: a bundled model, a folder, or a hub name; checked without importing torch.

python -m adaspa_worker.source --model wan        # fetch a model of the catalog, before its worker starts
python -m adaspa_worker.source --source owner/name
"""

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from adaspa_jobs.catalog import Catalog, CatalogError
from adaspa_jobs.settings import SettingsError, get_settings
from safetensors import SafetensorError, safe_open

BUNDLED = "adaspa_demo_model"
"""The package of the models that come as a distribution of their own."""
BUNDLED_FOLDERS: dict[str, Callable[[Any], Path]] = {
    "demo": lambda package: package.PIPELINE_FOLDER,
    "demo-image": lambda package: package.image_pipeline(),
}
"""Their names, each with how the package tells its folder."""
WEIGHTLESS = ("tokenizer", "scheduler", "feature_extractor", "image_processor", "processor", "audio_scheduler")
"""Component names (or their beginnings) that have files but no weights."""
UNUSED = ("transformer_ref",)
"""Components that no engine runs, and that need not be there: MiniMax-H3's transformer for references."""


class ModelUnavailable(Exception):
    """A model cannot be found, read or loaded. The message is one line that names the model's source."""


def resolve(source: str) -> Path:
    """The folder of a catalog entry's ``source``, checked to be a whole diffusers pipeline.

    ``builtin:<name>`` is a model that is installed as a package; an existing folder, or anything written like a path,
    is that folder; ``owner/name`` is fetched from the Hugging Face hub, or taken from its local cache.

    Raises:
        ModelUnavailable: unknown bundled name, its package not installed, missing or broken folder, hub not reachable.
    """
    if source.startswith("builtin:"):
        name = source.removeprefix("builtin:")
        if name not in BUNDLED_FOLDERS:
            raise ModelUnavailable(f"{source}: no such bundled model; there is {', '.join(BUNDLED_FOLDERS)}")
        folder = bundled(name)
    elif is_hub_name(source):
        folder = fetch(source)
    else:
        folder = Path(source).expanduser()
    check_folder(folder)
    return folder


def bundled(name: str) -> Path:
    """The pipeline's folder of a bundled model."""
    try:
        return BUNDLED_FOLDERS[name](import_module(BUNDLED))
    except ModuleNotFoundError as error:
        raise ModelUnavailable(f"builtin:{name}: {BUNDLED.replace('_', '-')} is not installed") from error
    except OSError as error:
        raise ModelUnavailable(f"builtin:{name}: its folder cannot be made ({first_line(error)})") from error


def is_hub_name(source: str) -> bool:
    """Whether a source, which is no bundled one, names a model of the hub and not a folder."""
    path_like = source.startswith(("/", ".", "~", "builtin:")) or source.count("/") != 1
    return not path_like and not Path(source).is_dir()


def fetch(name: str) -> Path:
    """The local snapshot of a hub model, downloaded first if it is not complete."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415  slow to import, and only hub models need it

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
    try:
        unused = [f"{part}/*" for part in UNUSED]
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=unused))
    except Exception as error:  # the hub client raises a dozen unrelated types; each means that there is no model
        raise ModelUnavailable(f"{name}: neither a folder nor to be had from the hub ({first_line(error)})") from error


def index_of(folder: Path) -> Path:
    """The file that names the pipeline of a model's folder and its components: that of a modular pipeline where there
    is none of another."""
    plain, modular = folder / "model_index.json", folder / "modular_model_index.json"
    return modular if modular.is_file() and not plain.is_file() else plain


def check_folder(folder: Path) -> None:
    """Check that every component that ``index_of`` names is there and that its weight files are whole.

    Raises:
        ModelUnavailable: naming the file or folder at fault.
    """
    index = index_of(folder)
    if not folder.is_dir():
        raise ModelUnavailable(f"{folder}: no such model folder")
    try:
        components = json.loads(index.read_text())
    except FileNotFoundError as error:
        raise ModelUnavailable(f"{folder}: not a diffusers pipeline, model_index.json is missing") from error
    except (ValueError, OSError) as error:
        raise ModelUnavailable(f"{index}: cannot be read ({first_line(error)})") from error
    if not isinstance(components, dict):
        raise ModelUnavailable(f"{index}: must hold a JSON object")
    for name, kind in components.items():
        if isinstance(kind, list) and kind and kind[0] is not None and name not in UNUSED:
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
            raise ModelUnavailable(f"{file}: broken weights ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type when it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def main() -> None:
    """Fetch a model and check it; fail with one line."""
    parser = argparse.ArgumentParser(
        prog="adaspa_worker.source", description="Fetch a model and check that it is whole."
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", help="a model of the catalog")
    which.add_argument("--source", help="builtin:<name>, a folder, or a hub name")
    asked = parser.parse_args()
    try:
        source = asked.source
        if asked.model:
            catalog = Catalog.load(get_settings().catalog)
            spec = catalog.get(asked.model)
            if spec is None:
                sys.exit(f"--model: {asked.model!r} is not in the catalog; there is {', '.join(catalog.models)}")
            source = spec.source
        print(f"{source}: {resolve(source)}")
    except (SettingsError, CatalogError, ModelUnavailable) as error:
        sys.exit(f"adaspa worker: {error}")


if __name__ == "__main__":
    main()
