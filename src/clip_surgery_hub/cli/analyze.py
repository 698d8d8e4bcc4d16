"""``clip-surgery analyze``: why raw CLIP fails on an image, and what both surgeries make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import find_images, gather_texts, point_of
from clip_surgery_hub.cli.opening import open_model
from clip_surgery_hub.cli.outputs import write_analysis, write_record
from clip_surgery_hub.cli.records import analysis_record
from clip_surgery_hub.cli.reporting import Report, errors_in_one_line, progress
from clip_surgery_hub.cli.result_folders import image_folders, results_folder


def analyze(
    images: options.Images,
    text: options.Text = None,
    text_file: options.TextFile = None,
    point: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y",
            help="The patch whose attention is shown, in pixels of the image (default: the highest place "
            "of the first text's map, on the mask if there is one).",
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="The object of the first text, as a PNG of the image's size: black is off it."),
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
    """Show where a patch of each image attends to in every block, and what all texts have in common.

    Writes a folder per image: attention.png, redundancy.png, and a JSON with the figures of both.
    """
    with errors_in_one_line() as console:
        paths = find_images(images)
        texts = gather_texts(text, text_file)
        if len(texts) < 2:
            raise ValueError(
                f"What texts have in common needs two or more, got {texts[0]!r} alone. Add another --text."
            )
        if mask is not None and len(paths) > 1:
            raise ValueError(f"A mask belongs to one image, got {len(paths)} images. Analyze it by itself.")
        given = None if point is None else point_of(point)
        inside = None
        if mask is not None:
            from clip_surgery_hub.analysis.masks import read_mask

            inside = read_mask(mask)
        folders = image_folders(paths, out, command="analyze", as_json=as_json)
        clip = open_model(model, method=method, depth=depth, device=device, dtype=dtype, images=paths)
        clip.encode_text(texts)  # what is wrong with them is said once, before the first image
        from clip_surgery_hub.analysis import attention_analysis, redundancy_analysis
        from clip_surgery_hub.analysis.masks import highest_patch
        from clip_surgery_hub.towers.activations import clip_tower

        try:
            clip_tower(clip.tower)
        except TypeError as error:  # a tower that cannot be looked into: bad input here
            raise ValueError(str(error)) from error
        objects = None if inside is None else [{texts[0]: inside}]
        chosen = "given" if given else f"the highest place of the map of {texts[0]!r}"
        if not given and inside is not None:
            chosen += " on the mask"
        report = Report(console)
        for path, folder in progress(zip(paths, folders, strict=True), "analyzing", console):
            with report.image(path):
                redundancy = redundancy_analysis(clip, [path], texts, masks=objects, size=size)
                patch = None if given else highest_patch(redundancy.modified.similarity[0][0], inside)
                attention = attention_analysis(clip, path, patch=patch, point=given, mask=inside, size=size)
                record = analysis_record(attention, redundancy, image=path, chosen=chosen)
                if folder is not None:
                    with results_folder(folder) as place:
                        write_analysis(attention, redundancy, place)
                        write_record(record, place)
                report.add(record, folder, _line(record))
    report.print(model=model, texts=texts, as_json=as_json)
    raise typer.Exit(report.exit_code)


def _line(record: dict[str, Any]) -> str:
    """Which patch it is, and how much the texts have in common beside what texts that share nothing have."""
    patch, share = record["attention"]["patch"], record["redundancy"]["redundancy"]
    texts = len(record["redundancy"]["texts"])
    return (
        f"patch in row {patch['row']}, column {patch['column']} ({record['chosen']}); "
        f"{share:.0%} of the energy is common to all {texts} texts, where {1 / texts:.0%} is nothing"
    )
