"""The tables of the page: written between the marks ``<!-- name -->`` and ``<!-- /name -->``, so that they never differ
from the results."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

Rows = Sequence[dict[str, Any]]


def table(head: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    """In Markdown."""
    head = list(head)
    rows = [head, ["---"] * len(head), *([text(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def text(value: object) -> str:
    """Whole numbers without a fraction, others in three digits."""
    return (
        f"{value:,.0f}"
        if isinstance(value, float) and value >= 100
        else f"{value:.3g}"
        if isinstance(value, float)
        else str(value)
    )


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Every table by the name of its mark."""
    return {
        "jobs": table(
            ("model", "a job with AdaSpa, s", "dense, s"),
            ((row["model"], row["seconds"], row["dense_seconds"]) for row in results["jobs"]),
        ),
        "groups": groups(results["groups"]),
        "sizing": sizing(results["sizing"]),
        "scaling": scaling(results["scaling"]),
        "sharing": table(
            (name.replace("_", " ") for name in results["sharing"][0]), (row.values() for row in results["sharing"])
        ),
        "most-workers": most_workers(results["most_workers"]),
    }


def groups(rows: Rows) -> str:
    """Seconds until a video is there by GPUs and requests an hour, a column for each size of group."""
    sizes = {row["group"]: row["basis"] for row in rows}
    found = {(row["model"], row["gpus"], row["per_hour"], row["group"]): row["seconds"] for row in rows}
    cases = dict.fromkeys((row["model"], row["gpus"], row["per_hour"]) for row in rows)

    def cell(case: tuple[str, int, float], size: int) -> str:
        if (*case, size) not in found:
            return ""
        seconds = found[(*case, size)]
        return "too busy" if seconds is None else text(seconds)

    names = {1: "a worker each"}
    heads = (
        f"{names.get(size, f'groups of {size}')}, s{'' if how == 'measured' else ' (planned)'}"
        for size, how in sizes.items()
    )
    head = ("model", "GPUs", "requests an hour", *heads)
    return table(head, ((*case, *(cell(case, size) for size in sizes)) for case in cases))


def sizing(rows: Rows) -> str:
    """GPUs by model and requests an hour, a column for each promise."""
    targets = sorted({row["target_seconds"] for row in rows})
    found = {(row["model"], row["per_hour"], row["target_seconds"]): row for row in rows}
    cases = dict.fromkeys((row["model"], row["per_hour"]) for row in rows)

    def cell(case: tuple[str, float], target: float) -> str:
        row = found[(*case, target)]
        return f"{row['workers']} ({100 * row['utilisation']:.0f} %)"

    head = ("model", "requests an hour", *(f"p95 wait {target:g} s" for target in targets))
    return table(head, ((*case, *(cell(case, target) for target in targets)) for case in cases))


def scaling(rows: Rows) -> str:
    """GPU hours a day and the p95 of the wait by requests an hour, a column for each way of scaling."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    found = {(row["policy"], row["per_hour"]): row for row in rows}

    def cell(policy: str, per_hour: float) -> str:
        row = found[policy, per_hour]
        return f"{text(row['gpu_hours_a_day'])} h, {text(row['p95_wait_seconds'])} s"

    rates = dict.fromkeys(row["per_hour"] for row in rows)
    return table(("requests an hour", *policies), ((rate, *(cell(p, rate) for p in policies)) for rate in rates))


def most_workers(found: dict[str, dict[str, int]]) -> str:
    """How many busy workers each part bears, a column for each set of settings."""
    names = dict.fromkeys(name for each in found.values() for name in each)
    head = ("what gives out", *found)
    return table(head, ((name.replace("_", " "), *(f"{each[name]:,}" for each in found.values())) for name in names))


def fill(page: str, results: dict[str, Any]) -> str:
    """The page with its tables as they are now.

    Raises:
        ValueError: a mark is missing.
    """
    for name, content in tables(results).items():
        marked = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not marked.search(page):
            raise ValueError(f"the page has no marks <!-- {name} --> and <!-- /{name} -->")
        page = marked.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", page)  # type: ignore[misc]
    return page
