"""Other methods of sparse attention beside ours: each does what its paper says, and ours is what the library does."""

import argparse
import json
import sys
from collections import defaultdict

import adaspa
import pytest
import torch
from adaspa.residual import fading
from adaspa.selection import RetainedMass, TopK
from adaspa_worker.comparison import psnr

from benchmarks.fidelity import field as tables
from demo_model import evaluation
from demo_model.field import __main__ as field
from demo_model.field.call import BLOCK, Call, Place, block_mean
from demo_model.field.grid import exact, residual, rows
from demo_model.field.lasting import Lasting, figures
from demo_model.field.measures import mass_lost, output_error
from demo_model.field.methods.compensated import Compensated
from demo_model.field.methods.errors import ByLayer, Injected, OnePart
from demo_model.field.methods.exact import EveryStep, Exact
from demo_model.field.methods.residual import Residual
from demo_model.field.methods.skip_softmax import SkipSoftmax
from demo_model.field.methods.sol_attn import SolAttn
from demo_model.field.methods.svg2 import Svg2
from demo_model.field.missed import Found
from demo_model.field.subject import Subject

SETTINGS = argparse.Namespace(
    captions=2, seed=3, steps=7, guidance=1.0, device="cpu", dtype="float32", batch=2, minutes=9.0, output=None
)


