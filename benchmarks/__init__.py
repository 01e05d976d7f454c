"""Programs that measure, run from the checkout; in no wheel. Nothing that is installed imports them."""
