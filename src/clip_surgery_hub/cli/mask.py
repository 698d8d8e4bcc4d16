"""``clip-surgery mask``: the mask of each text, by its points and a segmentation model."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import gather_background, gather_texts, parts_of
from clip_surgery_hub.cli.run import Record, Task, run

if TYPE_CHECKING:
    import torch

    from clip_surgery_hub.model import CLIPSurgery
    from clip_surgery_hub.sam.backends import Sam

CHOICES = ("score", "agreement")


@options.with_request
def mask(
    request: options.Request,
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
) -> None:
    """Cut each text out of each image: its points prompt a segmentation model such as SAM for a mask.

    "dog+ball" combines texts to one mask. Texts that do not seem to be in an image are left out. Writes a
    folder per image: a panel with masks and points, a black and white PNG per mask, and a JSON with the
    masks in COCO's run lengths.
    """

    def prepare() -> Task:
        asked = gather_texts(text or [], text_file)
        texts = list(dict.fromkeys(part for one in asked for part in parts_of(one)))
        others = gather_background(background, texts)
        if choose not in CHOICES:
            raise ValueError(f"There is no choice {choose!r} among masks. Choose {' or '.join(CHOICES)}.")

        @cache  # loaded once, before the first image
        def sam_on(device: torch.device) -> Sam:
            from clip_surgery_hub.sam.loading import load_sam

            return load_sam(sam, device=device)

        def answer(clip: CLIPSurgery, path: Path, folder: Path | None) -> Record:
            from clip_surgery_hub.cli.outputs import write_masks, write_results
            from clip_surgery_hub.cli.records import masks_record
            from clip_surgery_hub.sam.masks import masks
            from clip_surgery_hub.sam.prompts import prompt_heatmaps, prompts_of

            explanation = clip.explain(path, texts, size=request.size, background=others)
            prompts = prompts_of(explanation, [parts_of(one) for one in asked], keep_absent=keep_absent)
            found = masks(
                explanation,
                sam_on(clip.device),
                choose=choose,  # type: ignore[arg-type]
                points=[[prompt.points for prompt in prompts]],
                heatmaps=[prompt_heatmaps(explanation, prompts)] if choose == "agreement" else None,
            )
            result = masks_record(explanation, prompts, found, image=path)
            if folder is not None:
                write_results(folder, result, lambda place: write_masks(explanation, prompts, found, place))
            return result

        return Task("mask", "masking", texts, answer, shares, begin=lambda clip: sam_on(clip.device))

    run(request, prepare)


def shares(record: Record) -> str:
    """The share of the image that each mask has."""
    return ", ".join(f"{one['text']} {one['share']:.0%}" for one in record["prompts"]) or "nothing is there"
