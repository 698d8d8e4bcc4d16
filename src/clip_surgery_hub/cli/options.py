"""The options that the commands share, each said once, and those that every command has as one request."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, get_type_hints

import typer

BUNDLED = "clip_vit_tiny.scenes"
OUT = Path("clip-surgery-out")
Own = ParamSpec("Own")

Images = Annotated[
    list[str], typer.Argument(help="Files, folders or glob patterns.", metavar="IMAGE|FOLDER|GLOB")
]
Text = Annotated[list[str] | None, typer.Option(help="What to look for; may be given many times.")]
TextFile = Annotated[Path | None, typer.Option(help="A file with one text per line.")]
Model = Annotated[str, typer.Option(help="A name of `clip-surgery models`, a folder or a hub id.")]
Method = Annotated[
    str | None,
    typer.Option(
        help="How the vision tower is read; none is raw CLIP (default: as the checkpoint was saved, else "
        "clip_surgery)."
    ),
]
Depth = Annotated[
    int | None,
    typer.Option(help="How many of the last blocks are modified (default: as many as the method wants)."),
]
Size = Annotated[
    int | None, typer.Option(min=1, help="Short side in pixels (default: the checkpoint's own).")
]
Device = Annotated[str | None, typer.Option(help="Such as cpu, cuda or mps (default: the best there is).")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Out = Annotated[
    Path | None, typer.Option(help=f"Folder for the results (default: {OUT}/COMMAND; with --json none).")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the results as JSON, and nothing else, to stdout.")
]
Background = Annotated[
    list[str] | None,
    typer.Option(help="A text that belongs to the class set but is not asked for; may be given many times."),
]
KeepAbsent = Annotated[
    bool, typer.Option("--keep-absent", help="Keep texts that do not seem to be in the image.")
]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What every command that works on images is told: its fields are its options."""

    images: Images
    model: Model = BUNDLED
    method: Method = None
    depth: Depth = None
    size: Size = None
    device: Device = None
    dtype: Dtype = "float32"
    out: Out = None
    as_json: AsJson = False


def with_request(command: Callable[Concatenate[Request, Own], None]) -> Callable[..., None]:
    """A command of a request and options of its own as typer reads it: with one parameter per option.

    The images come first, then the command's own options, then the rest of the request.
    """
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    hints = get_type_hints(Request, include_extras=True)
    first, *rest = [
        one.replace(annotation=hints[one.name]) for one in inspect.signature(Request).parameters.values()
    ]
    # By name only, for what has no default may then stand anywhere; typer gives everything by name.
    parameters = [first, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own), *rest]

    @wraps(command)
    def spread(**options: Any) -> None:
        request = Request(**{name: options.pop(name) for name in hints})
        command(request, **options)  # type: ignore[call-arg]

    spread.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spread.__annotations__ = {one.name: one.annotation for one in parameters}
    return spread
