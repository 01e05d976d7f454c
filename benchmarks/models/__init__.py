"""Full-size models with random weights: their denoising steps by kind, and whole denoisings."""
