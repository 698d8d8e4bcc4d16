"""What a command says: errors and notes in one line each, a bar, and at its end what became of each image."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


@contextmanager
def errors_in_one_line() -> Iterator[Console]:
    """Say what is wrong with the input in one line and end with exit code 2; say warnings in one line.

    Yields:
        The console that this is said on: stderr, for programs may read stdout.
    """
    console = Console(stderr=True)

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, UserWarning) and not issubclass(category, DeprecationWarning):
            say(console, message, kind="note")

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield console
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError) as error:
        say(console, error)
        raise typer.Exit(2) from error


def say(console: Console, message: object, *, kind: str = "error") -> None:
    """A line on stderr: an error, or a note."""
    console.print(f"{kind}: {_one_line(message)}", markup=False, highlight=False, soft_wrap=True)


def progress(items: Iterable[Item], doing: str, console: Console) -> Iterator[Item]:
    """The items, with a bar on a terminal if there are many."""
    items = list(items)
    if len(items) == 1 or not console.is_terminal:
        yield from items
        return
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, redirect_stdout=False) as bar:
        yield from bar.track(items)


class Report:
    """What became of each image of a command.

    Args:
        console: where errors are said as soon as they happen.

    Attributes:
        done: the records of the images that were read, each with the ``folder`` of its results or None.
        failed: file and error of each of the others.
    """

    def __init__(self, console: Console) -> None:
        self.done: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []
        self._lines: list[str] = []
        self._console = console

    @contextmanager
    def image(self, path: Path) -> Iterator[None]:
        """Take a ValueError for what is wrong with this image alone, and leave the body."""
        try:
            yield
        except ValueError as error:
            self.failed.append({"image": str(path), "error": _one_line(error)})
            say(self._console, error)

    def add(self, record: dict[str, Any], folder: Path | None, line: str) -> None:
        """Note that an image is done: its record, the folder of its results, and both in lines for people."""
        self.done.append(record | {"folder": None if folder is None else str(folder)})
        self._lines.append(f"{record['image']}: {line}\n  {folder}")

    def print(self, *, model: str, texts: Sequence[str], as_json: bool) -> None:
        """Print all that is done to stdout, if anything is: one JSON, or the lines."""
        if self.done and as_json:
            whole = {"model": model, "texts": list(texts), "images": self.done, "failed": self.failed}
            typer.echo(json.dumps(whole, indent=2))
        elif self.done:
            typer.echo("\n".join(self._lines))

    @property
    def exit_code(self) -> int:
        """0: all done; 1: some images could not be read; 2: nothing was done."""
        return (1 if self.done else 2) if self.failed else 0


def _one_line(message: object) -> str:
    """The message without its line breaks."""
    return " ".join(str(message).split())
