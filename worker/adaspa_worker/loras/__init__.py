"""LoRA adapters: their files, the names of their weights, and where a transformer takes them."""
