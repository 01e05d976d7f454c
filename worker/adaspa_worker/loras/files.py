"""Files of a catalog's LoRA adapters: where they lie, and a check that they are the ones that the catalog means.

Without torch: a worker looks at them before it takes a job.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import NoReturn

from adaspa_jobs.catalog import Lora, ModelSpec
from adaspa_jobs.storage import ObjectMissing, ObjectStorage, StorageUnavailable
from safetensors import SafetensorError, safe_open

from adaspa_worker.hub import first_line
from adaspa_worker.source import ModelUnavailable, bundled_lora

AT_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<commit>[^/]*)/(?P<file>.+)")
COMMIT = re.compile(r"[0-9a-f]{40}")
ENDING = ".safetensors"
BUILTIN = "builtin:"
"""Prefix of the sources of adapters that come with the bundled models."""


def found(spec: ModelSpec) -> dict[str, Path]:
    """Find the adapters' files by name, fetch them if they are elsewhere, and check them.

    Raises:
        ModelUnavailable: one is not to be had, is no safetensors file, larger than the cache, or another one than the
            catalog says.
    """
    files = {}
    for lora in spec.loras:
        file = files[lora.name] = local(spec, lora)
        if file.suffix != ENDING:
            refuse(spec, lora, f"{lora.source}: is not a {ENDING} file; allowed: {ENDING}")
        if (size := file.stat().st_size) > (most := spec.memory.lora_cache_bytes):
            refuse(spec, lora, f"has {size} bytes; allowed: {most}, set by memory.lora_cache_bytes")
        with file.open("rb") as content:
            check_hash(spec, lora, hashlib.file_digest(content, "sha256").hexdigest())
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            refuse(spec, lora, f"{lora.source}: damaged weights ({first_line(error)})")
    return files


def content(spec: ModelSpec, lora: Lora, file: Path) -> bytes:
    """Return the bytes of an adapter's file once its hash is the catalog's. Raises ModelUnavailable."""
    try:
        read = file.read_bytes()
    except OSError as error:
        refuse(spec, lora, f"{lora.source}: {error.strerror}")
    check_hash(spec, lora, hashlib.sha256(read).hexdigest())
    return read


def metadata(content: bytes) -> dict[str, str]:
    """Read what the header of a safetensors file says of it beside its weights."""
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    return found


def check_hash(spec: ModelSpec, lora: Lora, is_: str) -> None:
    """Raises ModelUnavailable if a file has another hash than the catalog says."""
    if is_ != lora.sha256:
        refuse(spec, lora, f"{lora.source}: its SHA-256 is {is_}; allowed: that of the catalog, {lora.sha256}")


def local(spec: ModelSpec, lora: Lora) -> Path:
    """An adapter's file on this machine's disk. Raises ModelUnavailable."""
    if lora.source.startswith(BUILTIN):
        try:
            return bundled_lora(lora.source.removeprefix(BUILTIN))
        except ModelUnavailable as error:
            refuse(spec, lora, str(error))
    if "://" in lora.source and not lora.source.startswith("file://"):
        return from_storage(spec, lora)
    file = Path(lora.source.removeprefix("file://")).expanduser()
    if file.is_file():
        return file
    if (at_hub := AT_HUB.fullmatch(lora.source)) is None:
        refuse(spec, lora, f"{lora.source}: the file does not exist")
    if not COMMIT.fullmatch(at_hub["commit"]):
        refuse(spec, lora, f"{lora.source}: {at_hub['commit']!r} is not a full commit; allowed: all 40 digits")
    from huggingface_hub import hf_hub_download  # noqa: PLC0415  slow to import, and only hub files need it

    try:
        return Path(hf_hub_download(at_hub["repo"], at_hub["file"], revision=at_hub["commit"]))
    except Exception as error:  # the hub client raises a dozen unrelated types; each means that there is no file
        refuse(spec, lora, f"{lora.source}: cannot be downloaded from the Hub ({first_line(error)})")


def from_storage(spec: ModelSpec, lora: Lora) -> Path:
    """An adapter's file out of an object storage, kept on disk beside the hub's, under its hash."""
    from huggingface_hub.constants import HF_HOME  # noqa: PLC0415  slow to import

    file = Path(HF_HOME) / "loras" / f"{lora.sha256}{ENDING}"
    if file.is_file():
        return file
    folder, _, name = lora.source.rpartition("/")
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        storage = ObjectStorage(folder)
        size, _ = storage.head(name)
        if size > spec.memory.lora_cache_bytes:
            refuse(spec, lora, f"has {size} bytes; allowed: {spec.memory.lora_cache_bytes}")
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with part.open("wb") as whole:
            for chunk in storage.read_range(name, 0, size):
                digest.update(chunk)
                whole.write(chunk)
        check_hash(spec, lora, digest.hexdigest())
        return part.replace(file)
    except (StorageUnavailable, ObjectMissing, OSError) as error:
        refuse(spec, lora, f"{lora.source}: cannot be downloaded ({first_line(error)})")
    finally:
        part.unlink(missing_ok=True)


def refuse(spec: ModelSpec, lora: Lora, why: str) -> NoReturn:
    """Raises ModelUnavailable with the model and the adapter."""
    raise ModelUnavailable(f"catalog: model {spec.id}: loras: {lora.name}: {why}")
