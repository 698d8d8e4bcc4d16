"""``clip-surgery sweep``: the best depth, method, size and templates of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import names_of, numbers_of
from clip_surgery_hub.cli.opening import check_dtype, open_model, quiet_lightning
from clip_surgery_hub.cli.reporting import errors_in_one_line


def sweep(
    dataset: options.DatasetKey,
    path: options.DatasetFolder = None,
    split: options.Split = None,
    task: options.TaskName = "explain",
    model: options.Model = options.BUNDLED,
    method: options.Methods = "none,clip_surgery",
    depth: Annotated[str | None, typer.Option(help="Depths, separated by commas (default: all).")] = None,
    features: options.Features = "plain,surgery",
    templates: Annotated[str, typer.Option(help="Sets of templates, separated by commas.")] = "paper,none",
    size: Annotated[str | None, typer.Option(help="Short sides in pixels, separated by commas.")] = None,
    sam: options.SamName = None,
    limit: options.Limit = None,
    out: options.EvaluationOut = Path("clip-surgery-sweep"),
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 0,
    dtype: options.Dtype = "float32",
    accelerator: options.Accelerator = "auto",
) -> None:
    """Find the best depth, method, size and templates: all methods and depths of a size in one pass.

    Writes sweep.md, sweep.json, sweep.png, and the whole evaluation of each size and set of templates.
    """
    with errors_in_one_line():
        check_dtype(dtype)
        quiet_lightning()
        from clip_surgery_hub.evaluate import get_task, open_dataset
        from clip_surgery_hub.evaluate.sweep import sweep as measure
        from clip_surgery_hub.sam.loading import load_sam

        chosen, data = get_task(task), open_dataset(dataset, path, split=split)
        sets = {name: None if name == "none" else name for name in names_of(templates)}
        clip = open_model(model, method="none", device="cpu", dtype=dtype)
        segmentation_model = None if sam is None else load_sam(sam)
        found = measure(
            clip,
            data,
            chosen,
            out=out,
            methods=names_of(method),
            depths=numbers_of(depth) or None,
            features=names_of(features),
            sizes=numbers_of(size) or (None,),
            templates=sets,
            sam=segmentation_model,
            sam_name=sam,
            limit=limit,
            batch_size=batch_size,
            workers=workers,
            accelerator=accelerator,
        )
    typer.echo(f"{found.table()}\n{out}")
