"""``clip-surgery points``: positive and negative points of each text, to prompt SAM with."""

from __future__ import annotations

from itertools import chain

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import find_images, gather_background, gather_texts, parts_of
from clip_surgery_hub.cli.opening import open_model
from clip_surgery_hub.cli.outputs import write_points, write_record
from clip_surgery_hub.cli.records import points_record
from clip_surgery_hub.cli.reporting import Report, errors_in_one_line, progress
from clip_surgery_hub.cli.result_folders import image_folders, results_folder


def points(
    images: options.Images,
    text: options.Text = None,
    text_file: options.TextFile = None,
    keep_absent: options.KeepAbsent = False,
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
    """Mark positive and negative points of each text, in pixels, to prompt SAM with.

    "dog+ball" combines texts: places on either, off both. Texts that do not seem to be in an image are left
    out. Writes a folder per image: a panel with the points drawn, and a JSON with their coordinates.
    """
    with errors_in_one_line() as console:
        paths = find_images(images)
        combinations = [parts_of(one) for one in gather_texts(text, text_file)]
        texts = list(dict.fromkeys(chain(*combinations)))
        others = gather_background(background, texts)
        folders = image_folders(paths, out, command="points", as_json=as_json)
        clip = open_model(model, method=method, depth=depth, device=device, dtype=dtype, images=paths)
        clip.encode_text(texts)  # what is wrong with them is said once, before the first image
        from clip_surgery_hub.sam.prompts import prompts_of

        report = Report(console)
        for path, folder in progress(zip(paths, folders, strict=True), "pointing", console):
            with report.image(path):
                explanation = clip.explain(path, texts, size=size, background=others)
                prompts = prompts_of(explanation, combinations, keep_absent=keep_absent)
                record = points_record(explanation, prompts, image=path)
                if folder is not None:
                    with results_folder(folder) as place:
                        write_points(explanation, prompts, place)
                        write_record(record, place)
                counts = (f"{one['text']} {sum(one['labels'])}" for one in record["prompts"])
                report.add(record, folder, ", ".join(counts) or "nothing is there")
    report.print(model=model, texts=texts, as_json=as_json)
    raise typer.Exit(report.exit_code)
