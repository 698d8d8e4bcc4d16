"""Keys that come twice, found with eight bytes of memory for a key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import islice

import numpy as np

__all__ = ["refuse_duplicates"]

KEYS_AT_ONCE = 65536


def refuse_duplicates(keys: Callable[[], Iterable[str]], source: str) -> None:
    """Make sure that no key comes twice.

    Args:
        keys: gives the keys; asked a second time only where two of them may be the same.
        source: what the message calls their source.

    Raises:
        ValueError: naming the first key that comes again.
    """
    chunks = [np.fromiter(map(_digest, chunk), np.uint64, len(chunk)) for chunk in _chunks(keys())]
    if not chunks:
        return
    ordered = np.concatenate(chunks)
    ordered.sort()
    suspected = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspected:
        return
    seen: set[str] = set()
    for key in keys():
        if _digest(key) not in suspected:
            continue
        if key in seen:
            raise ValueError(
                f"Two images have the key {key!r} in the {source}. Give each image one key of its own."
            )
        seen.add(key)


def _chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(keys)
    return iter(lambda: list(islice(remaining, KEYS_AT_ONCE)), [])


def _digest(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest())
