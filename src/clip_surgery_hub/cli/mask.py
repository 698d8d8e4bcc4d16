"""``clip-surgery mask``: the mask of each text, by its points and a segmentation model."""

from __future__ import annotations

from itertools import chain
from typing import Annotated

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import find_images, gather_background, gather_texts, parts_of
from clip_surgery_hub.cli.opening import open_model
from clip_surgery_hub.cli.outputs import write_masks, write_record
from clip_surgery_hub.cli.records import masks_record
from clip_surgery_hub.cli.reporting import Report, errors_in_one_line, progress
from clip_surgery_hub.cli.result_folders import image_folders, results_folder

CHOICES = ("score", "agreement")


def mask(
    images: options.Images,
    text: options.Text = None,
    text_file: options.TextFile = None,
    sam: Annotated[
        str,
        typer.Option(
            help="The segmentation model: sam_tiny.scenes, a file of segment-anything, a folder of "
            "transformers or a hub id."
        ),
    ] = "sam_tiny.scenes",
    choose: Annotated[
        str,
        typer.Option(
            help="Which of the masks that it proposes. score: the one that it takes to be best; agreement: "
            "the one that agrees best with the heatmap."
        ),
    ] = "score",
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
    """Cut each text out of each image: its points prompt a segmentation model such as SAM for a mask.

    "dog+ball" combines texts to one mask. Texts that do not seem to be in an image are left out. Writes a
    folder per image: a panel with masks and points, a black and white PNG per mask, and a JSON with the
    masks in COCO's run lengths.
    """
    with errors_in_one_line() as console:
        paths = find_images(images)
        combinations = [parts_of(one) for one in gather_texts(text, text_file)]
        texts = list(dict.fromkeys(chain(*combinations)))
        others = gather_background(background, texts)
        if choose not in CHOICES:
            raise ValueError(f"There is no choice {choose!r} among masks. Choose {' or '.join(CHOICES)}.")
        folders = image_folders(paths, out, command="mask", as_json=as_json)
        clip = open_model(model, method=method, depth=depth, device=device, dtype=dtype, images=paths)
        clip.encode_text(texts)  # what is wrong with them is said once, before the first image
        from clip_surgery_hub.sam.loading import load_sam
        from clip_surgery_hub.sam.masks import masks
        from clip_surgery_hub.sam.prompts import prompt_heatmaps, prompts_of

        segmentation_model = load_sam(sam, device=clip.device)
        report = Report(console)
        for path, folder in progress(zip(paths, folders, strict=True), "masking", console):
            with report.image(path):
                explanation = clip.explain(path, texts, size=size, background=others)
                prompts = prompts_of(explanation, combinations, keep_absent=keep_absent)
                found = masks(
                    explanation,
                    segmentation_model,
                    choose=choose,  # type: ignore[arg-type]
                    points=[[prompt.points for prompt in prompts]],
                    heatmaps=[prompt_heatmaps(explanation, prompts)] if choose == "agreement" else None,
                )
                record = masks_record(explanation, prompts, found, image=path)
                if folder is not None:
                    with results_folder(folder) as place:
                        write_masks(explanation, prompts, found, place)
                        write_record(record, place)
                shares = (f"{one['text']} {one['share']:.0%}" for one in record["prompts"])
                report.add(record, folder, ", ".join(shares) or "nothing is there")
    report.print(model=model, texts=texts, as_json=as_json)
    raise typer.Exit(report.exit_code)
