"""One sequence shared among processes: each holds some of its tokens, and in attention all tokens of some heads."""
