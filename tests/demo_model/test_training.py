"""The demo model's training: what replaces a library's computes the same, and the text encoder learns to bind words."""

import random
from pathlib import Path

import torch
from adaspa_demo_model import PIPELINE_FOLDER

from demo_model.architecture import build_text_encoder, build_tokenizer, build_vae
from demo_model.binding import (
    ATTRIBUTES,
    PhraseReader,
    binding_loss,
    draw_captions,
    phrase_answers,
    share_bound,
    text_groups,
)
from demo_model.muon import StackedMuon
from demo_model.scenes import caption, sample_scenes
from demo_model.training import Log, load_work, save_work
from demo_model.whole_clip import allow_whole_clips, decode_clip, encode_clip


def test_a_whole_clip_gives_what_the_vae_gives_in_chunks() -> None:
    torch.manual_seed(0)
    vae = build_vae().eval()
    allow_whole_clips(vae)
    with torch.no_grad():
        video = torch.rand(1, 3, 9, 32, 32) * 2.0 - 1.0
        chunked = vae.encode(video).latent_dist
        mean, log_variance = encode_clip(vae, video)
        torch.testing.assert_close(mean, chunked.mean)
        torch.testing.assert_close(log_variance, chunked.logvar)
        torch.testing.assert_close(decode_clip(vae, mean).clamp(-1.0, 1.0), vae.decode(mean).sample)


def test_stacked_muon_takes_the_steps_of_torch() -> None:
    torch.manual_seed(0)
    shapes = [(16, 16), (16, 48), (48, 16), (16, 16)]
    stacked = [torch.randn(shape, requires_grad=True) for shape in shapes]
    single = [weight.detach().clone().requires_grad_() for weight in stacked]
    ours = StackedMuon(stacked, lr=0.02)
    theirs = torch.optim.Muon(single, lr=0.02, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for a, b in zip(stacked, single, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    for a, b in zip(stacked, single, strict=True):
        # Both iterate in bfloat16, in another order of operations.
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.002)


def test_every_word_of_a_phrase_has_to_tell_it() -> None:
    scene = next(s for s in sample_scenes(random.Random(1), 50) if len(s.actors) == 2)
    words, answers = caption(scene).split(), phrase_answers(scene)
    for i, actor in enumerate(scene.actors):
        own = [word for word, told in zip(words, answers, strict=False) if told.get("phrase") == i]
        assert " ".join(own) == f"a {actor.phrase()}"
        told = next(told for told in answers if told.get("phrase") == i)
        read = {name: ATTRIBUTES[name][told[name]] for name in ("color", "shape", "motion")}
        assert read == {"color": actor.color, "shape": actor.shape, "motion": actor.motion}


def test_the_text_encoder_learns_which_words_belong_together() -> None:
    torch.manual_seed(0)
    tokenizer, rng = build_tokenizer(), random.Random(0)
    encoder = build_text_encoder(tokenizer).train()
    reader = PhraseReader(encoder.config.d_model)
    optimizer = torch.optim.AdamW(text_groups(encoder, list(reader.parameters()), 2e-3), weight_decay=0.0)
    tokens, answers = draw_captions(tokenizer, rng, 32)
    assert share_bound(encoder, reader, tokens, answers) < 0.1
    for step in range(150):
        if step % 10 == 0 and share_bound(encoder, reader, tokens, answers) > 0.9:
            break
        binding_loss(encoder, reader, *draw_captions(tokenizer, rng, 32)).backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert share_bound(encoder, reader, tokens, answers) > 0.9


def test_a_saved_pipeline_does_not_say_where_it_lay(tmp_path: Path) -> None:
    for _ in range(2):  # a new one, then one that was loaded
        pipe = load_work(tmp_path, "vae")[0]
        save_work(pipe, tmp_path, Log(tmp_path / "training.json", "vae"))
    load_work(tmp_path, "vae")
    for folder in (tmp_path / "pipeline", PIPELINE_FOLDER):
        assert [file for file in folder.rglob("*.json") if "_name_or_path" in file.read_text()] == []
