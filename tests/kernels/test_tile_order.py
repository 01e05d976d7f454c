import adaspa
import pytest
import torch
from adaspa.models.tile_order import TILES, along, tile_permutation
from tiny_pipelines import make_wan

CPU = torch.device("cpu")


@pytest.mark.parametrize("block", TILES)
def test_blocks_of_a_grid_of_whole_tiles_are_its_tiles(block):
    frames, rows, columns = size = TILES[block]
    grid = (2 * frames, 3 * rows, 2 * columns)
    order = tile_permutation(grid, block, CPU).order
    places = torch.stack(torch.unravel_index(order, grid), -1).view(-1, block, 3)
    spans = places.amax(1) - places.amin(1) + 1
    assert (spans == torch.tensor(size)).all()
    # Each tile is beside the one before it.
    tiles = places[:, 0] // torch.tensor(size)
    assert ((tiles[1:] - tiles[:-1]).abs().sum(-1) == 1).all()


@pytest.mark.parametrize("grid", [(33, 45, 80), (5, 3, 5), (1, 1, 1)])
def test_every_token_has_one_place_and_finds_back(grid):
    order, inverse = tile_permutation(grid, 64, CPU)
    tokens = torch.arange(grid[0] * grid[1] * grid[2])
    assert torch.equal(order.sort().values, tokens)
    assert torch.equal(order[inverse], tokens)


def test_the_text_in_front_stays():
    order, _ = tile_permutation((1, 4, 8), 16, CPU)
    tokens = torch.arange(40).unsqueeze(0)
    got = along(1)(tokens, order)
    assert torch.equal(got[0, :8], tokens[0, :8])
    assert torch.equal(got[0, 8:], order + 8)


def test_a_timestep_for_each_token_goes_with_it():
    """As in image-to-video with Wan 2.2 5B, whose first frame has timestep 0."""
    transformer = make_wan()
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(1, 4, 5, 6, 10, generator=generator), torch.randn(1, 8, 16, generator=generator)
    timestep = torch.full((1, 75), 900.0)
    timestep[:, :15] = 0
    with torch.no_grad():
        plain = transformer(latents, timestep, text).sample
        adaspa.apply(transformer, adaspa.AdaSpaConfig(block_size=16, token_order="tile"))
        torch.testing.assert_close(transformer(latents, timestep, text).sample, plain, rtol=1e-4, atol=1e-5)
