"""A server's whole Wan transformer, in one process and by the server's own Ulysses in two."""

import pytest
import ranks
import torch
from adaspa import AdaSpaConfig
from ranks import ALL, GRID, HEADS, LAYERS, ODD_GRID, SPARSE, STEPS, THEIRS

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def latents(ran, case, grid=GRID):
    return ran[case, grid]["latents"]


class WholeModel:
    """Checks that hold for every server.

    A subclass names the ``program`` of this folder that denoises with the server's transformer.
    """

    program: str

    @pytest.fixture(scope="class")
    def alone(self, tmp_path_factory):
        return ranks.run(self.program, 1, tmp_path_factory.mktemp("alone") / "run")[0]

    @pytest.fixture(scope="class")
    def two(self, tmp_path_factory):
        return ranks.run(self.program, 2, tmp_path_factory.mktemp("two") / "run")

    @pytest.mark.parametrize("grid", [GRID, ODD_GRID])
    def test_at_density_one_a_whole_denoising_is_the_servers_own(self, alone, grid):
        torch.testing.assert_close(latents(alone, ALL, grid), latents(alone, THEIRS, grid), **CLOSE)
        assert alone[ALL, grid]["report"]["density"] == pytest.approx(1)

    def test_the_report_of_a_whole_denoising_counts_its_steps_layers_and_work(self, alone):
        report, schedule = alone[SPARSE, GRID]["report"], AdaSpaConfig(**ranks.EVENLY).resolve(STEPS).schedule
        kinds = [schedule.kind(step) for step in range(STEPS)]
        for kind in ("dense", "search", "sparse"):
            assert report[f"{kind}_steps"] == kinds.count(kind) > 0
        blocks = 4 * 6 * 8 // 16
        assert report["density"] == pytest.approx(round(0.2 * blocks) / blocks)
        assert report["density"] < report["attention_work"] < 1 and report["fell_back"] == []
        assert 0 < report["recall"] < 1
        assert (latents(alone, SPARSE) - latents(alone, THEIRS)).abs().max() > 1e-3

    def test_by_ulysses_in_two_processes_it_is_the_servers_own_too(self, alone, two):
        for ran in two:
            torch.testing.assert_close(latents(ran, THEIRS), latents(alone, THEIRS), **CLOSE)
            torch.testing.assert_close(latents(ran, ALL), latents(alone, THEIRS), **CLOSE)

    def test_each_process_keeps_the_patterns_of_its_heads(self, alone, two):
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
