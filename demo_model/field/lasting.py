"""How long the error of sparse attention lasts: `python -m demo_model.field.lasting --output lasting.json`.

The videos are made by dense attention. Behind one search, each call also attends by the lists of the search. What dense
attention has beside that is compared with what it had at the search.
"""

import argparse
import json
from collections import defaultdict
from datetime import date
from typing import Any

import torch
from adaspa.selection import RetainedMass, TopK
from torch import Tensor

from demo_model.field.call import Call, Outcome, block_mean, dense_outcome, over_tokens
from demo_model.field.grid import Row, warmup
from demo_model.field.methods.exact import Exact
from demo_model.field.subject import Subject, add_settings, head_of

POLICIES = {"density 0.19": TopK(0.81, head_adaptive=False), "mass 0.9": RetainedMass(0.9)}
PARTS = ("shared by 64", "private")
Sums = dict[tuple[int, str], list[Tensor]]
"""By step and part: the sums of products of the error with that at the search, and of each with itself."""


class Lasting(Exact):
    """Dense attention that looks at what the lists of a search would lose."""

    def __init__(self, policy: Any, search: int, sums: Sums) -> None:
        super().__init__(policy, (search,))
        self.sums, self.first = sums, dict[tuple[int, int], Tensor]()

    def attend(self, call: Call) -> Outcome:
        super().attend(call)
        error = call.dense.float() - call.sparse(self.keep[self.site(call)]).float()
        before = self.first.setdefault(call.place.site, error)
        shared = [over_tokens(block_mean(x)) for x in (error, before)]
        parts = shared, [error - shared[0], before - shared[1]]
        for name, (now, then) in zip(PARTS, parts, strict=True):
            self.sums[call.place.step, name].append(
                torch.stack([(a * b).double().sum() for a, b in ((now, then), (then, then), (now, now))])
            )
        return dense_outcome(call)


def figures(sums: Sums) -> dict[str, dict[str, list[float]]]:
    """By part: ``lasts``, what of the error at the search is still there, and ``alike``, its cosine, step by step."""
    found: dict[str, dict[str, list[float]]] = {name: {"lasts": [], "alike": []} for name in PARTS}
    for (_, name), values in sorted(sums.items(), key=lambda item: item[0][0]):
        both, then, now = torch.stack(values).sum(0).tolist()
        found[name]["lasts"].append(round(both / then, 4))
        found[name]["alike"].append(round(both / (then * now) ** 0.5, 4))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser)
    args = parser.parse_args()
    subject, search = Subject(args), warmup(args.steps)
    result: dict[str, Any] = {"date": date.today().isoformat(), **head_of(args, subject.device), "rows": []}
    for name, policy in POLICIES.items():
        sums: Sums = defaultdict(list)

        def make(_: int, policy: Any = policy, sums: Sums = sums) -> Lasting:
            return Lasting(policy, search, sums)

        subject.videos(Row("lasting", name, "lasting", make))
        result["rows"].append({"setting": name, "search": search, **figures(sums)})
        args.output.write_text(json.dumps(result) + "\n")
        print(name, figures(sums), flush=True)


if __name__ == "__main__":
    main()
