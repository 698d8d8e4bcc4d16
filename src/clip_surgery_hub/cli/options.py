"""The options that several commands have, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BUNDLED = "clip_vit_tiny.scenes"
OUT = Path("clip-surgery-out")
"""The results of a command are in a folder of its name inside, where no other is asked for."""

# Of the commands that explain images
Images = Annotated[
    list[str], typer.Argument(help="Files, folders or glob patterns.", metavar="IMAGE|FOLDER|GLOB")
]
Text = Annotated[list[str] | None, typer.Option(help="What to look for; may be given many times.")]
TextFile = Annotated[Path | None, typer.Option(help="A file with one text per line.")]
Background = Annotated[
    list[str] | None,
    typer.Option(help="A text that belongs to the class set but is not asked for; may be given many times."),
]
KeepAbsent = Annotated[
    bool, typer.Option("--keep-absent", help="Keep texts that do not seem to be in the image.")
]
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

# Of the commands that work in Lightning's Trainer
Workers = Annotated[int, typer.Option(min=0, help="Processes per device that decode images.")]
Accelerator = Annotated[str, typer.Option(help="Of Lightning's Trainer, such as cpu or gpu.")]
Devices = Annotated[str, typer.Option(help="How many devices of each node, or auto.")]
Nodes = Annotated[int, typer.Option(min=1, help="How many machines.")]
Strategy = Annotated[str, typer.Option(help="Of Lightning's Trainer, such as ddp.")]

# Of the commands that measure
DatasetKey = Annotated[str, typer.Argument(help="Key of a data set; --list shows them.")]
DatasetFolder = Annotated[Path | None, typer.Option(help="Folder of the data set, as it is distributed.")]
Split = Annotated[str | None, typer.Option(help="Part of the data set (default: its usual one).")]
TaskName = Annotated[str, typer.Option(help="explain, segment, recognize or interact.")]
Methods = Annotated[str, typer.Option("--method", help="Methods, separated by commas; none is raw CLIP.")]
Features = Annotated[
    str,
    typer.Option(
        help="What is compared, separated by commas: plain cosine similarity, surgery, or auto: as the paper "
        "of the method does."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="So many images, from the first (default: all).")]
SamName = Annotated[
    str | None, typer.Option(help="For interact: the segmentation model, as in mask (default: points only).")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images that are read together.")]
EvaluationOut = Annotated[Path, typer.Option(help="Folder of the results; the same command resumes it.")]