def call(step=5, *, blocks=4, seed=0, loud=2.0):
    """A random call of two clips, whose neighbours are alike."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 2, blocks * BLOCK, 16)
    q, k = (torch.randn(shape, generator=generator) * loud for _ in range(2))
    q, k = (x + block_mean(x).repeat_interleave(BLOCK, 2) * 8 for x in (q, k))
    return Call(q, k, torch.randn(shape, generator=generator), Place(step, 0, 1), (blocks, 8, 8))


@pytest.fixture(scope="module")
def subject():
    return Subject(SETTINGS)


@pytest.fixture
def small(monkeypatch):
    """Clips of 3 x 8 x 8 tokens."""
    monkeypatch.setattr(evaluation, "SIDE", 64)
    monkeypatch.setattr(evaluation, "FRAMES", 9)


@pytest.mark.parametrize(("shared", "compensation"), [(False, "none"), (True, "none"), (False, "residual")])
def test_exact_is_what_the_library_does(subject, small, shared, compensation, monkeypatch):
    """The same videos as by `adaspa.apply`, with one of three blocks kept and two searches."""
    monkeypatch.setattr(subject.args, "guidance", 4.0 if shared else 1.0)
    policy = TopK(0.66, head_adaptive=False)
    make = residual(policy) if compensation == "residual" else exact(policy, shared=shared)
    row = field.Row("exact", "a third", "field", make)
    videos, figures = subject.videos(row)
    config = adaspa.AdaSpaConfig.paper().replace(sparsity=0.66, head_adaptive=False, steps=7, warmup=1, searches=(1, 4))
    config = config.replace(share_lists=shared, compensation=compensation)
    handle = adaspa.apply(subject.pipe.transformer, config)
    try:
        own = subject.generate(0)
        report = handle.report()
    finally:
        adaspa.remove(subject.pipe.transformer)
    assert [psnr(a, b) > 60 for a, b in zip(videos, own, strict=True)] == [True, True]
    assert figures[0]["work"] == pytest.approx([report["attention_work"]] * 2)
    assert figures[0]["density"] == pytest.approx([1 / 3] * 2)
    dense, _ = subject.videos(None)
    assert psnr(dense[0], own[0]) < 50


@pytest.mark.parametrize(
    "method",
    [SolAttn(-10), SolAttn(-10, corrects=False), SkipSoftmax(1e-30), Svg2(1.1, 4, 8), EveryStep(TopK(0.01), 0.0)],
    ids=["sol", "sol without correction", "skip", "svg2", "exact"],
)
def test_a_method_that_keeps_all_is_dense(method):
    given = call()
    outcome = method.attend(given)
    torch.testing.assert_close(outcome.out, given.dense, rtol=1e-3, atol=1e-4)
    assert outcome.share.tolist() == [1, 1]
    assert mass_lost(given, outcome.keep)["recall"].tolist() == pytest.approx([1, 1], abs=1e-4)


def test_sol_attn_puts_one_proxy_in_the_place_of_a_block():
    """Blocks of one key repeated are nothing but their proxies."""
    given = call()
    flat = Call(given.q, block_mean(given.k).repeat_interleave(BLOCK, 2), given.v, given.place, given.grid)
    outcome = SolAttn(10).attend(flat)
    assert outcome.share.tolist() == [0, 0]
    torch.testing.assert_close(outcome.out, flat.dense, rtol=1e-3, atol=1e-4)
    few = SolAttn(0.5).attend(given)
    better = output_error(given, few.out)["error"] < output_error(given, given.sparse(few.keep))["error"]
    assert 0 < few.share.max() < 0.6 and better.all()


def test_skip_softmax_multiplies_queries_and_keys_all_the_same():
    outcome = SkipSoftmax(1.0).attend(call(loud=4.0))
    assert (outcome.share < 1).all()
    torch.testing.assert_close(outcome.work, 0.5 + outcome.share / 2)
    assert outcome.keep[..., 0].all()


def test_svg2_clusters_what_is_alike_wherever_it_stands():
    """Four kinds of tokens, dealt in turn: blocks of neighbours hold all kinds, clusters one each."""
    kinds = torch.eye(16)[:4].repeat(BLOCK, 1).expand(2, 2, -1, -1) * 20
    given = Call(kinds, kinds, torch.randn(kinds.shape), Place(5, 0, 0), (4, 8, 8))
    outcome = Svg2(0.5, 4, 4).attend(given)
    assert outcome.share.tolist() == pytest.approx([0.25, 0.25])
    torch.testing.assert_close(outcome.out, given.dense, rtol=1e-3, atol=1e-4)
    assert outcome.router == pytest.approx(20 * 8 / (2 * 256))


@pytest.mark.parametrize("form", ["block masses", "proxies", "calibrated proxies"])
def test_compensation_brings_the_output_nearer(form):
    method, plain = (
        make(TopK(0.5, head_adaptive=False), (5, 15)) for make in (lambda *a: Compensated(*a, form), Exact)
    )
    for step in (5, 6):
        given = call(step, loud=0.3)
        compensated, nothing = method.attend(given), plain.attend(given)
    errors = [output_error(given, outcome.out)["error"] for outcome in (compensated, nothing)]
    assert (errors[0] < errors[1]).all()
    assert compensated.router > nothing.router == 0


def test_the_lasting_residual_of_a_search_is_put_back():
    """What is left of the error is what neighbours do not share, and what does not last."""
    policy = TopK(0.5, head_adaptive=False)
    method, plain = Residual(policy, (5,), 10), Exact(policy, (5,))
    for step in (5, 6):
        given = call(step)
        with_residual, nothing = method.attend(given), plain.attend(given)
    errors = output_error(given, with_residual.out), output_error(given, nothing.out)
    torch.testing.assert_close(errors[0]["shared_error"], (1 - fading(0.1)) * errors[1]["shared_error"])
    torch.testing.assert_close(errors[0]["private_error"], errors[1]["private_error"])


def test_what_lasts_of_an_error_is_told_by_step():
    """Inputs that stay as they are have the same error; others' values have nothing of it."""
    sums = defaultdict(list)
    method = Lasting(TopK(0.5, head_adaptive=False), 4, sums)
    for step, seed in ((4, 0), (5, 0), (6, 1)):
        given, other = call(step), call(step, seed=seed)
        given.v = other.v
        outcome = method.attend(given)
        assert outcome.keep is None and torch.equal(outcome.out, given.dense)
    for part in figures(sums).values():
        assert part["lasts"][:2] == part["alike"][:2] == [1, 1]
        assert abs(part["lasts"][2]) < 0.2 > abs(part["alike"][2])


def test_parts_of_an_error_make_up_the_whole():
    given, outs = call(), {}
    for part in ("shared by 64", "private", "without stretch", "half"):
        method = Exact(TopK(0.5, head_adaptive=False), (4,))
        method.attend(call(4))
        outs[part] = OnePart(method, part).attend(given).out - given.dense
    method = Exact(TopK(0.5, head_adaptive=False), (4,))
    method.attend(call(4))
    whole = method.attend(given).out - given.dense
    torch.testing.assert_close(outs["shared by 64"] + outs["private"], whole)
    torch.testing.assert_close(outs["half"] * 2, whole)
    along = (outs["without stretch"] * given.dense).sum((2, 3))
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-3, rtol=0)
    measured = output_error(given, given.dense + outs["private"])
    assert measured["shared_error"].max() < 1e-5 < measured["private_error"].min()


