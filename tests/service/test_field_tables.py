"""The documents' tables of settings and of a catalog's fields are the code's; their example of a catalog is one."""

import json
import re
from pathlib import Path

import pytest
from adaspa_jobs.catalog import Catalog, Memory, ModelSpec, Parallelism
from adaspa_jobs.settings import PREFIX, Settings
from adaspa_jobs.step_cache import StepCache
from adaspa_worker.source import is_hub_name
from field_tables import DOCS, TABLES, VIDEO_FIELDS, filled, video_fields
from pages import PAGES, ROOT

ROW = re.compile(r"^\| `(\w+)` \| `?(.*?)`? \| \S.* \|$", re.M)
"""Name and default of a field."""


@pytest.mark.parametrize("page", TABLES)
def test_the_tables_are_what_the_fields_say(page: str) -> None:
    assert filled(page) == (DOCS / page).read_text(), "run: make field-tables"


def test_the_clients_keyword_arguments_are_what_the_rows_say() -> None:
    assert video_fields() == VIDEO_FIELDS.read_text(), "run: make field-tables"


def test_every_setting_is_there_with_its_default_as_a_variable_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = dict(ROW.findall((DOCS / "settings.md").read_text()))
    assert list(told)[: len(Settings.model_fields)] == [PREFIX + name.upper() for name in Settings.model_fields]
    for name, field in Settings.model_fields.items():
        default = told[PREFIX + name.upper()]
        assert (default == "unset") == (field.default in (None, ()))
        if default != "unset":
            monkeypatch.setenv(PREFIX + name.upper(), default)
    assert Settings() == Settings.model_construct()


def test_every_field_of_the_catalog_is_there_with_its_default() -> None:
    told = dict(ROW.findall((DOCS / "models.md").read_text().partition("## Families")[0]))
    fields = ModelSpec.model_fields | Memory.model_fields | StepCache.model_fields | Parallelism.model_fields
    assert set(told) == set(fields)
    required = {name for name, field in fields.items() if field.is_required()}
    assert {name for name, default in told.items() if default == "required"} == required
    given = {name: json.loads(told[name]) for name in ModelSpec.model_fields if name not in required}
    given["memory"] = {name: json.loads(told[name]) for name in Memory.model_fields}
    (example,) = example_of_a_catalog()
    example = {name: value for name, value in example.items() if name in required}
    assert ModelSpec.model_validate(example | given) == ModelSpec.model_validate(example)


def test_the_example_of_a_catalog_is_one_and_is_what_is_started(tmp_path: Path) -> None:
    (example,) = example_of_a_catalog()
    (tmp_path / "catalog.json").write_text(json.dumps([example]))
    (model,) = Catalog.load(tmp_path / "catalog.json").models.values()
    assert is_hub_name(model.source)
    for page in ("models.md", "quickstart.md"):
        assert set(re.findall(r"--model ([\w.-]+)", (DOCS / page).read_text())) == {model.id}


def test_no_page_names_a_variable_that_means_nothing() -> None:
    known = set(re.findall(rf"`({PREFIX}\w+)`", (DOCS / "settings.md").read_text()))
    known |= set(re.findall(rf"^({PREFIX}\w+)=", (ROOT / ".env.example").read_text(), re.M))
    known |= set(
        re.findall(rf'^VARIABLE = "({PREFIX}\w+)"', (ROOT / "kernels/adaspa/plugins/settings.py").read_text(), re.M)
    )
    named = {name for page in PAGES for name in re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]", page.read_text())}
    assert named <= known


def example_of_a_catalog() -> list[dict[str, object]]:
    """That of docs/models.md."""
    (block,) = re.findall(r"^```json\n(.*?)^```$", (DOCS / "models.md").read_text(), re.M | re.S)
    found: list[dict[str, object]] = json.loads(block)
    return found
