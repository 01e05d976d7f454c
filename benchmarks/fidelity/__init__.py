"""What sparsity costs: other methods' patterns, and tables of what `demo_model.fidelity` measured."""
