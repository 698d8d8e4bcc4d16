"""``clip-surgery sentence``: which words of a caption an image responds to, and where."""

from __future__ import annotations

from typing import Annotated

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import find_images
from clip_surgery_hub.cli.opening import open_model
from clip_surgery_hub.cli.outputs import write_record, write_sentence
from clip_surgery_hub.cli.records import sentence_record
from clip_surgery_hub.cli.reporting import Report, errors_in_one_line, progress
from clip_surgery_hub.cli.result_folders import image_folders, results_folder


def sentence(
    images: options.Images,
    caption: Annotated[str, typer.Option(help="A sentence, such as 'a dog on grass'.")] = "",
    model: options.Model = options.BUNDLED,
    method: options.Method = None,
    depth: options.Depth = None,
    size: options.Size = None,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Show which words of a caption each image responds to, and where.

    Writes a folder per image: a panel with the words shaded by their scores and a heatmap of each, the raw
    maps, and a JSON with words, tokens and scores.
    """
    with errors_in_one_line() as console:
        paths = find_images(images)
        if not caption.strip():
            raise ValueError("No caption was given. Write a sentence: --caption 'a dog on grass'.")
        folders = image_folders(paths, out, command="sentence", as_json=as_json)
        clip = open_model(model, method=method, depth=depth, device=device, dtype=dtype, images=paths)
        from clip_surgery_hub.results.sentence import read_caption

        # What is wrong with the caption, and which of its words the model does not know, is said once.
        read_caption(clip.model, clip.tokenizer, caption)
        clip.encode_text(caption, templates=None)
        report = Report(console)
        for path, folder in progress(zip(paths, folders, strict=True), "reading", console):
            with report.image(path):
                explanation = clip.sentence(path, caption, size=size)
                record = sentence_record(explanation, image=path)
                if folder is not None:
                    with results_folder(folder) as place:
                        write_sentence(explanation, place)
                        write_record(record, place)
                strongest = (record["words"][number] for number in record["top"])
                report.add(
                    record, folder, ", ".join(f"{one['text']} {one['score']:.3f}" for one in strongest)
                )
    report.print(model=model, texts=(), as_json=as_json)
    raise typer.Exit(report.exit_code)
