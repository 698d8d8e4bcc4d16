"""From the options of a command to its results: images and texts found, the model loaded, errors said."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clip_surgery_hub.cli.arguments import find_images
from clip_surgery_hub.cli.options import OUT, Request

if TYPE_CHECKING:
    from clip_surgery_hub.model import CLIPSurgery

DTYPES = ("float32", "bfloat16", "float16")
Item = TypeVar("Item")
Record = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A command's work on one image.

    Attributes:
        command: its name.
        doing: what the progress bar says.
        texts: the texts to embed before the first image, for what is wrong with them is said once.
        answer: from the model, an image's file and the folder for its results (or None) to the record.
        line: the record in one line for people.
        begin: what else is done once with the model before the first image, and may fail.
    """

    command: str
    doing: str
    texts: Sequence[str]
    answer: Callable[[CLIPSurgery, Path, Path | None], Record]
    line: Callable[[Record], str]
    begin: Callable[[CLIPSurgery], object] | None = None


def run(request: Request, prepare: Callable[[], Task]) -> None:
    """Do a task for every image of a request and end the command with its exit code.

    0: all done; 1: some images could not be read; 2: nothing was done.

    Args:
        request: the shared options.
        prepare: checks the command's own options and gives the task; its errors are said as all others.
    """
    from clip_surgery_hub.cli.outputs import choose_folders

    console, done, failed = Console(stderr=True), [], []
    with one_line_for_errors(console):
        paths, task = find_images(request.images), prepare()
        target = request.out or (None if request.as_json else OUT / task.command)
        folders = choose_folders(paths, target) if target else [None] * len(paths)
        clip = _load(request, sample=paths[0] if len(paths) == 1 else None)
        if task.texts:
            clip.encode_text(task.texts)
        if task.begin is not None:
            task.begin(clip)
        for path, folder in _with_progress(list(zip(paths, folders, strict=True)), task.doing, console):
            try:
                record = task.answer(clip, path, folder)
                done.append(record | {"folder": None if folder is None else str(folder)})
            except ValueError as error:
                failed.append({"image": str(path), "error": one_line(error)})
                say(console, error)
    if done and request.as_json:
        whole = {"model": request.model, "texts": list(task.texts), "images": done, "failed": failed}
        typer.echo(json.dumps(whole, indent=2))
    elif done:
        for record in done:
            typer.echo(f"{record['image']}: {task.line(record)}\n  {record['folder']}")
    raise typer.Exit((1 if done else 2) if failed else 0)


def _load(request: Request, *, sample: Path | None) -> CLIPSurgery:
    """The model, after everything that can be checked without it."""
    import torch

    from clip_surgery_hub.hub import resolve
    from clip_surgery_hub.images.loading import load_image
    from clip_surgery_hub.methods import get_method
    from clip_surgery_hub.model import CLIPSurgery

    if request.method is not None:
        get_method(request.method)
    resolve(request.model)
    device, dtype = request.device, request.dtype
    check_dtype(dtype)
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # torch raises either, by the kind of device
            raise ValueError(f"The device {device!r} cannot be used: {error} Try --device cpu.") from error
    if sample is not None:
        load_image(sample)
    quiet()
    try:
        return CLIPSurgery.from_pretrained(
            request.model,
            method=request.method,
            depth=request.depth,
            device=device,
            dtype=getattr(torch, dtype),
        )
    except TypeError as error:  # no supported vision tower: bad input here
        raise ValueError(str(error)) from error


def check_dtype(dtype: str) -> None:
    """Refuse what is none of `DTYPES`.

    Raises:
        ValueError: for any other.
    """
    if dtype not in DTYPES:
        raise ValueError(f"There is no dtype {dtype!r} here. Choose one of {', '.join(DTYPES)}.")


def quiet(*more: str) -> None:
    """Leave out the bars, and all but the errors, of the libraries that load models and of ``more``."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for library in ("transformers", "huggingface_hub", *more):
        logging.getLogger(library).setLevel(logging.ERROR)


def quiet_lightning() -> None:
    """Leave out what the libraries say of themselves: the bar, the log and the last line are what counts."""
    import lightning  # noqa: F401  # sets up its own logging when it is loaded

    quiet("lightning", "lightning.pytorch", "lightning.fabric")
    for message in (
        ".*does not have many workers",
        ".*transfer_batch_to_device",
        ".*available but not used",
        ".*infer the batch",
        ".*LeafSpec",
    ):
        warnings.filterwarnings("ignore", message)


def _with_progress(items: list[Item], doing: str, console: Console) -> Iterator[Item]:
    """The items, with a bar on a terminal if there are many; never on stdout, which programs may read."""
    if len(items) == 1 or not console.is_terminal:
        yield from items
        return
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, redirect_stdout=False) as bar:
        yield from bar.track(items)


@contextmanager
def one_line_for_errors(console: Console) -> Iterator[None]:
    """Say what is wrong with the input in one line and end with exit code 2; say warnings in one line."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, UserWarning) and not issubclass(category, DeprecationWarning):
            say(console, message, kind="note")

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError) as error:
        say(console, error)
        raise typer.Exit(2) from error


def say(console: Console, message: object, *, kind: str = "error") -> None:
    """A line on stderr: an error, or a note."""
    console.print(f"{kind}: {one_line(message)}", markup=False, highlight=False, soft_wrap=True)


def one_line(message: object) -> str:
    """The message without its line breaks."""
    return " ".join(str(message).split())
