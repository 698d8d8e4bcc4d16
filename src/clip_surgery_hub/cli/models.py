"""``clip-surgery models``: what can be named, and what is known of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clip_surgery_hub.cli.options import AsJson
from clip_surgery_hub.cli.reporting import errors_in_one_line

if TYPE_CHECKING:
    from clip_surgery_hub.hub import Entry

COLUMNS = ("name", "family", "pixels", "patch", "width", "license", "source", "about")
_ROOM_FOR_TABLE = 120  # columns of a terminal; a narrower one folds the plain lines


def models(
    pattern: Annotated[
        str, typer.Argument(help="A glob pattern, such as '*patch16*', '*b16*' or '*.openai'.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the models that can be named: where they are, their sizes and licenses.

    Width is that of the embeddings. A folder with a checkpoint, or a hub id such as
    openai/clip-vit-base-patch16, works in place of a name as well.
    """
    from clip_surgery_hub.hub import list_models, model_info

    with errors_in_one_line():
        names = list_models(pattern)
        if not names:
            raise ValueError(f"No model matches {pattern!r}. clip-surgery models lists all of them.")
        entries = [model_info(name) for name in names]
        console = Console()
        if as_json:
            from clip_surgery_hub.methods import METHODS

            every = {"methods": list(METHODS)}  # what no methods stand for
            facts = [entry.facts() | ({} if entry.methods else every) for entry in entries]
            typer.echo(json.dumps(facts, indent=2))
        elif console.is_terminal and console.width >= _ROOM_FOR_TABLE:
            console.print(_table(entries))
        else:
            typer.echo(_lines(entries))


def _row(entry: Entry) -> tuple[str, ...]:
    """What is known, in the order of `COLUMNS`; "-" where nothing is."""
    bundled = entry.source is not None and Path(entry.source).is_absolute()
    facts = (
        entry.name,
        entry.family,
        entry.native_size,
        entry.patch,
        entry.embedding_width,
        entry.license,
        "bundled" if bundled else entry.source,
        entry.about,
    )
    return tuple("-" if fact in (None, "") else str(fact) for fact in facts)


def _table(entries: list[Entry]) -> Table:
    """For a terminal: two lines for each model, of which only `about` is folded."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name, source", "family, license", "pixels", "patch", "width", "about"):
        figure = column in ("pixels", "patch", "width")
        table.add_column(column, no_wrap=column != "about", justify="right" if figure else "left")
    for entry in entries:
        name, family, pixels, patch, width, license, source, about = map(escape, _row(entry))
        table.add_row(f"[bold]{name}[/]\n  {source}", f"{family}\n{license}", pixels, patch, width, about)
    return table


def _lines(entries: list[Entry]) -> str:
    """A line for each, columns two blanks apart, nothing cut: for a file, or another program."""
    rows = [_row(entry) for entry in entries]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(fact.ljust(width) for fact, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
