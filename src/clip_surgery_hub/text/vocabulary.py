"""Which words a small model was trained on, so that it can be said when it is asked for another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["read_known_words", "unseen_words"]

# Words that say nothing about what is in an image.
_SMALL_WORDS = frozenset("a an the of in on at with and".split())


def read_known_words(path: Path) -> frozenset[str]:
    """The words of every list in a file such as ``{"concepts": ["dog", "tennis ball"], "others": [...]}``.

    Raises:
        ValueError: for a file of another form.
    """
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(texts, list) for texts in lists.values()):
            raise TypeError("a value is no list")
        return frozenset(_words(text for texts in lists.values() for text in texts))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} must hold lists of texts by name, as JSON ({error}).") from error


def unseen_words(texts: Iterable[str], known_words: frozenset[str]) -> list[str]:
    """The words of the texts that are not among the known ones, in lower case, sorted."""
    return sorted(_words(texts) - known_words - _SMALL_WORDS)


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text.lower())}
