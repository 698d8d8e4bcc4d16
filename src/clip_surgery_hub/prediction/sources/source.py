"""What a source of images is, and how its samples are dealt out: each one once, whoever asks.

A share is what one reader takes: a worker of a rank. Every reader opens the same source and is told the same
keys that are done, so the readers agree on who takes what without speaking to each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np

from clip_surgery_hub.images.loading import ImageError

T = TypeVar("T")
ROWS_AT_ONCE = 65536
"""How many rows of a list are in memory as Python objects."""
Part = Iterator[tuple[str, Callable[[], Any]]]
"""Keys of a part of a stream in their order, each with the function that gives its content, to be called
before the next key is asked for, or not at all."""


class Sample(NamedTuple):
    """An image that is not decoded yet.

    Attributes:
        key: its name in the source, unique.
        content: a path, the bytes of an image file, a PIL image, or a :class:`ImageError` where that is
            all there is.
    """

    key: str
    content: Any


@dataclass(frozen=True)
class Share:
    """Which of ``of`` equal shares of a source: ``number`` counts from 0.

    Raises:
        ValueError: for a number out of range.
    """

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise ValueError(f"Share {self.number} of {self.of} does not exist; they count from 0.")

    def block(self, total: int) -> range:
        """The share's own of the places 0 to ``total``: the blocks of all shares follow on each other."""
        return range(total * self.number // self.of, total * (self.number + 1) // self.of)


class Source(ABC):
    """Where images come from.

    Attributes:
        description: what the source is, in a line that is the same wherever and whenever it is opened.
    """

    description: str

    def count(self) -> int | None:
        """How many samples there are; None where only reading all of them would tell."""
        return None

    def remaining(self, done: Container[str] = ()) -> int | None:
        """How many samples are not ``done``; None where only reading all of them would tell."""
        return None

    @abstractmethod
    def samples(self, share: Share, done: Container[str] = ()) -> Iterator[Sample]:
        """One share of the samples whose keys are not in ``done``: over all shares, each sample once."""


class ListedSource(Source):
    """A source that knows its keys, and whose samples can be looked up by their rows.

    What is done is left out first. The rest is dealt out in blocks of neighbors, equal up to one sample, so
    that a reader touches only its own part of the disk.
    """

    @abstractmethod
    def count(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def keys(self, first: int = 0) -> Iterator[str]:
        """The keys in their order, from a row on."""

    @abstractmethod
    def contents(self) -> Callable[[int], Any]:
        """A function from rows, asked for in ascending order, to contents."""

    def remaining(self, done: Container[str] = ()) -> int:
        """How many samples are not ``done``."""
        return self.count() if _is_empty(done) else sum(key not in done for key in self.keys())

    def samples(self, share: Share, done: Container[str] = ()) -> Iterator[Sample]:
        """One share of the samples whose keys are not in ``done``: over all shares, each sample once."""
        block = share.block(self.remaining(done))
        if not block:
            return
        content = self.contents()
        first = block.start if _is_empty(done) else 0
        rows = ((row, key) for row, key in enumerate(self.keys(first), first) if key not in done)
        for row, key in islice(rows, block.start - first, block.stop - first):
            yield Sample(key, _content_or_error(partial(content, row)))


class StreamedSource(Source):
    """A source of parts that can only be read from their beginning, such as tars.

    Whole parts are dealt out if there are as many as shares. Otherwise several shares read the same part, and
    each takes every n-th sample of it that is not done.
    """

    @abstractmethod
    def parts(self) -> int:
        """How many parts there are."""

    @abstractmethod
    def part(self, number: int) -> Part:
        """The samples of a part in their order, each key once in all parts.

        Contents that are not called for cost as little as they can.
        """

    def samples(self, share: Share, done: Container[str] = ()) -> Iterator[Sample]:
        """One share of the samples whose keys are not in ``done``: over all shares, each sample once."""
        parts = self.parts()
        if parts >= share.of:
            for number in range(share.number, parts, share.of):
                yield from self._of_part(number, Share(), done)
        else:
            number = share.number % parts
            readers = len(range(number, share.of, parts))
            yield from self._of_part(number, Share(share.number // parts, readers), done)

    def _of_part(self, number: int, share: Share, done: Container[str]) -> Iterator[Sample]:
        left = ((key, content) for key, content in self.part(number) if key not in done)
        for key, content in islice(left, share.number, None, share.of):
            yield Sample(key, _content_or_error(content))


class UniqueKeys:
    """Gives a key that comes again in a part of a stream a number: ``key``, ``key#2``, ``key#3``."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def __call__(self, key: str) -> str:
        """The key if it is new, else the first numbered one that is."""
        own, number = key, 1
        while own in self._given:
            number += 1
            own = f"{key}#{number}"
        self._given.add(own)
        return own


def in_chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """The values in lists of :data:`ROWS_AT_ONCE`; the last one is shorter, and none is empty."""
    remaining = iter(values)
    return iter(lambda: list(islice(remaining, ROWS_AT_ONCE)), [])


def refuse_duplicates(keys: Callable[[], Iterable[str]], source: str) -> None:
    """Make sure that no key comes twice, with eight bytes of memory for a key.

    Args:
        keys: gives the keys; asked a second time only where two of them may be the same.
        source: what the message calls their source.

    Raises:
        ValueError: naming the first key that comes again.
    """
    chunks = [np.fromiter(map(_digest, chunk), np.uint64, len(chunk)) for chunk in in_chunks(keys())]
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


def _content_or_error(content: Callable[[], Any]) -> Any:
    try:
        return content()
    except ImageError as error:
        return error


def _is_empty(done: Container[str]) -> bool:
    return isinstance(done, Sized) and len(done) == 0


def _digest(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest())
