"""`python -m benchmarks.models.encoders --output encoders.json`: seconds that the text encoders of large models take.

Random weights in bfloat16, as many tokens as the pipelines give them. Both prompts of a job are one batch, as in Wan;
HunyuanVideo has one.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaModel, UMT5Config, UMT5EncoderModel

from benchmarks.models import command_line
from benchmarks.results import add, ran_on

ROUNDS = 7


class Encoder(NamedTuple):
    """A text encoder: its class, its configuration as published, what makes it small, prompts and tokens."""

    model: str
    build: Callable[[Any], torch.nn.Module]
    config: type
    own: dict[str, int]
    small: dict[str, int]
    prompts: int
    tokens: int


ENCODERS = (
    Encoder(
        "UMT5-XXL, of Wan",
        UMT5EncoderModel,
        UMT5Config,
        {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 256384},
        {"d_model": 64, "d_ff": 64, "num_layers": 1, "num_heads": 2, "vocab_size": 100},
        2,
        512,
    ),
    Encoder(
        "Llama 3 8B, of HunyuanVideo",
        LlamaModel,
        LlamaConfig,
        {"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128320},
        {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 100}
        | {"num_attention_heads": 2, "num_key_value_heads": 2},
        1,
        351,
    ),
)


@torch.no_grad()
def seconds(encoder: Encoder, device: torch.device, *, quick: bool) -> dict[str, Any]:
    """Median seconds of one encoding, and bytes of the weights."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = encoder.build(encoder.config(**encoder.own | (encoder.small if quick else {}))).eval()
    finally:
        torch.set_default_dtype(usual)
    tokens = torch.randint(3, 100, (encoder.prompts, encoder.tokens), device=device)
    mask, found = torch.ones_like(tokens), []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        model(tokens, attention_mask=mask)[0].sum().item()
        found.append(time.perf_counter() - start)
    weights = sum(weight.nbytes for weight in model.parameters())
    return {"weights_bytes": weights, "seconds": round(statistics.median(found[1:]), 4)}


def main() -> None:
    parser = command_line.parser("encoders", __doc__)
    arguments, device = command_line.read(parser)
    result = {**ran_on(quick=arguments.quick), "rows": []}
    for encoder in ENCODERS:
        row = {"encoder": encoder.model, "prompts": encoder.prompts, "tokens": encoder.tokens}
        add(result, row | seconds(encoder, device, quick=arguments.quick), arguments.output)


if __name__ == "__main__":
    main()
