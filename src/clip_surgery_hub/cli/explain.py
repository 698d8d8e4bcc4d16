"""``clip-surgery explain``: where each text is."""

from __future__ import annotations

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import find_images, gather_background, gather_texts
from clip_surgery_hub.cli.opening import open_model
from clip_surgery_hub.cli.outputs import write_explanation, write_record
from clip_surgery_hub.cli.records import explanation_record
from clip_surgery_hub.cli.reporting import Report, errors_in_one_line, progress
from clip_surgery_hub.cli.result_folders import image_folders, results_folder


def explain(
    images: options.Images,
    text: options.Text = None,
    text_file: options.TextFile = None,
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
    """Show where in each image each text is.

    Writes a folder per image: a panel, an overlay per text, the raw maps, a JSON with scores and points.
    """
    with errors_in_one_line() as console:
        paths = find_images(images)
        texts = gather_texts(text, text_file)
        others = gather_background(background, texts)
        folders = image_folders(paths, out, command="explain", as_json=as_json)
        clip = open_model(model, method=method, depth=depth, device=device, dtype=dtype, images=paths)
        clip.encode_text(texts)  # what is wrong with them is said once, before the first image
        report = Report(console)
        for path, folder in progress(zip(paths, folders, strict=True), "explaining", console):
            with report.image(path):
                explanation = clip.explain(path, texts, size=size, background=others)
                record = explanation_record(explanation, image=path)
                if folder is not None:
                    with results_folder(folder) as place:
                        write_explanation(explanation, place)
                        write_record(record, place)
                scores = (f"{one['text']} {one['score']:.3f}" for one in record["texts"])
                report.add(record, folder, ", ".join(scores))
    report.print(model=model, texts=texts, as_json=as_json)
    raise typer.Exit(report.exit_code)
