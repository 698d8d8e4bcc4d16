"""``clip-surgery segment``: the best text of every pixel."""

from __future__ import annotations

from typing import Annotated

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import find_images, gather_background, gather_texts
from clip_surgery_hub.cli.opening import open_model
from clip_surgery_hub.cli.outputs import write_record, write_segments
from clip_surgery_hub.cli.records import segments_record
from clip_surgery_hub.cli.reporting import Report, errors_in_one_line, progress
from clip_surgery_hub.cli.result_folders import image_folders, results_folder


def segment(
    images: options.Images,
    text: options.Text = None,
    text_file: options.TextFile = None,
    background: options.Background = None,
    features: Annotated[
        str, typer.Option(help="plain: cosine similarity, as the paper; surgery: after feature surgery.")
    ] = "plain",
    window: Annotated[
        int | None, typer.Option(min=1, help="Side of a sliding window in pixels (default: none).")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Step of the window in pixels (default: half of it).")
    ] = None,
    model: options.Model = options.BUNDLED,
    method: options.Method = None,
    depth: options.Depth = None,
    size: options.Size = None,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Give every pixel the text that fits it best, out of the texts and the background texts.

    Writes a folder per image: segments.png, whose pixels number the texts, an overlay, and a JSON with the
    mask of each text in COCO's run lengths.
    """
    with errors_in_one_line() as console:
        paths = find_images(images)
        texts = gather_texts(text, text_file)
        others = gather_background(background, texts)
        if len(texts) + len(others) < 2:
            raise ValueError(
                f"{texts[0]!r} alone would get every pixel. Say what else there may be: --background grass."
            )
        if features not in ("plain", "surgery"):
            raise ValueError(f"There are no features {features!r}. Choose plain or surgery.")
        folders = image_folders(paths, out, command="segment", as_json=as_json)
        clip = open_model(model, method=method, depth=depth, device=device, dtype=dtype, images=paths)
        clip.encode_text(texts)  # what is wrong with them is said once, before the first image
        report = Report(console)
        for path, folder in progress(zip(paths, folders, strict=True), "segmenting", console):
            with report.image(path):
                explanation = clip.explain(
                    path, texts, size=size, background=others, window=window, stride=stride
                )
                (index_map,) = explanation.segment(features)  # type: ignore[arg-type]
                record = segments_record(explanation, index_map, image=path)
                if folder is not None:
                    with results_folder(folder) as place:
                        write_segments(explanation, index_map, place)
                        write_record(record, place)
                shares = (f"{one['text']} {one['share']:.0%}" for one in record["segments"] if one["share"])
                report.add(record, folder, ", ".join(shares))
    report.print(model=model, texts=texts, as_json=as_json)
    raise typer.Exit(report.exit_code)
