"""vLLM-Omni's whole Wan transformer, in one process and by the server's own Ulysses in two.

`vllm_omni_stand_ins` says what is not the server's.
"""

import pytest
import ranks
import torch
from adaspa import AdaSpaConfig
from ranks import ALL, GRID, HEADS, LAYERS, ODD_GRID, SPARSE, STEPS, THEIRS

PROGRAM = "vllm_omni_model"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return ranks.run(PROGRAM, 1, tmp_path_factory.mktemp("alone") / "run")[0]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return ranks.run(PROGRAM, 2, tmp_path_factory.mktemp("two") / "run")


def latents(ran, case, grid=GRID):
    return ran[case, grid]["latents"]


@pytest.mark.parametrize("grid", [GRID, ODD_GRID])
def test_at_density_one_a_whole_denoising_is_the_servers_own(alone, grid):
    torch.testing.assert_close(latents(alone, ALL, grid), latents(alone, THEIRS, grid), **CLOSE)
    assert alone[ALL, grid]["report"]["density"] == pytest.approx(1)


def test_the_report_of_a_whole_denoising_counts_its_steps_layers_and_work(alone):
    report, schedule = alone[SPARSE, GRID]["report"], AdaSpaConfig(**ranks.EVENLY).resolve(STEPS).schedule
    kinds = [schedule.kind(step) for step in range(STEPS)]
    for kind in ("dense", "search", "sparse"):
        assert report[f"{kind}_steps"] == kinds.count(kind) > 0
    blocks = 4 * 6 * 8 // 16
    assert report["density"] == pytest.approx(round(0.2 * blocks) / blocks)
    assert report["density"] < report["attention_work"] < 1 and report["fell_back"] == []
    assert 0 < report["recall"] < 1
    assert (latents(alone, SPARSE) - latents(alone, THEIRS)).abs().max() > 1e-3


def test_by_ulysses_in_two_processes_it_is_the_servers_own_too(alone, two):
    for ran in two:
        torch.testing.assert_close(latents(ran, THEIRS), latents(alone, THEIRS), **CLOSE)
        torch.testing.assert_close(latents(ran, ALL), latents(alone, THEIRS), **CLOSE)


def test_each_process_keeps_the_patterns_of_its_heads(alone, two):
    whole, own = alone[SPARSE, GRID]["lists"], HEADS // 2
    assert {layer for layer, _ in whole} == set(range(LAYERS)) and len(whole) == 2 * LAYERS
    for rank, ran in enumerate(two):
        torch.testing.assert_close(latents(ran, SPARSE), latents(alone, SPARSE), **CLOSE)
        lists = ran[SPARSE, GRID]["lists"]
        assert lists.keys() == whole.keys()
        for place, found in lists.items():
            for of_own, of_all in zip(found, whole[place], strict=True):
                assert torch.equal(of_own, of_all[:, rank * own : (rank + 1) * own])
        for number in ("density", "attention_work", "dense_steps", "search_steps", "sparse_steps"):
            assert ran[SPARSE, GRID]["report"][number] == alone[SPARSE, GRID]["report"][number]


def test_rows_that_fill_up_a_process_are_left_out(alone, two):
    for ran in two:  # the server attends to them, so that its two processes make another video than one
        assert not torch.allclose(latents(ran, THEIRS, ODD_GRID), latents(alone, THEIRS, ODD_GRID), **CLOSE)
        torch.testing.assert_close(latents(ran, ALL, ODD_GRID), latents(alone, THEIRS, ODD_GRID), **CLOSE)
        torch.testing.assert_close(latents(ran, SPARSE, ODD_GRID), latents(alone, SPARSE, ODD_GRID), **CLOSE)
        assert ran[SPARSE, ODD_GRID]["report"]["fell_back"] == []


@pytest.mark.parametrize("case", [ALL, SPARSE])
def test_a_process_has_its_rows_of_a_video_beside_text(alone, two, case):
    joined, theirs = (torch.cat([latents(ran, of, "text") for ran in two], 2) for of in (case, THEIRS))
    torch.testing.assert_close(joined, latents(alone, case, "text"), **CLOSE)
    torch.testing.assert_close(joined[:, :, : ranks.TEXT], theirs[:, :, : ranks.TEXT], **CLOSE)
    assert (case == ALL) == torch.allclose(joined, theirs, rtol=1e-4, atol=1e-4)
