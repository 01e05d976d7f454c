"""The workshop of the demo model: a small Wan text-to-video pipeline, trained on videos that it draws itself.

`scenes` draws captioned videos, `training` fits the VAE and then the transformer with its text encoder,
`evaluation` reads shape, colour and motion back out of generated videos. The trained weights lie in `weights/`, a
distribution of their own (`adaspa-demo-model`); the rest is in no wheel and runs from the checkout.
"""
