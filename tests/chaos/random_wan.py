"""Writes a Wan 2.1 1.3B with random weights, its VAE in full size and a text encoder of a few words.

PYTHONPATH=tests python -m chaos.random_wan FOLDER
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from tiny_wan import save_pipeline

TEXT = 16
"""Channels of a text: those of the tiny text encoder."""
SMALL = {"num_attention_heads": 2, "attention_head_dim": 32, "ffn_dim": 64, "num_layers": 2}
SMALL_VAE = {"base_dim": 8, "num_res_blocks": 1}


def main() -> None:
    """Write it; on a machine without a GPU, one of the same structure that is small."""
    parser = argparse.ArgumentParser(description="Write a Wan 2.1 1.3B with random weights.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.manual_seed(0)
    whole = torch.cuda.is_available()
    shape = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30} if whole else SMALL
    with torch.device("cuda" if whole else "cpu"):
        transformer = WanTransformer3DModel(**shape, text_dim=TEXT).to(torch.bfloat16)
        vae = AutoencoderKLWan(**({} if whole else SMALL_VAE))
    save_pipeline(folder, transformer, vae)


if __name__ == "__main__":
    main()
