"""``clip-surgery predict``: explain any number of images into the folder of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import devices_of, gather_background, gather_texts, names_of
from clip_surgery_hub.cli.opening import DTYPES, check_dtype, quiet_lightning
from clip_surgery_hub.cli.reporting import errors_in_one_line

PRECISIONS = dict(zip(DTYPES, ("32-true", "bf16-true", "16-true"), strict=True))
"""``--dtype`` -> what Lightning's Trainer calls it."""
OUTPUTS = "scores,presence,points"


def predict(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder (searched with those inside), a quoted glob pattern, a manifest (.csv, .jsonl, "
            ".parquet), WebDataset tars, or a folder of Hugging Face datasets."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command resumes it.")],
    text: options.Text = None,
    text_file: options.TextFile = None,
    background: options.Background = None,
    outputs: Annotated[
        str,
        typer.Option(
            help="What to keep, separated by commas: scores, presence, points, boxes, labels, segments, "
            "maps, embeddings."
        ),
    ] = OUTPUTS,
    labels: Annotated[int, typer.Option(min=1, help="How many labels the output labels keeps.")] = 5,
    model: options.Model = options.BUNDLED,
    method: options.Method = None,
    depth: options.Depth = None,
    size: options.Size = None,
    max_side: Annotated[
        int | None, typer.Option(min=1, help="Longest side in pixels (default: 4 times the short one).")
    ] = None,
    dtype: options.Dtype = "float32",
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a batch.")] = 32,
    workers: options.Workers = 0,
    accelerator: options.Accelerator = "auto",
    devices: options.Devices = "auto",
    nodes: options.Nodes = 1,
    strategy: options.Strategy = "auto",
    shard_rows: Annotated[int, typer.Option(min=1, help="The most rows of a file.")] = 10_000,
    max_errors: Annotated[
        int | None, typer.Option(min=0, help="Stop when more images cannot be read (default: never).")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew where --out holds a run with other settings.")
    ] = False,
    column: Annotated[
        str | None, typer.Option(help="Column of a manifest with paths or images (default: by name).")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Column of a manifest that names images (default: by name).")
    ] = None,
) -> None:
    """Explain any number of images, on one processor or many machines, and lose nothing.

    Writes Parquet files to the folder of the run, which read_run and read_errors read. Whatever stops it, the
    same command resumes where it was. Exit codes: 0 all done; 1 done, but some images could not be read;
    2 wrong input; 75 asked to stop (SIGTERM, Ctrl+C), start the same command again.
    """
    with errors_in_one_line() as console:
        texts = gather_texts(text, text_file)
        check_dtype(dtype)
        quiet_lightning()
        from lightning.pytorch.utilities import rank_zero_only

        from clip_surgery_hub.prediction import ImageDataModule, RunStopped, SurgeryPredictor
        from clip_surgery_hub.prediction import predict as run

        images = ImageDataModule(data, batch_size=batch_size, workers=workers, column=column, key=key)
        predictor = SurgeryPredictor(
            model,
            texts,
            background=gather_background(background, texts),
            outputs=names_of(outputs),
            method=method,
            depth=depth,
            size=size,
            max_side=max_side,
            labels=labels,
        )
        try:
            status = run(
                predictor,
                images,
                out,
                shard_rows=shard_rows,
                max_errors=max_errors,
                overwrite=overwrite,
                console=console,
                accelerator=accelerator,
                devices=devices_of(devices),
                num_nodes=nodes,
                strategy=strategy,
                precision=PRECISIONS[dtype],
            )
        except RunStopped as stopped:
            if getattr(rank_zero_only, "rank", 0) == 0:
                console.print(f"stopped as asked; start the same command again to resume {out}", style="dim")
            raise typer.Exit(int(stopped.code or 0)) from stopped
    if getattr(rank_zero_only, "rank", 0) == 0:
        typer.echo(f"{out}: {status.done} images explained, {status.failed} could not be read")
        raise typer.Exit(1 if status.failed else 0)
