"""The command line: ``clip-surgery explain`` and ``clip-surgery models``, each a few lines over the library.

Nothing heavier than typer and rich is imported before a command has something to do, so that ``--help``
answers at once. Bad input is answered with one line on stderr and exit code 2.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clip_surgery_hub import __version__
from clip_surgery_hub.arguments import find_pictures, gather_texts

if TYPE_CHECKING:
    from clip_surgery_hub.model import CLIPSurgery

BUNDLED = "clip_vit_tiny.scenes"
OUT = Path("clip-surgery-out")
DTYPES = ("float32", "bfloat16", "float16")
Item = TypeVar("Item")

app = typer.Typer(
    name="clip-surgery",
    help="Where in this picture does CLIP see that?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    """Where in this picture does CLIP see that?"""


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="A glob pattern, such as '*patch16*'.")] = "",
) -> None:
    """List the models that can be named.

    A folder with a transformers checkpoint, or a hub id such as openai/clip-vit-base-patch16, works as well.
    """
    from clip_surgery_hub.hub import MODELS, list_models

    with _one_line_for_errors(Console(stderr=True)):
        names = list_models(pattern)
        if not names:
            raise ValueError(f"No model matches {pattern!r}. clip-surgery models lists all of them.")
        for name in names:
            typer.echo(f"{name:<{max(map(len, names))}}  {MODELS[name].about}".rstrip())


@app.command()
def explain(
    pictures: Annotated[
        list[str], typer.Argument(help="Files, folders or glob patterns.", metavar="PICTURE|FOLDER|GLOB")
    ],
    text: Annotated[list[str] | None, typer.Option(help="What to look for; may be given many times.")] = None,
    text_file: Annotated[Path | None, typer.Option(help="A file with one text per line.")] = None,
    model: Annotated[
        str, typer.Option(help="A name of `clip-surgery models`, a folder or a hub id.")
    ] = BUNDLED,
    method: Annotated[
        str, typer.Option(help="How the vision tower is read; none is raw CLIP.")
    ] = "clip_surgery",
    depth: Annotated[
        int | None,
        typer.Option(help="How many of the last blocks are operated (default: as many as the method wants)."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Short side in pixels (default: the checkpoint's own).")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Such as cpu, cuda or mps (default: the best there is).")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    out: Annotated[
        Path | None,
        typer.Option(help=f"Folder for the results (default: {OUT}; with --json none)."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, and nothing else, to stdout.")
    ] = False,
) -> None:
    """Show where in each picture each text is.

    Writes a folder per picture: a panel, an overlay per text, the raw maps, a JSON with scores and points.
    """
    from clip_surgery_hub.outputs import choose_folders

    console, done, failed = Console(stderr=True), [], []
    with _one_line_for_errors(console):
        paths, texts = find_pictures(pictures), gather_texts(text or [], text_file)
        target = out or (None if as_json else OUT)
        folders = choose_folders(paths, target) if target else [None] * len(paths)
        clip = _load(model, method, depth, device, dtype, sample=paths[0] if len(paths) == 1 else None)
        clip.encode_text(texts)  # what is wrong with a text is said once, not for every picture
        for path, folder in _with_progress(list(zip(paths, folders, strict=True)), console):
            try:
                done.append(_explain_one(clip, path, texts, size, folder))
            except ValueError as error:
                failed.append({"picture": str(path), "error": _one_line(error)})
                _say(console, error)
    if done and as_json:
        typer.echo(json.dumps({"model": model, "texts": texts, "pictures": done, "failed": failed}, indent=2))
    elif done:
        _summarise(done)
    raise typer.Exit((1 if done else 2) if failed else 0)


def _load(
    model: str, method: str, depth: int | None, device: str | None, dtype: str, *, sample: Path | None
) -> CLIPSurgery:
    """The model, after everything that can be checked without it."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from clip_surgery_hub.hub import resolve
    from clip_surgery_hub.methods import get_method
    from clip_surgery_hub.model import CLIPSurgery
    from clip_surgery_hub.pictures import load_picture

    get_method(method)
    resolve(model)
    if dtype not in DTYPES:
        raise ValueError(f"There is no dtype {dtype!r} here. Choose one of {', '.join(DTYPES)}.")
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # torch raises either, by the kind of device
            raise ValueError(f"The device {device!r} cannot be used: {error} Try --device cpu.") from error
    if sample is not None:
        load_picture(sample)
    disable_progress_bar()
    for library in ("transformers", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        return CLIPSurgery.from_pretrained(
            model, method=method, depth=depth, device=device, dtype=getattr(torch, dtype)
        )
    except TypeError as error:  # no supported vision tower: bad input here
        raise ValueError(str(error)) from error


def _explain_one(
    clip: CLIPSurgery, path: Path, texts: list[str], size: int | None, folder: Path | None
) -> dict[str, Any]:
    from clip_surgery_hub.outputs import record, write_outputs
    from clip_surgery_hub.pictures import load_picture

    explanation = clip.explain([load_picture(path)], texts, size=size)
    if folder is not None:
        write_outputs(explanation, folder, picture=path)
    return record(explanation, picture=path) | {"folder": None if folder is None else str(folder)}


def _summarise(done: list[dict[str, Any]]) -> None:
    for picture in done:
        scores = ", ".join(f"{one['text']} {one['score']:.3f}" for one in picture["texts"])
        typer.echo(f"{picture['picture']}: {scores}")
        typer.echo(f"  {picture['folder']}")


def _with_progress(items: list[Item], console: Console) -> Iterator[Item]:
    """The items, with a bar on a terminal if there are many; never on stdout, which programs may read."""
    if len(items) == 1 or not console.is_terminal:
        yield from items
        return
    columns = (TextColumn("explaining"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, redirect_stdout=False) as bar:
        yield from bar.track(items)


@contextmanager
def _one_line_for_errors(console: Console) -> Iterator[None]:
    """Say what is wrong with the input in one line and end with exit code 2; say warnings in one line."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, UserWarning) and not issubclass(category, DeprecationWarning):
            _say(console, message, kind="note")

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError) as error:
        _say(console, error)
        raise typer.Exit(2) from error


def _say(console: Console, message: object, *, kind: str = "error") -> None:
    console.print(f"{kind}: {_one_line(message)}", markup=False, highlight=False, soft_wrap=True)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


if __name__ == "__main__":
    main()
