"""The demo model: the trained weights of a small Wan text-to-video pipeline, in diffusers format."""

from pathlib import Path

PIPELINE_FOLDER = Path(__file__).with_name("pipeline")
