"""A model at the Hugging Face hub or a mirror of it: which commit, which of its files, how many bytes.

The hub's own client does the work, so ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN``, ``HF_HUB_OFFLINE`` and
``HTTPS_PROXY`` mean what they mean to it.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaspa_api.words import Role, Task

NAME = re.compile(r"(?P<repo>[^/@]+/[^/@]+)(@(?P<commit>[^/@]*))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
PLAIN, MODULAR = "model_index.json", "modular_model_index.json"
"""Files that name a pipeline and its components."""
KINDS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""Files to read from a component's folder: configurations, weights, vocabularies, chat templates."""
VARIANTS = ("*.fp16*", "*.bf16*", "*.ema*", "*.non_ema*")
"""Second copies of the weights, which diffusers leaves alone unless asked."""
FOR_REFERENCES, FOR_OTHERS = "transformer_ref", "transformer"
"""MiniMax-H3's transformer for the tasks with references, and the one for all others."""
MODULAR_ONLY = ("MiniMaxH3ModularPipeline",)
"""Modular pipelines that are served though their folder has another index, of a pipeline that diffusers lacks."""

Say = Callable[[str], None]


class NotAtHub(Exception):
    """A hub model cannot be had. The message is one line."""


@dataclass(frozen=True)
class Snapshot:
    """A model's files at one commit.

    Args:
        repo: as the hub names it, ``OWNER/NAME``.
        commit: its 40 digits.
        folder: where the files are, or will be.
    """

    repo: str
    commit: str
    folder: Path

    @property
    def source(self) -> str:
        """A catalog entry's ``source`` that always means these files."""
        return f"{self.repo}@{self.commit}"


def parse(source: str) -> tuple[str, str | None]:
    """Split ``OWNER/NAME`` or ``OWNER/NAME@COMMIT``. Raises NotAtHub where the commit is none."""
    found = NAME.fullmatch(source)
    if found is None:
        raise NotAtHub("is not a Hub name; allowed: OWNER/NAME or OWNER/NAME@COMMIT")
    commit = found["commit"]
    if commit is not None and not COMMIT.fullmatch(commit):
        raise NotAtHub(f"{commit!r} is not a full commit; allowed: all 40 digits")
    return found["repo"], commit


def index_of(folder: Path) -> Path:
    """Return the file that names the pipeline of a model's folder and its components.

    It is that of a modular pipeline if there is no other, or if only that one is served.
    """
    plain, modular = folder / PLAIN, folder / MODULAR
    if not modular.is_file():
        return plain
    return modular if not plain.is_file() or class_of(modular) in MODULAR_ONLY else plain


def class_of(index: Path) -> Any:
    """Return the pipeline's class that an index names; None if it cannot be read."""
    try:
        return json.loads(index.read_text()).get("_class_name")
    except (OSError, ValueError, AttributeError):
        return None


def unused(index: dict[str, Any], tasks: Sequence[Task]) -> str | None:
    """Return the component that a model's tasks do not run, and that need not be there."""
    if FOR_REFERENCES not in index:
        return None
    return FOR_OTHERS if tasks and all(Role.reference in task.roles for task in tasks) else FOR_REFERENCES


def components(index: dict[str, Any], tasks: Sequence[Task] = ()) -> list[str]:
    """Return the folders that a pipeline's index names and that a model's tasks use."""
    named = [name for name, kind in index.items() if isinstance(kind, list) and kind and not name.startswith("_")]
    # Of a modular pipeline the library's name may be null, and the third item says where the component lies.
    there = [name for name in named if index[name][0] is not None or len(index[name]) > 2]
    return [name for name in there if name != unused(index, tasks)]


def patterns(folder: Path, tasks: Sequence[Task] = ()) -> list[str]:
    """Return the files to fetch: indexes and components' folders, no checkpoints beside them. Raises NotAtHub."""
    if not (index := index_of(folder)).is_file():
        raise NotAtHub(f"has neither {PLAIN} nor {MODULAR}; allowed: a model in diffusers format")
    parts = components(json.loads(index.read_text()), tasks)
    return [PLAIN, MODULAR, *(f"{part}/{kind}" for part in parts for kind in KINDS)]


def fetch(source: str, tasks: Sequence[Task] = (), say: Say = lambda _: None, *, dry_run: bool = False) -> Snapshot:
    """Download what a model's pipeline needs and the cache lacks. A pinned model that is whole needs no network.

    Args:
        source: ``OWNER/NAME``, or ``OWNER/NAME@COMMIT``.
        tasks: of the model.
        say: takes a line about what is downloaded, before it is.
        dry_run: download nothing but the small files that name the components.

    Raises:
        NotAtHub: no such model or commit, no way to the hub, no room.
    """
    from huggingface_hub import constants, snapshot_download  # noqa: PLC0415  slow to import

    repo, commit = parse(source)
    try:
        folder = Path(snapshot_download(repo, revision=commit, allow_patterns=[PLAIN, MODULAR]))
        found = Snapshot(repo, folder.name, folder)
        asked: dict[str, Any] = {"allow_patterns": patterns(folder, tasks), "ignore_patterns": list(VARIANTS)}
        if not constants.HF_HUB_OFFLINE:
            files = snapshot_download(repo, revision=found.commit, dry_run=True, **asked)
            missing = sum(file.file_size or 0 for file in files if file.will_download)
            whole = sum(file.file_size or 0 for file in files)
            say(f"{found.source}: {size(whole)} in {len(files)} files, {size(missing)} to download")
            if dry_run:
                return found
            check_room(missing, Path(constants.HF_HUB_CACHE))
        snapshot_download(repo, revision=found.commit, **asked)
    except NotAtHub:
        raise
    except Exception as error:  # the client raises a dozen unrelated types; each means that there is no model
        asked_of = constants.ENDPOINT if os.environ.get("HF_ENDPOINT") else "the hub"
        raise NotAtHub(f"not a folder, and cannot be downloaded from {asked_of} ({first_line(error)})") from error
    return found


def check_room(needed: int, cache: Path) -> None:
    """Raises NotAtHub where the cache's disk has less room than a download takes."""
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise NotAtHub(f"{size(needed)} to download, but {there} has only {size(free)} free")


def size(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type when it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
