"""The JSON files of a checkpoint, and words of them in messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from reprlib import Repr
from typing import Any

_MOST_BYTES = 16 * 2**20  # of a configuration or an index: far more than a large model needs
_MOST_LETTERS = 300
_REPR = Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict, _REPR.maxstring, _REPR.maxlong = 2, 8, 4, 80, 40


def read_json_object(path: Path) -> dict[str, Any]:
    """What a file of JSON says, which must be names and values.

    Raises:
        ValueError: for a file that is damaged, too large, of another form, or says something twice.
        OSError: for a file that cannot be read.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, {_MOST_BYTES} is the most; copy it again.")
    return as_json_object(path.read_bytes(), str(path))


def as_json_object(content: bytes, where: str) -> dict[str, Any]:
    """What bytes of JSON say, which must be names and values; `where` they are from, for the message.

    Raises:
        ValueError: for bytes that are damaged, of another form, or say something twice.
    """

    def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{shortened(twice)} is said twice")
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number of JSON")

    if not content.strip():
        raise ValueError(f"{where} is empty; copy it again.")
    try:
        found = json.loads(content, object_pairs_hook=each_once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # bytes of no text, and digits without end, are ValueErrors
        raise ValueError(f"{where} is damaged: {shortened(error)}; copy it again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where} must hold names and values, not {shortened(found)}; copy it again.")
    return found


def nested_values(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All names and values of a file at any depth; a name says with dots where it stands."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from nested_values(value, f"{prefix}{name}.")
        yield f"{prefix}{name}", value


def shortened(thing: Any) -> str:
    """A thing of a file in a message: on one line, and not without end; text that is a name in quotes."""
    if not isinstance(thing, Exception):
        return _REPR.repr(thing)
    said = " ".join(str(thing).split()) or type(thing).__name__
    return said if len(said) <= _MOST_LETTERS else f"{said[:_MOST_LETTERS]}..."


def plural(count: int, noun: str) -> str:
    """``1 value``, ``2 values``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
