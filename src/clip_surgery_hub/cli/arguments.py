"""From what was typed on the command line to images, texts, places and numbers."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Image files named by files, folders (not the folders inside) and glob patterns.

    Args:
        arguments: as typed; ``**`` in a pattern also looks into folders inside.

    Returns:
        Paths in the order given, sorted within a folder or pattern, each once.

    Raises:
        FileNotFoundError: for a file that is not there, a folder without images, a pattern without matches.
    """
    from clip_surgery_hub.images.loading import SUFFIXES

    once: dict[Path, Path] = {}
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
            images = [
                inner
                for inner in sorted(path.iterdir())
                if inner.suffix.lower() in SUFFIXES and inner.is_file() and not inner.name.startswith(".")
            ]
            if not images:
                raise FileNotFoundError(
                    f"The folder {argument} holds no images ({', '.join(sorted(SUFFIXES))}); folders "
                    f"inside are not searched. Name another, or a pattern such as '{path / '**' / '*.png'}'."
                )
        elif path.exists():
            images = [path]
        elif glob.has_magic(argument):
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
            images = [match for match in matches if match.is_file()]
            if not images:
                raise FileNotFoundError(f"No file matches the pattern {argument}. Check the pattern.")
        else:
            raise FileNotFoundError(f"There is no file or folder {argument}. Check the path.")
        for image in images:
            once.setdefault(image.resolve(), image)
    return list(once.values())


def gather_texts(texts: Sequence[str] | None, text_file: Path | None) -> list[str]:
    """The texts given one by one, then those of a file, without the white space around them.

    Args:
        texts: as typed.
        text_file: UTF-8, one text per line; empty lines are passed over.

    Raises:
        ValueError: for no text at all, an empty one, one given twice, or a file that is not UTF-8.
        OSError: for a file that cannot be read.
    """
    typed = [text.strip() for text in texts or ()]
    if "" in typed:
        raise ValueError("A text is empty. Give words to look for, such as --text bench.")
    read: list[str] = []
    if text_file is not None:
        try:
            lines = text_file.expanduser().read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"The text file {text_file} is not UTF-8. Save it as UTF-8.") from error
        except OSError as error:
            raise type(error)(f"The text file {text_file} cannot be read ({error.strerror}).") from error
        read = [line.strip() for line in lines if line.strip()]
        if not read:
            raise ValueError(f"The text file {text_file} holds no text. Write one text per line.")
    given = typed + read
    if not given:
        raise ValueError("No text was given. Say what to look for: --text bench, or --text-file FILE.")
    twice = [text for text, count in Counter(given).items() if count > 1]
    if twice:
        raise ValueError(f"The text {twice[0]!r} was given twice. Give each text once.")
    return given


def gather_background(background: Sequence[str] | None, texts: Sequence[str]) -> list[str]:
    """The background texts as typed, without the white space around them.

    Args:
        background: as typed.
        texts: those that are asked for, one by one; a background text must not be among them.

    Raises:
        ValueError: for an empty text, or one given twice.
    """
    others = [text.strip() for text in background or ()]
    if "" in others:
        raise ValueError("A background text is empty. Give words, such as --background grass.")
    twice = [text for text, count in Counter([*texts, *others]).items() if count > 1]
    if twice:
        raise ValueError(
            f"The text {twice[0]!r} was given twice, as text and as background. Give each text once."
            if twice[0] in texts
            else f"The background text {twice[0]!r} was given twice. Give each text once."
        )
    return others


def parts_of(text: str) -> list[str]:
    """The texts that are combined by plus signs: ``dog+ball`` is both; one without is itself.

    Raises:
        ValueError: for a sign with nothing on one side, or the same text twice.
    """
    parts = [part.strip() for part in text.split("+")]
    if "" in parts:
        raise ValueError(f"A text is missing beside a plus sign in {text!r}. Write it as 'dog+ball'.")
    if len(set(parts)) < len(parts):
        raise ValueError(f"{text!r} combines a text with itself. Give each text once.")
    return parts


def point_of(typed: str) -> tuple[float, float]:
    """Where ``X,Y`` is.

    Raises:
        ValueError: for anything else.
    """
    try:
        x, y = map(float, typed.split(","))
    except ValueError as error:
        raise ValueError(
            f"A point is x and y in pixels of the image, such as 310,190; got {typed!r}."
        ) from error
    return x, y


def names_of(typed: str) -> list[str]:
    """The names that are separated by commas, without the white space around them."""
    return [name.strip() for name in typed.split(",") if name.strip()]


def numbers_of(typed: str | None) -> list[int]:
    """The whole numbers that are separated by commas.

    Raises:
        ValueError: for anything else.
    """
    try:
        return [int(name) for name in names_of(typed or "")]
    except ValueError as error:
        raise ValueError(f"{typed!r} must be whole numbers, separated by commas.") from error


def devices_of(typed: str) -> int | str:
    """How many devices, as Lightning's Trainer takes it: a number, or a word such as ``auto``."""
    return int(typed) if typed.isdigit() else typed
