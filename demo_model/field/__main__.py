"""Measure the field's methods beside ours on the demo model.

    python -m demo_model.field --output field.json

Every row makes the videos of the same held-out captions from the same noise as dense attention does, and has the PSNR
and SSIM of each clip to its dense video. All methods are computed in the open here, in the same arithmetic: what they
cost is counted in multiplications, and no seconds are. Rows are written one by one; a row that the file has already is
not run again.
"""

import argparse
import json
import time
from datetime import date
from typing import Any

import torch
from adaspa_worker.comparison import psnr, ssim

from demo_model.field.grid import Row, rows
from demo_model.field.subject import Subject, add_settings, head_of


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all batches: lists by clip one behind the other, others as means."""
    first = parts[0]
    found: dict[str, Any] = {key: [x for part in parts for x in part[key]] for key in ("work", "density")}
    found["work"], found["density"] = ([round(x, 5) for x in found[key]] for key in ("work", "density"))
    found["router"] = round(first["router"], 5)
    if "by_clip" in first:
        found["by_clip"] = {key: [x for part in parts for x in part["by_clip"][key]] for key in first["by_clip"]}
        for name in ("by_layer", "spectrum"):
            found[name] = {
                key: [round(sum(x) / len(x), 7) for x in zip(*(part[name][key] for part in parts), strict=True)]
                for key in first[name]
            }
    return found


def measure(args: argparse.Namespace, chosen: list[Row]) -> None:
    """All chosen rows that the file does not have yet, until the time is over."""
    started = time.monotonic()
    torch.backends.cuda.matmul.allow_tf32 = True  # products of bfloat16 are exact in it
    subject = Subject(args)
    result: dict[str, Any] = {"date": date.today().isoformat(), **head_of(args, subject.device), "rows": []}
    if args.output.exists():
        old = json.loads(args.output.read_text())
        if old["settings"] != result["settings"]:
            raise ValueError(f"{args.output} was measured with other settings: {old['settings']}")
        result["rows"] = old["rows"]
    dense, _ = subject.videos(None)
    for row in chosen:
        if any(found["name"] == row.name for found in result["rows"]):
            continue
        if time.monotonic() - started > 60 * args.minutes:
            print("out of time: run it again for the rest", flush=True)
            break
        begin = time.monotonic()
        videos, parts = subject.videos(row)
        pairs = list(zip(videos, dense, strict=True))
        entry = {"name": row.name, "method": row.method, "setting": row.setting, "group": row.group, **joined(parts)}
        entry |= {"psnr": [psnr(a, b) for a, b in pairs], "ssim": [ssim(a, b) for a, b in pairs]}
        result["rows"].append(entry)
        args.output.write_text(json.dumps(result) + "\n")
        print(brief(entry), f"{time.monotonic() - begin:.1f} s", flush=True)


def brief(row: dict[str, Any]) -> str:
    def mean(values: list[float]) -> str:
        return f"{sum(values) / len(values):.4f}"

    told = {"work": row["work"], "density": row["density"], "psnr": row["psnr"], **row.get("by_clip", {})}
    return f"{row['name']}: " + " ".join(f"{key} {mean(values)}" for key, values in told.items())


def main() -> None:
    known = rows()
    groups = list(dict.fromkeys(row.group for row in known.values()))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=groups, default=groups)
    parser.add_argument(
        "--rows", nargs="+", choices=list(known), metavar="ROW", help="some rows only, instead of groups"
    )
    add_settings(parser)
    parser.add_argument("--minutes", type=float, default=9.0, help="start no new row after this time")
    args = parser.parse_args()
    if args.captions < 1 or args.batch < 1 or args.steps < 5:
        parser.error("--captions and --batch must be at least 1, --steps at least 5")
    measure(
        args,
        [known[name] for name in args.rows] if args.rows else [r for r in known.values() if r.group in args.groups],
    )


if __name__ == "__main__":
    main()
