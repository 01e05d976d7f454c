"""What the lengths are compared by: how concentrated attention is, and what the long model must reach to ship."""

from pathlib import Path

import torch
from adaspa_demo_model import PIPELINE_FOLDER
from diffusers import WanTransformer3DModel

from benchmarks.fidelity import lengths as tables
from demo_model.field.meter import metered
from demo_model.lengths import shortfalls
from demo_model.long_model import as_short
from demo_model.stability import Watch, concentration, heaviest

STEPS = 5


def test_a_row_needs_as_many_blocks_as_hold_the_mass() -> None:
    shares = torch.tensor([0.05, 0.5, 0.35, 0.1] + [0.0] * 6).view(1, 1, 1, 10)
    figures = {name: float(value) for name, value in concentration(shares).items()}
    assert figures["density_at_0.8"] == torch.tensor(0.2)
    assert figures["density_at_0.9"] == torch.tensor(0.3)
    assert abs(figures["recall_at_0.2"] - 0.85) < 1e-6
    assert abs(figures["recall_at_0.1"] - 0.5) < 1e-6
    assert heaviest(shares, 0.2).flatten().nonzero().flatten().tolist() == [1, 2]


def test_looking_at_attention_changes_no_video_and_tells_how_far_it_moved() -> None:
    transformer = WanTransformer3DModel.from_pretrained(PIPELINE_FOLDER / "transformer", local_files_only=True)
    torch.manual_seed(0)
    clean, noise, text = torch.randn(2, 16, 5, 8, 8), torch.randn(2, 16, 5, 8, 8), torch.randn(2, 8, 192)
    watch = Watch(STEPS, 1)
    with torch.no_grad(), metered(transformer, watch):
        for step in range(STEPS):
            level = torch.full((2,), 1.0 - step / STEPS)
            given = torch.lerp(clean, noise, float(level[0]))
            seen = transformer(given, level * 1000.0, text, return_dict=False)[0]
    with torch.no_grad():
        plain = transformer(given, level * 1000.0, text, return_dict=False)[0]
    torch.testing.assert_close(seen, plain, rtol=1e-3, atol=1e-4)
    figures = watch.figures()
    first, *later = figures["lse_change"]
    assert figures["same_blocks"][first] == [1.0, 1.0]
    assert figures["early_recall"][first] == figures["recall_at_0.2"][first]
    assert figures["lse_change"][first] == [0.0, 0.0]
    assert all(min(figures["lse_change"][step]) > 0 for step in later)
    assert all(
        early <= fresh + 1e-5
        for step in later
        for early, fresh in zip(figures["early_recall"][step], figures["recall_at_0.2"][step], strict=True)
    )


def test_a_clip_of_any_length_is_read_at_the_small_models_size() -> None:
    video = torch.zeros(1, 81, 256, 256, 3, dtype=torch.uint8)
    video[:, :, :, 128:] = 200
    video[:, -1] = 10
    short = as_short(video)
    assert short.shape == (1, 33, 128, 128, 3)
    assert short[0, 0, 0, 63:65, 0].tolist() == [0, 200]
    assert short[0, -1].unique().tolist() == [10]


def test_weights_ship_if_every_length_reaches_its_mark() -> None:
    rows = [
        {"model": "long", "tokens": 21504, "right": {"all_attributes": 0.96}},
        {"model": "long", "tokens": 9216, "right": {"all_attributes": 0.94}},
        {"model": "long", "tokens": 2304},
        {"model": "small", "tokens": 2304, "right": {"all_attributes": 0.5}},
    ]
    assert shortfalls(rows) == ["9216 tokens: 0.94 of 0.95", "2304 tokens: 0 of 0.95"]
    assert shortfalls(rows[:1]) == []


def test_tables_and_plot_tell_every_length(tmp_path: Path) -> None:
    steps = {"5": [0.2, 0.3], "9": [0.3, 0.4], "24": [0.4, 0.5]}
    names = ("density_at_0.9", "density_at_0.8", "recall_at_0.2", "recall_at_0.1", "lse_change", "early_recall")
    variant = {"density": 0.2, "attention_work": 0.4, "clips": [30.0, 32.0]}
    rows = [
        {
            "model": model,
            "tokens": tokens,
            "frames": 33,
            "side": 128,
            "attention": dict.fromkeys(names, steps),
            "variants": {"density 0.2": variant, "density 0.1": variant},
        }
        for model, tokens in (("long", 21504), ("long", 2304), ("small", 2304))
    ]
    found = tables.table(rows).splitlines()
    assert [line.split("|")[1].strip() for line in found[2:]] == [
        "long model, 2,304 tokens (33 frames, 128x128)",
        "small model, 2,304 tokens (33 frames, 128x128)",
        "long model, 21,504 tokens (33 frames, 128x128)",
    ]
    assert "0.350 ± 0.071" in found[2]
    assert tables.variants_table(rows).count("31.0 ± 1.4 dB (0.20, 0.40)") == 6
    tables.plot(rows, tmp_path / "lengths.png")
    assert (tmp_path / "lengths.png").stat().st_size > 10_000
