"""One video by several processes, which `parallel_run` starts: with gloo, and with NCCL where there are two GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adaspa.deal import Deal
from adaspa.parallel.ranks import check_degree
from tiny_pipelines import TINY
from waiting import PATIENCE

HERE = Path(__file__).parent
FAMILIES = [*TINY, "minimax-h3", "chronoedit", "consisid", "ltx-condition"]


def program(result, *options):
    paths = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    line = [sys.executable, str(HERE / "parallel_run.py"), str(result), *options]
    environment = {**os.environ, "PYTHONPATH": paths}
    if "cuda" not in options:  # forked ranks may not touch a GPU, so they see none
        environment["CUDA_VISIBLE_DEVICES"] = ""
    ended = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return json.loads(result.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return program(tmp_path_factory.mktemp("ranks") / "found.json")


@pytest.mark.parametrize("family", FAMILIES)
def test_two_ranks_make_the_sparse_video_of_one_process(found, family):
    made = found["two"][family]
    assert (made["sparse"], made["ranks"]) == (0, 2) and made["density"] < 0.9
    assert made["figures"], "density, recall and attention work of each head are those of one process"
    if not family.startswith("ltx-2"):  # whose layers may read the values again
        assert made["kept"] == 0, "a rank's own queries, keys and values take no memory while it attends"


def test_density_one_and_remove_give_each_rank_the_plain_video(found):
    assert found["two"]["plain"] == {name: {"full": 0, "removed": 0} for name in ("wan", "hunyuan-video")}


@pytest.mark.parametrize("policy", ["top_k", "retained_mass", "compensated"])
def test_heads_are_dealt_by_what_the_searches_kept(found, policy):
    made = found["two"]["dealt"][policy]
    assert (made["sparse"], made["figures"]) == (0, True)
    assert made["dealt"] < 1.05 < made["even"]


def test_context_parallelism_by_diffusers_before_and_behind_apply(found):
    assert found["two"]["by diffusers"] == [{"sparse": 0, "figures": True}] * 2


def test_guidance_branches_side_by_side_each_by_two_ranks(found):
    assert (
        found["four"]["wan"]
        == found["four"]["ltx"]
        == {
            "sparse": 0,
            "unguided": 0,
            "other pipeline": 0,
        }
    )


def test_four_ranks_share_one_sequence(found):
    made = found["four"]["dealt"]
    assert (made["sparse"], made["figures"], made["ranks"]) == (0, True, 4)
    assert made["dealt"] < made["even"], "six heads, of which two ranks have one only"


def test_two_ranks_share_a_sequence_with_text_and_several_heads_each(found):
    assert found["two"]["joint"] == {"sparse": 0, "figures": True, "ranks": 2}


def test_the_benchmark_measures_two_beside_one_and_says_what_to_expect_of_more(found):
    result = found["benchmark"]
    measured = [(row["mode"], row["gpus"]) for row in result["rows"] if row["step"] == "sparse"]
    assert measured == [("one", 1), ("guidance", 2), ("ulysses", 2)]
    assert all(row["difference"] < 0.01 for row in result["rows"] if row.get("difference") is not None)
    assert [row["heads"] for row in result["rows"] if row["step"] == "sparse, skewed"] == ["even", "dealt"]
    assert {row["gpus"] for row in result["plan"]} == {4, 8}


def test_what_cannot_be_parallel_is_refused_in_one_line(found):
    said = found["two"]["refusals"]
    assert said["not applied"].startswith("model must be one that adaspa.apply was called on")
    assert said["world"] == "ulysses * guidance must be the number of processes, 2, got 3 * 1"
    assert said["ring"].startswith("ring_degree must be 1 while AdaSpa is applied, got 2")
    assert said["tiles"].startswith("token_order must be 'raster' under context parallelism")
    assert said["plan"].startswith("context parallelism must be off: neither diffusers nor AdaSpa has a plan for ")
    assert found["four"]["degree"].startswith("ulysses_degree must be at most the 2 heads of each layer, got 4")


@pytest.mark.parametrize(("degree", "largest"), [(5, 4), (7, 6), (48, 24)])
def test_a_degree_that_does_not_divide_the_heads_names_the_largest(degree, largest):
    with pytest.raises(ValueError, match=rf"^ulysses_degree must divide the 24 heads .* is {largest}$"):
        check_degree(degree, 24, uneven=False)
    check_degree(min(degree, 24), 24, uneven=True)


@pytest.mark.parametrize("heads", [24, 40])
@pytest.mark.parametrize("ranks", [2, 4])
def test_skewed_heads_leave_no_rank_waiting(heads, ranks):
    for seed in range(20):
        spread = torch.randn(heads, generator=torch.Generator().manual_seed(seed))
        costs = (0.2 * spread.mul(0.7).exp()).sort().values.tolist()
        assert Deal.even(heads, ranks).imbalance(costs) > 1.2
        dealt = Deal.by_cost(costs, ranks)
        assert sorted(dealt.order) == list(range(heads))
        assert dealt.imbalance(costs) < 1.05


def test_four_heads_are_dealt_as_well_as_they_can_be():
    assert Deal.by_cost([1, 9, 1, 1], 2).hands == ((0, 2, 3), (1,))
    assert Deal.by_cost([4, 3, 2, 1], 2).imbalance([4, 3, 2, 1]) == 1
    assert Deal.by_cost([5, 1, 1, 1], 4).hands == ((0,), (1,), (2,), (3,))
    assert Deal.even(5, 2).hands == ((0, 1, 2), (3, 4))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_make_the_video_of_one(tmp_path):
    made = program(tmp_path / "found.json", "cuda")["two"]
    for family in set(TINY) & set(made):
        assert (made[family]["sparse"], made[family]["figures"]) == (0, True), family
    assert made["plain"] == {name: {"full": 0, "removed": 0} for name in ("wan", "hunyuan-video")}
    parts = *made["dealt"].values(), made["joint"], *made["by diffusers"]
    assert all(part["sparse"] == 0 and part["figures"] for part in parts)
