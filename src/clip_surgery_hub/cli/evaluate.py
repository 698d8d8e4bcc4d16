"""``clip-surgery evaluate`` and ``sweep``: the paper's metrics for any checkpoint and method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.run import check_dtype, one_line_for_errors, quiet_lightning

if TYPE_CHECKING:
    from clip_surgery_hub.model import CLIPSurgery
    from clip_surgery_hub.sam.backends import Sam

Dataset = Annotated[str, typer.Argument(help="Key of a data set; --list shows them.")]
DataPath = Annotated[Path | None, typer.Option(help="Folder of the data set, as it is distributed.")]
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
Workers = Annotated[int, typer.Option(min=0, help="Processes per device that decode images.")]
Accelerator = Annotated[str, typer.Option(help="Of Lightning's Trainer, such as cpu or gpu.")]
OutFolder = Annotated[Path, typer.Option(help="Folder of the results; the same command resumes it.")]

OUT = Path("clip-surgery-evaluation")
BARE = "none"
"""How the bare text is asked for, without a template."""


def evaluate(
    dataset: Dataset = "",
    path: DataPath = None,
    split: Split = None,
    task: TaskName = "explain",
    model: options.Model = options.BUNDLED,
    method: Methods = "clip_surgery,none",
    depth: Annotated[
        str | None, typer.Option(help="Depths, separated by commas (default: each own).")
    ] = None,
    features: Features = "auto",
    templates: Annotated[str, typer.Option(help="Prompt templates: paper, or none.")] = "paper",
    size: options.Size = None,
    max_side: Annotated[int | None, typer.Option(min=1, help="Longest side in pixels.")] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Side of a sliding window in pixels.")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Its step in pixels (default: half).")] = None,
    sam: SamName = None,
    limit: Limit = None,
    out: OutFolder = OUT,
    batch_size: BatchSize = 8,
    workers: Workers = 0,
    dtype: options.Dtype = "float32",
    accelerator: Accelerator = "auto",
    devices: Annotated[str, typer.Option(help="How many devices of each node, or auto.")] = "auto",
    nodes: Annotated[int, typer.Option(min=1, help="How many machines.")] = 1,
    strategy: Annotated[str, typer.Option(help="Of Lightning's Trainer, such as ddp.")] = "auto",
    show: Annotated[bool, typer.Option("--list", help="Show the data sets, and end.")] = False,
) -> None:
    """Measure methods on a data set, on one processor or many machines; killed, it resumes where it was.

    Writes results.json, results.md with the published metrics beside, bars per class, and the best and worst
    images of every method.
    """
    console = Console(stderr=True)
    if show:
        _list()
        return
    with one_line_for_errors(console):
        check_dtype(dtype)
        quiet_lightning()
        from clip_surgery_hub.evaluate import evaluate as measure
        from clip_surgery_hub.evaluate import get_task, open_dataset, variants_of
        from clip_surgery_hub.evaluate.report import results_table

        chosen, data = get_task(task), open_dataset(dataset, path, split=split)
        clip, loaded_sam = _load(model, dtype), _load_sam(sam)
        variants = variants_of(
            _names(method),
            blocks=len(clip.tower.blocks),
            depths=_numbers(depth) or (None,),
            features=_names(features),
            automatic=chosen.automatic,
        )
        found = measure(
            clip,
            data,
            chosen,
            variants,
            out=out,
            limit=limit,
            templates=None if templates == BARE else templates,
            size=size,
            max_side=max_side,
            window=window,
            stride=stride,
            sam=loaded_sam,
            sam_name=sam,
            batch_size=batch_size,
            workers=workers,
            accelerator=accelerator,
            devices=int(devices) if devices.isdigit() else devices,
            num_nodes=nodes,
            strategy=strategy,
        )
    if found is not None:
        typer.echo(f"{results_table(found)}\n{out}")


def sweep(
    dataset: Dataset,
    path: DataPath = None,
    split: Split = None,
    task: TaskName = "explain",
    model: options.Model = options.BUNDLED,
    method: Methods = "none,clip_surgery",
    depth: Annotated[str | None, typer.Option(help="Depths, separated by commas (default: all).")] = None,
    features: Features = "plain,surgery",
    templates: Annotated[str, typer.Option(help="Sets of templates, separated by commas.")] = "paper,none",
    size: Annotated[str | None, typer.Option(help="Short sides in pixels, separated by commas.")] = None,
    sam: SamName = None,
    limit: Limit = None,
    out: OutFolder = Path("clip-surgery-sweep"),
    batch_size: BatchSize = 8,
    workers: Workers = 0,
    dtype: options.Dtype = "float32",
    accelerator: Accelerator = "auto",
) -> None:
    """Find the best depth, method, size and templates: all methods and depths of a size in one pass.

    Writes sweep.md, sweep.json, sweep.png, and the whole evaluation of each size and set of templates.
    """
    with one_line_for_errors(Console(stderr=True)):
        check_dtype(dtype)
        quiet_lightning()
        from clip_surgery_hub.evaluate import get_task, open_dataset
        from clip_surgery_hub.evaluate.sweep import sweep as measure

        chosen, data = get_task(task), open_dataset(dataset, path, split=split)
        sets = {name: None if name == BARE else name for name in _names(templates)}
        found = measure(
            _load(model, dtype),
            data,
            chosen,
            out=out,
            methods=_names(method),
            depths=_numbers(depth) or None,
            features=_names(features),
            sizes=_numbers(size) or (None,),
            templates=sets,
            sam=_load_sam(sam),
            sam_name=sam,
            limit=limit,
            batch_size=batch_size,
            workers=workers,
            accelerator=accelerator,
        )
    typer.echo(f"{found.table()}\n{out}")


def _load(model: str, dtype: str) -> CLIPSurgery:
    """The checkpoint, its tower not under surgery."""
    import torch

    from clip_surgery_hub.model import CLIPSurgery
    from clip_surgery_hub.transform import remove_surgery

    try:
        clip = CLIPSurgery.from_pretrained(model, method="none", device="cpu", dtype=getattr(torch, dtype))
    except TypeError as error:  # no supported vision tower: bad input here
        raise ValueError(str(error)) from error
    remove_surgery(clip.model)
    return clip


def _load_sam(name: str | None) -> Sam | None:
    from clip_surgery_hub.sam.loading import load_sam

    return None if name is None else load_sam(name)


def _list() -> None:
    from clip_surgery_hub.evaluate.datasets import DATASETS

    for entry in DATASETS.values():
        typer.echo(f"{entry.key}: {entry.title}, {entry.classes} classes; {', '.join(entry.tasks)}")
        typer.echo(f"    {entry.layout}" + (f"; {entry.page}" if entry.page else ""))


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",") if name.strip()]


def _numbers(given: str | None) -> list[int]:
    try:
        return [int(name) for name in _names(given or "")]
    except ValueError as error:
        raise ValueError(f"{given!r} must be whole numbers, separated by commas.") from error
