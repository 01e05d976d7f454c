"""The parts of the demo model's training that replace a library's: they compute what the library computes."""

import torch
from adaspa_worker.demo_model.architecture import build_vae
from adaspa_worker.demo_model.muon import StackedMuon
from adaspa_worker.demo_model.whole_clip import allow_whole_clips, decode_clip, encode_clip


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
