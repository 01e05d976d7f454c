"""One module per model family: how AdaSpa gets into its self-attention."""
