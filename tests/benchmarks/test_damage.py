"""The benchmark of damaged files: a run of it, its table, and the page that has it."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import damage
from benchmarks.markdown import replaced

ROOT = Path(__file__).parents[2]


def test_a_png_hides_no_wrong_bit_and_a_wav_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "damage.json"
    monkeypatch.setattr(sys, "argv", ["damage", "--copies", "4", "--files", "PNG", "WAV", "--output", str(output)])
    damage.main()
    result = json.loads(output.read_text())
    found = {row["file"]: row["a wrong bit"] for row in result["rows"]}
    assert found == {"PNG": {"refused": 4, "other": 0, "same": 0}, "WAV": {"refused": 0, "other": 4, "same": 0}}
    assert result["date"] and result["versions"]["libavcodec"]
    table = damage.section(result)
    assert (
        table.startswith("4 copies of each file")
        and "| PNG | 100 % | 0 % |" in table
        and "| WAV | 0 % | 100 % |" in table
    )


@pytest.mark.parametrize("name", damage.FILES)
def test_a_whole_file_of_each_kind_is_taken_as_it_was_drawn(name: str) -> None:
    file = damage.FILES[name]
    content = file.encoded()
    assert file.encoded() == content, "each run damages the same file"
    whole = file.read(content)
    assert len(whole) == (damage.FRAMES if file.read is damage.played else 1) and len(set(whole)) == len(whole)


def test_the_page_has_the_table_of_what_was_measured() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    section = damage.section(json.loads((ROOT / "docs" / "damage.json").read_text()))
    assert replaced(page, "damage", section) == page
