"""``clip-surgery evaluate``: the paper's metrics for any checkpoint and method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import devices_of, names_of, numbers_of
from clip_surgery_hub.cli.opening import check_dtype, open_model, quiet_lightning
from clip_surgery_hub.cli.reporting import errors_in_one_line


def evaluate(
    dataset: options.DatasetKey = "",
    path: options.DatasetFolder = None,
    split: options.Split = None,
    task: options.TaskName = "explain",
    model: options.Model = options.BUNDLED,
    method: options.Methods = "clip_surgery,none",
    depth: Annotated[
        str | None, typer.Option(help="Depths, separated by commas (default: each own).")
    ] = None,
    features: options.Features = "auto",
    templates: Annotated[str, typer.Option(help="Prompt templates: paper, or none.")] = "paper",
    size: options.Size = None,
    max_side: Annotated[int | None, typer.Option(min=1, help="Longest side in pixels.")] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Side of a sliding window in pixels.")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Its step in pixels (default: half).")] = None,
    sam: options.SamName = None,
    limit: options.Limit = None,
    out: options.EvaluationOut = Path("clip-surgery-evaluation"),
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 0,
    dtype: options.Dtype = "float32",
    accelerator: options.Accelerator = "auto",
    devices: options.Devices = "auto",
    nodes: options.Nodes = 1,
    strategy: options.Strategy = "auto",
    show: Annotated[bool, typer.Option("--list", help="Show the data sets, and end.")] = False,
) -> None:
    """Measure methods on a data set, on one processor or many machines; killed, it resumes where it was.

    Writes results.json, results.md with the published metrics beside, bars per class, and the best and worst
    images of every method.
    """
    if show:
        _list()
        return
    with errors_in_one_line():
        check_dtype(dtype)
        quiet_lightning()
        from clip_surgery_hub.evaluate import evaluate as measure
        from clip_surgery_hub.evaluate import get_task, open_dataset, variants_of
        from clip_surgery_hub.evaluate.report import results_table
        from clip_surgery_hub.sam.loading import load_sam

        chosen, data = get_task(task), open_dataset(dataset, path, split=split)
        clip = open_model(model, method="none", device="cpu", dtype=dtype)
        segmentation_model = None if sam is None else load_sam(sam)
        variants = variants_of(
            names_of(method),
            blocks=len(clip.tower.blocks),
            depths=numbers_of(depth) or (None,),
            features=names_of(features),
            automatic=chosen.automatic,
        )
        found = measure(
            clip,
            data,
            chosen,
            variants,
            out=out,
            limit=limit,
            templates=None if templates == "none" else templates,
            size=size,
            max_side=max_side,
            window=window,
            stride=stride,
            sam=segmentation_model,
            sam_name=sam,
            batch_size=batch_size,
            workers=workers,
            accelerator=accelerator,
            devices=devices_of(devices),
            num_nodes=nodes,
            strategy=strategy,
        )
    if found is not None:
        typer.echo(f"{results_table(found)}\n{out}")


def _list() -> None:
    from clip_surgery_hub.evaluate.datasets import DATASETS

    for entry in DATASETS.values():
        typer.echo(f"{entry.key}: {entry.title}, {entry.classes} classes; {', '.join(entry.tasks)}")
        typer.echo(f"    {entry.layout}" + (f"; {entry.page}" if entry.page else ""))
