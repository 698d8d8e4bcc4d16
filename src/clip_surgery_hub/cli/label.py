"""``clip-surgery label``: which of the texts an image shows."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import find_images, gather_background, gather_texts
from clip_surgery_hub.cli.opening import open_model
from clip_surgery_hub.cli.outputs import write_labels, write_record
from clip_surgery_hub.cli.records import labels_record
from clip_surgery_hub.cli.reporting import Report, errors_in_one_line, progress
from clip_surgery_hub.cli.result_folders import image_folders, results_folder


def label(
    images: options.Images,
    text: options.Text = None,
    text_file: options.TextFile = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many labels each image gets.")] = 5,
    threshold: Annotated[
        float | None, typer.Option(help="The least score of a label; --top-k is left aside then.")
    ] = None,
    background: options.Background = None,
    model: options.Model = options.BUNDLED,
    method: options.Method = None,
    depth: options.Depth = None,
    size: options.Size = None,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Say which of the texts each image shows, the surest first.

    Writes a folder per image: a panel of the image and its labels as bars, and a JSON of the labels,
    their scores and their presence.
    """
    with errors_in_one_line() as console:
        paths = find_images(images)
        texts = gather_texts(text, text_file)
        others = gather_background(background, texts)
        if threshold is not None and not math.isfinite(threshold):
            raise ValueError(f"A threshold is a number that scores can reach, got {threshold}.")
        chosen = {"top_k": top_k} if threshold is None else {"threshold": threshold}
        folders = image_folders(paths, out, command="label", as_json=as_json)
        clip = open_model(model, method=method, depth=depth, device=device, dtype=dtype, images=paths)
        clip.encode_text(texts)  # what is wrong with them is said once, before the first image
        report = Report(console)
        for path, folder in progress(zip(paths, folders, strict=True), "labeling", console):
            with report.image(path):
                explanation = clip.explain(path, texts, size=size, background=others)
                (labels,) = explanation.labels(**chosen)
                record = labels_record(explanation, labels, image=path)
                if folder is not None:
                    with results_folder(folder) as place:
                        write_labels(explanation, labels, place)
                        write_record(record, place)
                scores = (f"{one['text']} {one['score']:.3f}" for one in record["labels"])
                report.add(record, folder, ", ".join(scores) or "no labels")
    report.print(model=model, texts=texts, as_json=as_json)
    raise typer.Exit(report.exit_code)
