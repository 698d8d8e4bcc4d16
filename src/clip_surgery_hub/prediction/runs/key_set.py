"""Which images are done: the keys of a run as digests, in little memory for a hundred million of them."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from itertools import islice

import numpy as np

from clip_surgery_hub.prediction.runs.schema import utf8

_BYTES = 16
_BUCKETS = 256
_KEYS_AT_ONCE = 65536


class KeySet:
    """A set of keys that only knows whether a key is in it: ``key in keys``, ``len(keys)``.

    It keeps 16 bytes per key, a digest, sorted in one array per first byte. That two of a hundred million
    keys have one digest has a chance of 1 in 10^22. The arrays hold no Python objects, so that forked workers
    share their memory.

    Args:
        keys: taken one after the other, any number of times each.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        buckets = [bytearray() for _ in range(_BUCKETS)]
        remaining = iter(keys)
        while chunk := list(islice(remaining, _KEYS_AT_ONCE)):
            _sort_in(chunk, buckets)
        self._digests: list[np.ndarray] = []
        for number in range(_BUCKETS):
            digests = np.frombuffer(bytes(buckets[number]), dtype=f"S{_BYTES}")
            buckets[number].clear()  # never all of it twice in memory
            self._digests.append(np.unique(digests))

    def __contains__(self, key: str) -> bool:
        digest = _digest(key)
        # An array of one, for a single value of numpy's strings loses the zero bytes at its end.
        wanted = np.frombuffer(digest, dtype=f"S{_BYTES}")
        bucket = self._digests[digest[0]]
        place = int(bucket.searchsorted(wanted)[0])
        return bucket[place : place + 1].tobytes() == digest

    def __len__(self) -> int:
        return sum(map(len, self._digests))


def _digest(key: str) -> bytes:
    return blake2b(utf8(key).encode(), digest_size=_BYTES).digest()


def _sort_in(keys: list[str], buckets: list[bytearray]) -> None:
    """Append the digests of the keys to the bucket of their first byte."""
    digests = np.frombuffer(b"".join(map(_digest, keys)), dtype=np.uint8).reshape(-1, _BYTES)
    digests = digests[np.argsort(digests[:, 0], kind="stable")]
    ends = np.searchsorted(digests[:, 0], np.arange(_BUCKETS), side="right")
    for bucket, part in zip(buckets, np.split(digests, ends[:-1]), strict=True):
        bucket.extend(part.tobytes())
