"""The command line: one file per command, each a plain loop over the library.

A command is a function of its options in a file of its own, and its name in `COMMANDS`. What commands share
is in `options`, `arguments`, `opening`, `result_folders`, `outputs`, `records` and `reporting`.

Nothing heavier than typer and rich is imported before a command has something to do, so that ``--help``
answers at once. Bad input is answered with one line on stderr and exit code 2.
"""

from __future__ import annotations

from typing import Annotated

import typer

from clip_surgery_hub import __version__
from clip_surgery_hub.cli.analyze import analyze
from clip_surgery_hub.cli.evaluate import evaluate
from clip_surgery_hub.cli.explain import explain
from clip_surgery_hub.cli.label import label
from clip_surgery_hub.cli.mask import mask
from clip_surgery_hub.cli.models import models
from clip_surgery_hub.cli.points import points
from clip_surgery_hub.cli.predict import predict
from clip_surgery_hub.cli.segment import segment
from clip_surgery_hub.cli.sentence import sentence
from clip_surgery_hub.cli.status import status
from clip_surgery_hub.cli.sweep import sweep

app = typer.Typer(
    name="clip-surgery",
    help="Where in this image does CLIP see that?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    *(explain, points, mask, label, segment, sentence),
    *(analyze, predict, status, evaluate, sweep, models),
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run the command line."""
    app(prog_name="clip-surgery")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Where in this image does CLIP see that?"""
