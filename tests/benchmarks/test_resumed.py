"""The benchmark of resumed videos: a run of it, its table, and the page that has it."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.markdown import replaced
from benchmarks.models import resumed

ROOT = Path(__file__).parents[2]


def test_a_dense_job_is_the_same_when_it_is_resumed_and_a_sparse_one_is_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "spot.json"
    monkeypatch.setattr(sys, "argv", ["resumed", "--quick", "--clips", "1", "--output", str(output)])
    resumed.main()
    result = json.loads(output.read_text())
    rows = {(row["preset"], row["stopped_after"]): row for row in result["rows"]}
    assert len(rows) == 4 * len(resumed.SHARES) and result["device"]
    assert all(rows["exact", at]["resumed_undisturbed"] == 100 for at in (1, 2, 3))
    assert all(40 < rows["quality", at]["resumed_undisturbed"] < 100 for at in (1, 2, 3))
    table = resumed.table(result)
    assert "| `exact` | 1 | 1 | identical | identical | identical |" in table and table.count("\n| `") == len(rows)


def test_the_page_has_the_table_of_what_was_measured() -> None:
    page = (ROOT / "docs" / "spot.md").read_text()
    section = resumed.table(json.loads((ROOT / "docs" / "spot.json").read_text()))
    assert replaced(page, "resumed", section) == page
