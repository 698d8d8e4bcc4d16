"""The prompts for SAM: points per text or combination of texts, none for absent texts.

The heatmap of a combination goes with it, for the choice among the masks that SAM proposes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from clip_surgery_hub.results.explanation import PRESENT, Explanation, Points


@dataclass(frozen=True, eq=False)
class Prompt:
    """Points on and off what one mask is to show.

    Attributes:
        texts: the texts it shows, more than one where texts are combined.
        points: on any of the texts, and off them.
        presence: of each text in the image, None where it is not known.
    """

    texts: tuple[str, ...]
    points: Points
    presence: tuple[float, ...] | None

    @property
    def name(self) -> str:
        """The texts in one word, as they were combined: ``dog+ball``."""
        return "+".join(self.texts)


def prompts_of(
    explanation: Explanation,
    combinations: Sequence[Sequence[str]],
    *,
    keep_absent: bool = False,
    threshold: float = 0.8,
) -> list[Prompt]:
    """The prompts for one image; texts that do not seem to be in it are left out, with a warning each.

    Args:
        explanation: of one image.
        combinations: which texts each prompt is for; out of those that were explained.
        keep_absent: leave no text out.
        threshold: see :meth:`Explanation.points`.

    Returns:
        A prompt per combination of which at least one text is present. One that lost texts is left out where
        another prompt is for what is left of it.

    Raises:
        ValueError: for an explanation of several images, or a text that was not explained.
    """
    if len(explanation) != 1:
        raise ValueError(f"prompts are made for one image at a time, got {len(explanation)}: explanation[0].")
    presence = None
    if explanation.presence is not None:
        presence = dict(zip(explanation.texts, explanation.presence[0].tolist(), strict=True))
    found: list[tuple[str, ...]] = []
    for combination in combinations:
        kept = tuple(
            text
            for text in combination
            if keep_absent or presence is None or presence.get(text, 1.0) >= PRESENT
        )
        for text in combination:
            if text not in kept and presence is not None:
                warnings.warn(
                    f"{text!r} does not seem to be in the image (presence {presence[text]:.2f}, "
                    f"{PRESENT} is asked for) and was left out; keep_absent=True (--keep-absent) keeps it.",
                    stacklevel=2,
                )
        found.append(kept)
    whole = {
        frozenset(kept) for kept, asked in zip(found, combinations, strict=True) if len(kept) == len(asked)
    }
    prompts: list[Prompt] = []
    made: set[frozenset[str]] = set()
    for kept, asked in zip(found, combinations, strict=True):
        again = len(kept) < len(asked) and frozenset(kept) in whole | made
        if kept and not again:
            (points,) = explanation.combined_points(kept, threshold)
            known = None if presence is None else tuple(presence[text] for text in kept)
            prompts.append(Prompt(kept, points, known))
            made.add(frozenset(kept))
    return prompts


def prompt_heatmaps(explanation: Explanation, prompts: Sequence[Prompt]) -> Tensor:
    """The heatmap of each prompt; that of a combination is the maximum of its texts' heatmaps.

    A place belongs to "dog+ball" when it belongs to either. The maximum says so: each object has its own full
    heat. In the mean, an object has half of it, as much as a place that is lukewarm for both, and the heat of
    one text on the ground counts against the object of the other. On 80 synthetic scenes of three objects,
    for all pairs of texts with the bundled CLIP, the maximum is warmer on both objects than elsewhere by 14%
    of its range and the mean by 7%; their correlations with the mask of both are 0.35 and 0.32.

    Args:
        explanation: of the image that the prompts are for.
        prompts: P of them, out of :func:`prompts_of`.

    Returns:
        ``[P, H, W]`` in [0, 1] at the image's own size.

    Raises:
        ValueError: for an explanation of several images.
    """
    (heatmaps,) = explanation.heatmaps()
    found = heatmaps.new_zeros(len(prompts), *heatmaps.shape[1:])
    for number, prompt in enumerate(prompts):
        found[number] = heatmaps[[explanation.texts.index(text) for text in prompt.texts]].amax(0)
    return found
