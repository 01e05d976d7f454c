"""Model families: a loaded pipeline each, with what they share in ``base`` and ``steps``."""
