"""Time the operations on this GPU beside the kernels a user would pick instead: `python -m benchmarks.attention`."""
