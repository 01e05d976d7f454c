"""What one and two GPUs let expect of more."""

import json
from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.models import parallel_plan, parallel_tables

ROOT = Path(__file__).parents[2]


def measured(sizes):
    """Of a machine that is as the plan takes it: a second for all, eight to be shared, an exchange by what is sent."""
    layer = {gpus: 40 * (gpus - 1) / gpus**2 for gpus in sizes if gpus > 1}
    rows = [{"model": "m", "step": "blocks", "blocks": 2, "of": 50, "calls": 2}]
    for gpus, ms in layer.items():
        exchange = {"mixed_to_heads_ms": ms * 0.75, "mixed_to_tokens_ms": ms * 0.25}
        rows.append({"model": "m", "step": "exchange", "mode": "ulysses", "gpus": gpus, **exchange})
    for gpus in sizes:
        shares = {"one": 1} if gpus == 1 else {"ulysses": gpus, "guidance": gpus / 2}
        for mode, share in shares.items():
            half = 2 if mode == "guidance" else 1
            seconds = (1 + 8 / share) / half + 0.1 * layer.get(gpus // half, 0) / half
            rows.append({"model": "m", "step": "sparse", "mode": mode, "gpus": gpus, "seconds": seconds})
            rows[-1]["peak_bytes"] = 2**30 * (2 + 4 / share)
    return rows


def test_a_machine_that_is_as_the_plan_takes_it_shows_no_error():
    rows = parallel_plan.rows(measured((1, 2, 4, 8)))
    assert [(row["mode"], row["gpus"]) for row in rows] == [
        (mode, gpus) for mode in ("ulysses", "guidance") for gpus in (4, 8)
    ]
    for row in rows:
        assert row["seconds_error"] == pytest.approx(0, abs=1e-3)
        assert row["peak_error"] == pytest.approx(0, abs=1e-3)
        assert row["planned_exchange_share"] == pytest.approx(row["exchange_share"], abs=1e-3)
    four = rows[0]
    assert four["planned_seconds"] == pytest.approx(1 + 2 + 0.75)
    assert "| m | 4 | Ulysses | sparse | 3.75 | 2.40x | 20 % | 3.0 GiB | 3.75 | +0 % |" in parallel_tables.plan_table(
        rows
    )


def test_what_no_two_gpus_were_measured_at_is_not_planned():
    rows = [row for row in measured((1, 2)) if row.get("mode") != "ulysses"]
    assert parallel_plan.rows(rows) == []
    assert {row["mode"] for row in parallel_plan.rows(measured((1, 2)))} == {"ulysses", "guidance"}
    assert all("seconds" not in row for row in parallel_plan.rows(measured((1, 2))))


def test_the_readme_shows_what_was_measured():
    result = json.loads((ROOT / "docs" / "kernels" / "parallel.json").read_text())
    assert readme.parallel_section(result) in (ROOT / "kernels" / "README.md").read_text()
