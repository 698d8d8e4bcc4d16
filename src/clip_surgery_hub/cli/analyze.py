"""``clip-surgery analyze``: why raw CLIP fails on an image, and what both surgeries make of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import find_images, gather_texts, point_of
from clip_surgery_hub.cli.run import Record, Task, run

if TYPE_CHECKING:
    from clip_surgery_hub.model import CLIPSurgery


@options.with_request
def analyze(
    request: options.Request,
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
) -> None:
    """Show where a patch of each image attends to in every block, and what all texts have in common.

    Writes a folder per image: attention.png, redundancy.png, and a JSON with the figures of both.
    """

    def prepare() -> Task:
        texts = gather_texts(text or [], text_file)
        if len(texts) < 2:
            raise ValueError(
                f"What texts have in common needs two or more, got {texts[0]!r} alone. Add another --text."
            )
        if mask is not None and (count := len(find_images(request.images))) > 1:
            raise ValueError(f"A mask belongs to one image, got {count} images. Analyze it by itself.")
        place = None if point is None else point_of(point)
        inside = None
        if mask is not None:
            from clip_surgery_hub.analysis.masks import read_mask

            inside = read_mask(mask)

        def answer(clip: CLIPSurgery, path: Path, folder: Path | None) -> Record:
            from clip_surgery_hub.analysis import attention_analysis, redundancy_analysis
            from clip_surgery_hub.analysis.masks import highest_patch
            from clip_surgery_hub.cli.outputs import write_analysis, write_results
            from clip_surgery_hub.cli.records import analysis_record

            objects = None if inside is None else [{texts[0]: inside}]
            redundancy = redundancy_analysis(clip, [path], texts, masks=objects, size=request.size)
            patch = None if place else highest_patch(redundancy.modified.similarity[0][0], inside)
            attention = attention_analysis(
                clip, path, patch=patch, point=place, mask=inside, size=request.size
            )
            chosen = "given" if place else f"the highest place of the map of {texts[0]!r}"
            if patch and inside is not None:
                chosen += " on the mask"
            result = analysis_record(attention, redundancy, image=path, chosen=chosen)
            if folder is not None:
                write_results(folder, result, lambda place: write_analysis(attention, redundancy, place))
            return result

        return Task("analyze", "analyzing", texts, answer, figures, begin=_check_tower)

    run(request, prepare)


def _check_tower(clip: CLIPSurgery) -> None:
    from clip_surgery_hub.towers.activations import clip_tower

    try:
        clip_tower(clip.tower)
    except TypeError as error:  # a tower that cannot be looked into: bad input here
        raise ValueError(str(error)) from error


def figures(record: Record) -> str:
    """Which patch it is, and how much the texts have in common beside what texts that share nothing have."""
    patch, share = record["attention"]["patch"], record["redundancy"]["redundancy"]
    texts = len(record["redundancy"]["texts"])
    return (
        f"patch in row {patch['row']}, column {patch['column']} ({record['chosen']}); "
        f"{share:.0%} of the energy is common to all {texts} texts, where {1 / texts:.0%} is nothing"
    )
