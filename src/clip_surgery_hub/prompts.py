"""What a promptable segmenter is asked: points per text or combination of texts, none for absent ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from clip_surgery_hub.explanation import PRESENT, Explanation, Points


@dataclass(frozen=True, eq=False)
class Prompt:
    """Points on and off what one mask is to show.

    Attributes:
        texts: the texts it shows, more than one where texts are combined.
        points: on any of the texts, and off them.
        presence: of each text in the picture, None where it is not known.
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
    """The prompts for one picture; texts that do not seem to be in it are left out, with a warning each.

    Args:
        explanation: of one picture.
        combinations: which texts each prompt is for; out of those that were explained.
        keep_absent: leave no text out.
        threshold: see :meth:`Explanation.points`.

    Returns:
        A prompt per combination of which at least one text is present.

    Raises:
        ValueError: for an explanation of several pictures, or a text that was not explained.
    """
    if len(explanation) != 1:
        raise ValueError(
            f"prompts are made for one picture at a time, got {len(explanation)}: explanation[0]."
        )
    presence = None
    if explanation.presence is not None:
        presence = dict(zip(explanation.texts, explanation.presence[0].tolist(), strict=True))
    prompts = []
    for combination in combinations:
        kept = [
            text
            for text in combination
            if keep_absent or presence is None or presence.get(text, 1.0) >= PRESENT
        ]
        for text in combination:
            if text not in kept and presence is not None:
                warnings.warn(
                    f"{text!r} does not seem to be in the picture (presence {presence[text]:.2f}, "
                    f"{PRESENT} is asked for) and was left out; keep_absent keeps it.",
                    stacklevel=2,
                )
        if kept:
            (points,) = explanation.combined_points(kept, threshold)
            known = None if presence is None else tuple(presence[text] for text in kept)
            prompts.append(Prompt(tuple(kept), points, known))
    return prompts