def test_layers_may_have_methods_of_their_own():
    method = ByLayer(SolAttn(10), EveryStep(TopK(0.01), 0.0), (1,))
    here, there = call(), call()
    there.place = Place(5, 0, 2)
    assert method.attend(here).share.tolist() == [0, 0] and method.attend(there).share.tolist() == [1, 1]


def test_an_injected_error_is_as_large_as_asked():
    given = call()
    for kind, name in (("each token", "private_error"), ("shared by 64", "shared_error")):
        measured = output_error(given, Injected(kind, 0.1).attend(given).out)
        assert measured["error"].tolist() == pytest.approx([0.1, 0.1], rel=0.1)
        assert (measured[name] > 0.95 * measured["error"]).all()
    assert output_error(given, Injected("scale", -0.05).attend(given).out)["stretch"].tolist() == pytest.approx(
        [-0.05] * 2
    )


def test_pooled_scores_miss_a_block_in_which_one_key_matters():
    """Four blocks of 64 keys that matter a little, one with a single key that matters more than each of them."""
    generator = torch.Generator().manual_seed(0)
    shape, first = (1, 1, 16 * BLOCK, 16), torch.eye(16)[0]
    q, k = (torch.randn(shape, generator=generator) * 0.1 for _ in range(2))
    q += 10 * first
    k[:, :, : 4 * BLOCK] += 4 * first
    k[:, :, 700] += 6.8 * first
    found = Found()
    found.look(Call(q, k, q, Place(5, 0, 1), (16, 8, 8)))
    figures = found.figures()
    assert sum(figures["queries"][:3]) > 1000  # of 1,024: they look at a few keys
    kept = {name: shares[2] for name, shares in figures["kept"].items()}
    assert kept["exact"] > 0.8
    assert kept["sub-blocks of 16 tokens"] < 0.3
    assert figures["example"]["place"]["key"] == 700 and figures["example"]["query_mass"][700 // BLOCK] > 0.8


def test_rows_are_measured_once_each(tmp_path, monkeypatch, subject, small):
    monkeypatch.setattr(field, "Subject", lambda args: subject)
    output = tmp_path / "field.json"

    def run(*names, steps=7):
        sizes = ["--device", "cpu", "--dtype", "float32", "--captions", "2", "--guidance", "1", "--steps", str(steps)]
        monkeypatch.setattr(sys, "argv", ["field", "--output", str(output), *sizes, "--rows", *names])
        field.main()
        return json.loads(output.read_text())["rows"]

    names = ["exact, two searches, density 0.31", "Sol-Attn, beta 0.5"]
    first = run(names[0])
    both = run(*names)
    assert [row["name"] for row in both] == names and both[0] == first[0]
    assert len(both[1]["psnr"]) == len(both[1]["by_clip"]["error"]) == 2
    with pytest.raises(ValueError, match="was measured with other settings"):
        run(*names, steps=6)


def test_each_row_has_its_name():
    assert all(row.name == name for name, row in rows().items())
    assert RetainedMass(0.99) in [row.make(25).policy for name, row in rows().items() if name.startswith("LoSA")]


def made_row(method, work, psnr, **more):
    by_clip = {"recall": [0.7, 0.7], "error": [0.1, 0.1]}
    row = {"name": f"{method} {work}", "method": method, "setting": "", "group": "field", "density": [0.2, 0.2]}
    return row | {"router": 0.01, "work": [work, work], "psnr": psnr, "by_clip": by_clip} | more


def test_tables_compare_clip_by_clip_at_equal_work():
    ours = [made_row(tables.OURS[0], 0.4, [30.0, 40.0]), made_row(tables.OURS[0], 0.6, [34.0, 44.0])]
    peer, far = made_row("peer", 0.5, [31.0, 43.0]), made_row("far", 0.9, [50.0, 50.0])
    assert tables.ours_at(ours, [0.5, 0.5]) == pytest.approx([32.0, 42.0])
    text = tables.table([peer, *ours, far])
    assert "| peer 0.5 | 0.20 | 0.700 | 0.010 | 0.50 | 37.0 | 31.0 | +0.0 (-1.0 to +1.0) | -1.0 | 50 % |" in text
    assert "beyond our points" in text
    assert text.index(tables.OURS[0]) < text.index("peer")
    lost = {f"a {0.1 * i}": {"error": 0.3 - 0.1 * i} for i in range(3)}
    told = tables.with_lost([made_row("a", 0.1 * i, [30.0 + i] * 2) for i in range(3)], lost)
    rank, miss = tables.predictions(told, "error")
    assert rank == pytest.approx(1) and miss < 0.4
