"""The demo model: a small Wan text-to-video pipeline, trained by this package on videos that it draws itself.

`scenes` draws captioned videos, `training` fits the VAE and then the transformer with its text encoder,
`evaluation` reads shape, colour and motion back out of generated videos, `pipeline/` holds the trained weights.
"""

from pathlib import Path

PIPELINE_FOLDER = Path(__file__).with_name("pipeline")
