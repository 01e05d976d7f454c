"""Table of where in the denoising sparse attention costs picture: rows that are sparse in one part alone."""

import math
import re
from typing import Any

from benchmarks import markdown
from benchmarks.fidelity.field import interval
from benchmarks.fidelity.tables import SHORT, Row

SHIFT = 3.0  # of the noise levels at SHORT tokens: `demo_model.long_clips` has it grow with the root of the tokens
LOWEST = 0.001  # the training's lowest noise level, before its shift


def noise(tokens: int, steps: int) -> list[float]:
    """The noise level before each step of the demo models, and 0 behind the last, as their scheduler has it."""
    shift = SHIFT * math.sqrt(tokens / SHORT)

    def shifted(level: float) -> float:
        return shift * level / (1 + (shift - 1) * level)

    lowest = shifted(LOWEST)
    return [*(shifted(1 - (1 - lowest) * step / (steps - 1)) for step in range(steps)), 0.0]


def table(results: list[dict[str, Any]]) -> str:
    """A line for each part, two columns for each length.

    Args:
        results: of `demo_model.fidelity`: of the small model, and of lengths of the long one.
    """
    by_tokens = {int(result["settings"].get("tokens", SHORT)): result for result in results}
    found = {tokens: parts_of(result["rows"]) for tokens, result in sorted(by_tokens.items())}
    found = {tokens: rows for tokens, rows in found.items() if rows}
    columns = ["sparse in these of 50 steps"]
    for tokens in found:
        columns += [f"noise taken away, {tokens:,} tokens", "PSNR, dB (95 % interval)"]
    lines = markdown.head(columns)
    for part in dict.fromkeys(part for rows in found.values() for part in rows):
        cells = ["{} to {}".format(*part)]
        for tokens, rows in found.items():
            steps = by_tokens[tokens]["settings"]["steps"]
            levels = noise(tokens, steps)
            first, last = (round(step * steps / 50) for step in (part[0], part[1] + 1))
            row = rows.get(part)
            cells += [
                f"{levels[first] - levels[last]:.2f}",
                "{:.1f} ({:.1f} to {:.1f})".format(row["psnr"], *interval(row["clips"])) if row else "",
            ]
        lines.append(markdown.line(cells))
    return "\n".join(lines)


def parts_of(rows: list[Row]) -> dict[tuple[int, int], Row]:
    """The rows that are sparse in one part alone, by its first and last step."""
    matches = ((re.fullmatch(r"sparse in steps (\d+) to (\d+) alone", row["name"]), row) for row in rows)
    return {(int(match[1]), int(match[2])): row for match, row in matches if match}
