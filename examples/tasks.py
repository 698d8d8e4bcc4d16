"""A walk through everything that can be asked of an image: each step is a few calls of the library.

The image is one of the samples; its heatmaps are the first step, and every later step starts from them or
from what was found before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from torch import Tensor

from clip_surgery_hub import CLIPSurgery, Explanation
from clip_surgery_hub.analysis import attention_analysis, redundancy_analysis
from clip_surgery_hub.analysis.masks import highest_patch
from clip_surgery_hub.plotting.labels import plot_labels
from clip_surgery_hub.plotting.masks import plot_masks, plot_prompts, plot_segments
from clip_surgery_hub.sam.backends import Sam
from clip_surgery_hub.sam.masks import masks
from clip_surgery_hub.sam.prompts import prompts_of

SAMPLE = "scene_4.png"
ABSENT = "pizza"  # what the sample does not show
SIZE = 112  # of the images as they are read: finer points than at this CLIP's own 80 pixels
GROUNDS = ("cloth", "tiles", "wall", "clutter")  # what may lie behind the things
CAPTION = "a fish above a briefcase"


class Step(NamedTuple):
    """What one step of the walk drew: the name of its file, what is to be seen, and the figure."""

    name: str
    shown: str
    figure: Figure


def walk(
    clip: CLIPSurgery, sam: Sam, image: Path, texts: Sequence[str], words: Sequence[str]
) -> Iterator[Step]:
    """Ask one image everything.

    Args:
        clip: the checkpoint.
        sam: the segmentation model.
        image: the sample.
        texts: the three things that it shows.
        words: every word that the checkpoint knows; the more in a class set, the better.
    """
    _, second, third = texts
    asked = [*texts, ABSENT]
    others = [word for word in words if word not in asked]
    explanation = clip.explain(image, asked, background=others, size=SIZE)

    prompts = prompts_of(explanation, [[text] for text in asked])
    yield Step(
        "points",
        f"positive and negative points of each text; none for {ABSENT}",
        plot_prompts(explanation, prompts),
    )

    one, _ = cut_out(explanation, sam, [[second]])
    yield Step("mask", f"the mask of {second}: its points prompt SAM", one)
    many, found = cut_out(explanation, sam, [[text] for text in texts])
    yield Step("masks", "a mask of each text, the image encoded once", many)
    combined, _ = cut_out(explanation, sam, [[second, third]])
    yield Step("combined", f'one mask of two texts, "{second}+{third}"', combined)

    segments = clip.explain(image, texts, background=GROUNDS)
    (index_map,) = segments.segment()
    yield Step(
        "segments",
        "the best text of every pixel, background texts among them",
        plot_segments(segments.images_to_draw[0], index_map, [*segments.texts, *segments.background]),
    )

    everything = clip.explain(image, words)
    (labels,) = everything.labels(top_k=6)
    yield Step(
        "labels",
        f"which of {len(words)} words the image shows",
        plot_labels(everything, labels),
    )

    sentence = clip.sentence(image, CAPTION)
    yield Step("sentence", "which words of a caption it responds to, and where", sentence.plot()[0].figure)

    patch = highest_patch(explanation.similarity[0][texts.index(second)], found[second].numpy())
    attention = attention_analysis(clip, image, patch=patch, mask=found[second], size=SIZE)
    yield Step("attention", f"where a patch on {second} attends to: raw CLIP and surgery", attention.plot())
    redundancy = redundancy_analysis(clip, image, words, masks=[found])
    yield Step(
        "redundancy", "what all texts have in common, and the maps before and after", redundancy.plot()
    )


def cut_out(
    explanation: Explanation, sam: Sam, combinations: Sequence[Sequence[str]]
) -> tuple[Figure, dict[str, Tensor]]:
    """The figure of the masks of texts or combinations of texts, and the masks ``[H, W]`` by their names."""
    prompts = prompts_of(explanation, combinations, keep_absent=True)  # the sample is known to show them
    found = masks(explanation, sam, points=[[prompt.points for prompt in prompts]])
    figure = plot_masks(explanation.images_to_draw[0], prompts, found.masks[0], found.scores[0])
    return figure, dict(zip((prompt.name for prompt in prompts), found.masks[0], strict=True))
