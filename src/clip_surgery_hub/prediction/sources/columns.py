"""Tables of images: which column holds them, which the keys, and what a value of theirs is."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import Any

from clip_surgery_hub.images.loading import ImageError

IMAGE_COLUMNS = (
    "path",
    "image",
    "file_name",
    "bytes",
    "filename",
    "file",
    "filepath",
    "image_path",
    "image_bytes",
    "img",
    "picture",  # as some tables of others have it
    "jpg",
    "png",
)
"""The names by which a column of images is known, in the order in which they are looked for."""


def choose_columns(
    names: Collection[str], column: str | None, key: str | None, *, source: str
) -> tuple[str, str | None]:
    """The columns of the images and of the keys, the latter None where there is none.

    Args:
        names: of all columns.
        column: of the images, if it is known; else it is the first of :data:`IMAGE_COLUMNS`.
        key: of the keys, if it is known; else it is ``key`` where there is such a column.
        source: what messages call the table.

    Raises:
        ValueError: for a column that is not there.
    """
    listed = ", ".join(map(repr, names)) or "none"
    for wanted in (column, key):
        if wanted is not None and wanted not in names:
            raise ValueError(f"The {source} has no column {wanted!r}; it has {listed}. Name one of them.")
    found = column or next((name for name in IMAGE_COLUMNS if name in names), None)
    if found is None:
        raise ValueError(
            f"The {source} has no column of a known name ({', '.join(IMAGE_COLUMNS)}); it has {listed}. "
            "Say which one holds the images: column=... (--column)."
        )
    return found, key or ("key" if "key" in names else None)


def with_columns(description: str, column: str | None, key: str | None) -> str:
    """A description that also says what was chosen out of the source, since other keys are another source."""
    chosen = [f"{name} {value!r}" for name, value in (("column", column), ("key", key)) if value is not None]
    return f"{description} ({', '.join(chosen)})" if chosen else description


def key_of(value: Any, column: str, place: str) -> str:
    """A sample's key, of a cell that holds it; ``place`` says where that is.

    Raises:
        ValueError: for a cell without anything.
    """
    if value is None or value == "":
        raise ValueError(
            f"{place} has nothing in column {column!r}, which the image is known by. "
            "Give every image a key of its own."
        )
    return str(value)


def content_of(value: Any, folder: Path) -> Any:
    """What a sample's content is, of a cell that holds it.

    Args:
        value: a path, an address, the bytes of a file, a mapping with ``bytes`` and ``path`` (as in tables of
            Hugging Face), or an image.
        folder: where relative paths begin.

    Raises:
        ImageError: for a cell without anything.
    """
    if isinstance(value, dict) and ("bytes" in value or "path" in value):
        found = value.get("bytes")
        value = value.get("path") if found is None else found
    if value is None or value == "":
        raise ImageError("There is no image in this row.", "missing")
    if isinstance(value, str):
        return value if "://" in value else folder / Path(value).expanduser()
    return value


def needed(package: str, what: str) -> Any:
    """A package that not every installation has, or a module of one.

    Raises:
        ImportError: in one line, with the command that installs it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        package = package.partition(".")[0]
        raise ImportError(
            f"{what} need the package {package}, which is not installed: pip install {package}"
        ) from error
