"""``clip-surgery models``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from clip_surgery_hub.cli.run import one_line_for_errors


def models(
    pattern: Annotated[str, typer.Argument(help="A glob pattern, such as '*patch16*'.")] = "",
) -> None:
    """List the models that can be named.

    A folder with a transformers checkpoint, or a hub id such as openai/clip-vit-base-patch16, works as well.
    """
    from clip_surgery_hub.hub import MODELS, list_models

    with one_line_for_errors(Console(stderr=True)):
        names = list_models(pattern)
        if not names:
            raise ValueError(f"No model matches {pattern!r}. clip-surgery models lists all of them.")
        for name in names:
            typer.echo(f"{name:<{max(map(len, names))}}  {MODELS[name].about}".rstrip())
