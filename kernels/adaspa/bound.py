"""Objects that belong to one transformer and cannot go along with a copy of it."""

from typing import Any, NoReturn, SupportsIndex

_UNCOPYABLE = (
    "a transformer with AdaSpa can be neither copied nor pickled: adaspa.remove(transformer) first, and adaspa.apply "
    "to each copy afterwards; its state_dict can be saved as it is"
)


class Bound:
    """Object that belongs to one transformer: a copy of it would go on running the original's weights."""

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        """Raise TypeError."""
        raise TypeError(_UNCOPYABLE)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Raise TypeError."""
        raise TypeError(_UNCOPYABLE)
