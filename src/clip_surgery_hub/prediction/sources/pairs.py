"""Images that a program has at hand, with the keys that it gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from clip_surgery_hub.prediction.sources.duplicate_keys import refuse_duplicates
from clip_surgery_hub.prediction.sources.source import ListedSource

__all__ = ["PairSource"]


class PairSource(ListedSource):
    """A sequence of ``(key, image)``, where an image is whatever `ImageTransform.read` takes.

    Raises:
        ValueError: for an item that is no pair with a string before it, or a key that comes twice.
    """

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        for number, pair in enumerate(pairs):
            if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)):
                raise ValueError(
                    f"Item {number} of the data is {type(pair).__name__} where a pair (key, image) was "
                    "expected, with a string as key."
                )
        self._pairs = pairs
        self.description = f"sequence of {len(pairs)} images"
        refuse_duplicates(self.keys, self.description)

    def count(self) -> int:
        """How many pairs there are."""
        return len(self._pairs)

    def keys(self, first: int = 0) -> Iterator[str]:
        """The keys in their order, from a row on."""
        return (key for key, _ in islice(self._pairs, first, None))

    def contents(self) -> Callable[[int], Any]:
        """From rows to images."""
        return lambda row: self._pairs[row][1]
