"""Teach the text encoder which words belong together, before the transformer learns to draw.

`a red circle moves left and a blue star rotates` has the same words as its four mix-ups. From the loss of the drawing
alone the encoder does not learn to keep them apart: its tokens see each other's distance only through the relative
position bias, whose gradient is small, and at the other weights' learning rate that stays near nothing. Here every
word of a phrase has to tell the whole phrase, and the bias learns faster than the rest.
"""

import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from demo_model.latents import CAPTION_TOKENS
from demo_model.scenes import COLORS, MOTIONS, SHAPES, SIZES, Scene, caption, sample_scenes

BIAS_FASTER = 20.0  # learning rate of the relative position bias, in that of the other weights
PAIRS = 0.7  # share of captions with two phrases
UNTOLD = -100  # a word outside the phrases
ATTRIBUTES = {
    "phrase": (0, 1),
    "color": tuple(COLORS),
    "shape": SHAPES,
    "motion": MOTIONS,
    "size": (None, *SIZES),
}


class PhraseReader(nn.Module):
    """Reads the attributes of its phrase off each token: logits ``[B, T, choices]`` by attribute."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(choices)) for name, choices in ATTRIBUTES.items()})

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        return {name: head(hidden) for name, head in self.heads.items()}


def phrase_answers(scene: Scene) -> list[dict[str, int]]:
    """What each word of the caption's phrases has to tell, as places in `ATTRIBUTES`; {} for `and` between them."""
    answers: list[dict[str, int]] = []
    for i, actor in enumerate(scene.actors):
        told = {
            "phrase": i,
            "color": ATTRIBUTES["color"].index(actor.color),
            "shape": ATTRIBUTES["shape"].index(actor.shape),
            "motion": ATTRIBUTES["motion"].index(actor.motion),
            "size": ATTRIBUTES["size"].index(actor.size if actor.size_named else None),
        }
        answers += [{}] * (i > 0) + [told] * (1 + len(actor.phrase().split()))
    return answers


def draw_captions(
    tokenizer: PreTrainedTokenizerBase, rng: random.Random, count: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Token ids int64 ``[count, 40]`` of captions, and the answers of each token by attribute, `UNTOLD` elsewhere."""
    scenes = sample_scenes(rng, count, two_actors=PAIRS)
    texts = [caption(scene) for scene in scenes]
    tokens = tokenizer(texts, padding="max_length", max_length=CAPTION_TOKENS, return_tensors="pt").input_ids
    answers = {name: torch.full(tokens.shape, UNTOLD) for name in ATTRIBUTES}
    for row, scene in enumerate(scenes):
        for place, told in enumerate(phrase_answers(scene)):
            for name, value in told.items():
                answers[name][row, place] = value
    return tokens, answers


def text_groups(text_encoder: nn.Module, rest: list[nn.Parameter], lr: float) -> list[dict[str, object]]:
    """Optimizer groups of the encoder and of `rest`: the relative position bias has a faster one of its own."""
    bias = [p for name, p in text_encoder.named_parameters() if "relative_attention_bias" in name]
    chosen = {id(p) for p in bias}
    return [
        {"params": [p for p in (*text_encoder.parameters(), *rest) if id(p) not in chosen], "lr": lr},
        {"params": bias, "lr": BIAS_FASTER * lr},
    ]


def binding_loss(text_encoder: nn.Module, reader: PhraseReader, tokens: Tensor, answers: dict[str, Tensor]) -> Tensor:
    """The mean cross-entropy of the answers, added over the attributes."""
    read = reader(text_encoder(tokens, tokens.ne(0).long()).last_hidden_state)
    losses = [F.cross_entropy(read[name].flatten(0, 1), answers[name].flatten(), ignore_index=UNTOLD) for name in read]
    return torch.stack(losses).sum()


@torch.no_grad()
def share_bound(text_encoder: nn.Module, reader: PhraseReader, tokens: Tensor, answers: dict[str, Tensor]) -> float:
    """The share of words in phrases that tell all of their phrase."""
    read = reader(text_encoder(tokens, tokens.ne(0).long()).last_hidden_state)
    right = torch.stack([read[name].argmax(-1) == answers[name] for name in read]).all(0)
    return float(right[answers["phrase"] != UNTOLD].float().mean())
