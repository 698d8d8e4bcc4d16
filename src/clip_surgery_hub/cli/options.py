"""The options that the commands share, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BUNDLED = "clip_vit_tiny.scenes"
OUT = Path("clip-surgery-out")

Pictures = Annotated[
    list[str], typer.Argument(help="Files, folders or glob patterns.", metavar="PICTURE|FOLDER|GLOB")
]
Text = Annotated[list[str] | None, typer.Option(help="What to look for; may be given many times.")]
TextFile = Annotated[Path | None, typer.Option(help="A file with one text per line.")]
Model = Annotated[str, typer.Option(help="A name of `clip-surgery models`, a folder or a hub id.")]
Method = Annotated[str, typer.Option(help="How the vision tower is read; none is raw CLIP.")]
Depth = Annotated[
    int | None,
    typer.Option(help="How many of the last blocks are operated (default: as many as the method wants)."),
]
Size = Annotated[
    int | None, typer.Option(min=1, help="Short side in pixels (default: the checkpoint's own).")
]
Device = Annotated[str | None, typer.Option(help="Such as cpu, cuda or mps (default: the best there is).")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Out = Annotated[Path | None, typer.Option(help=f"Folder for the results (default: {OUT}; with --json none).")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the results as JSON, and nothing else, to stdout.")
]
Background = Annotated[
    list[str] | None,
    typer.Option(help="A text that belongs to the class set but is not asked for; may be given many times."),
]
KeepAbsent = Annotated[
    bool, typer.Option("--keep-absent", help="Keep texts that do not seem to be in the picture.")
]
