"""From text to points to masks: the points of an explanation prompt a segmentation model such as SAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from clip_surgery_hub.results.explanation import Explanation, Points
from clip_surgery_hub.sam.backends import Sam, check_sam, encode_image

__all__ = ["Choice", "MaskResult", "mask_agreement", "masks", "masks_at"]

Choice = Literal["score", "agreement"]


@dataclass(frozen=True, eq=False)
class MaskResult:
    """One mask per text (or list of points) of every image.

    Attributes:
        masks: B tensors bool ``[T, H, W]``, each at its image's own size.
        scores: B tensors float32 ``[T]``: the segmentation model's own estimate of the mask's intersection
            over union. It says nothing of the text.
        points: B tuples of T :class:`Points`: what was asked.

    A text without points (its map is alike everywhere) has an empty mask and score 0.
    """

    masks: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]
    points: tuple[tuple[Points, ...], ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.masks)


def masks(
    explanation: Explanation,
    sam: Sam,
    *,
    choose: Choice = "score",
    threshold: float = 0.8,
    points: Sequence[Sequence[Points]] | None = None,
    heatmaps: Sequence[Tensor] | None = None,
) -> MaskResult:
    """Masks of the texts: their points prompt SAM, which proposes some masks, of which one is taken.

    This is the paper's text to points to masks, without training and without a click. SAM's image encoder
    runs once per image, however many texts there are, and not at all where none has points.

    Args:
        explanation: what ``explain`` returned; it keeps the images.
        sam: a ``SamPredictor`` of ``segment_anything``; a ``SamModel``, ``SamHQModel``, ``Sam2Model`` or
            ``EdgeTamModel`` of ``transformers`` (alone it gets its images as its published checkpoints do);
            or such a model with its processor, as a pair. ``load_sam`` gives any of them.
        choose: "score" takes the mask of the highest predicted score, as published; "agreement" the one that
            agrees best with the heatmap (:func:`mask_agreement`), of equal ones that of the highest score:
            the score does not know the text, and is often highest for the background.
        threshold: see :meth:`Explanation.points`, in [0, 1].
        points: B lists of :class:`Points`, one per mask, in place of the explanation's own: corrected by
            hand, or of combined texts, ``[[one] for one in explanation.combined_points(["dog", "ball"])]``.
            Their number may differ from T and between the images.
        heatmaps: B tensors ``[T, H, W]``, one map per mask, in place of the explanation's own; read by
            "agreement" only, which needs them wherever ``points`` are given.

    Returns:
        A :class:`MaskResult`; with ``points``, T is the length of each image's list.

    Raises:
        TypeError: for a ``sam`` that cannot be asked for masks at points, or another kind of explanation.
        ValueError: for other choices, a threshold outside [0, 1], points or heatmaps that do not fit the
            images, a model in training mode, or scores that are not finite.
    """
    if not isinstance(explanation, Explanation):
        raise TypeError(
            f"masks needs an Explanation, what explain returns, got {type(explanation).__name__}."
        )
    if choose not in get_args(Choice):
        raise ValueError(f'choose must be "score" or "agreement", got {choose!r}.')
    check_sam(sam)
    asked = explanation.points(threshold) if points is None else points
    images = explanation.images_to_draw
    _check_points(asked, images)
    if choose == "agreement" and heatmaps is None and points is not None:
        raise ValueError(
            'choose="agreement" with points of your own needs the heatmap of each of them: give heatmaps=, '
            'B tensors [T, H, W], or choose="score".'
        )
    if heatmaps is not None:
        _check_heatmaps(heatmaps, asked, images)
    found = []
    for number, (image, prompts) in enumerate(zip(images, asked, strict=True)):
        heat = None
        if choose == "agreement":
            heat = explanation[number].heatmaps()[0] if heatmaps is None else heatmaps[number]
        proposed = _candidates(image, prompts, sam)
        found.append(_chosen(proposed, len(prompts), image.shape[:2], heat))
    return MaskResult(
        masks=tuple(chosen for chosen, _ in found),
        scores=tuple(scores for _, scores in found),
        points=tuple(tuple(prompts) for prompts in asked),
    )


def mask_agreement(candidates: Tensor, heatmap: Tensor) -> Tensor:
    """How well each mask agrees with a heatmap: their correlation over the pixels of the image.

    With the share p of pixels inside a mask, and the mean heat inside and outside of it, this is::

        (mean inside - mean outside) * sqrt(p * (1 - p)) / (standard deviation of the heat)

    Its square is the share of the heat's variance that is explained by two levels, one inside the mask and
    one outside (the criterion of Otsu's threshold); its sign tells the object from the background, which is
    as well explained but the colder side. Two simpler measures fail: the difference of the means alone
    prefers a small part at the peak to the whole object, and the overlap of mask and heat prefers large
    masks, since heat is spread wider than the object. The correlation needs no threshold, and stays what it
    is when the heat is scaled or shifted.

    Args:
        candidates: bool ``[M, H, W]``.
        heatmap: ``[H, W]``.

    Returns:
        Float64 ``[M]`` in [-1, 1]; 0 for a mask that is empty or covers the image, and for a constant map:
        there is nothing to agree on.

    Raises:
        ValueError: for shapes that do not fit together.
    """
    if heatmap.ndim != 2 or candidates.ndim != 3 or candidates.shape[1:] != heatmap.shape:
        raise ValueError(
            f"candidates must be [M, H, W] and heatmap [H, W], got {list(candidates.shape)} and "
            f"{list(heatmap.shape)}."
        )
    heat = heatmap.double() - heatmap.double().mean()
    if heatmap.min() == heatmap.max():
        heat = torch.zeros_like(heat)  # what is left of a constant map is the rounding of its mean
    share = candidates.flatten(1).sum(dim=1).double() / heat.numel()  # [M]
    covariance = torch.stack([heat[mask].sum() for mask in candidates]) / heat.numel()
    spread = (share * (1 - share)).sqrt() * heat.square().mean().sqrt()
    return torch.where(spread > 0, covariance / torch.where(spread > 0, spread, 1), 0)


def masks_at(
    image: np.ndarray, points: Sequence[Points], sam: Sam, heatmaps: Tensor
) -> tuple[Tensor, Tensor]:
    """The masks that both choices take at the same points of one image, which SAM sees once.

    Args:
        image: uint8 ``[H, W, 3]``.
        points: T of them.
        sam: see :func:`masks`.
        heatmaps: ``[T, H, W]``, of the points.

    Returns:
        Masks bool ``[T, H, W]`` by "score" and by "agreement"; empty where there are no points.
    """
    found = _candidates(image, points, sam)
    chosen = [_chosen(found, len(points), image.shape[:2], heat)[0] for heat in (None, heatmaps)]
    return chosen[0], chosen[1]


def _candidates(image: np.ndarray, prompts: Sequence[Points], sam: Sam) -> dict[int, tuple[Tensor, Tensor]]:
    """What SAM proposes, masks bool ``[M, H, W]`` and their scores ``[M]``, for each prompt with points."""
    with_points = [number for number, prompt in enumerate(prompts) if len(prompt.labels)]
    if not with_points:
        return {}
    ask = encode_image(sam, image)
    found = {number: ask(prompts[number]) for number in with_points}
    if not all(predicted.isfinite().all() for _, predicted in found.values()):
        raise ValueError(
            "The segmentation model's scores are not finite. Half precision may have overflowed: use float32."
        )
    return found


def _chosen(
    found: Mapping[int, tuple[Tensor, Tensor]], prompts: int, size: Sequence[int], heat: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The chosen masks bool ``[T, H, W]`` and their scores ``[T]``: by score, or by agreement with heat."""
    chosen, scores = torch.zeros(prompts, *size, dtype=torch.bool), torch.zeros(prompts)
    for number, (candidates, predicted) in found.items():
        merit = predicted if heat is None else mask_agreement(candidates, heat[number])
        best = torch.where(merit == merit.max(), predicted, -torch.inf).argmax()
        chosen[number], scores[number] = candidates[best], predicted[best]
    return chosen, scores


def _check_points(asked: Sequence[Sequence[Points]], images: Sequence[np.ndarray]) -> None:
    if len(asked) != len(images):
        raise ValueError(f"points must hold one list per image, got {len(asked)} for {len(images)}.")
    for image, prompts in zip(images, asked, strict=True):
        height, width = image.shape[:2]
        for prompt in prompts:
            if not isinstance(prompt, Points):
                raise ValueError(
                    f"points must be B lists of Points(xy, labels), got a {type(prompt).__name__} in a list."
                )
            xy, labels = prompt
            if labels.ndim != 1 or xy.shape != (len(labels), 2):
                raise ValueError(
                    f"Points need xy [K, 2] and labels [K], got {list(xy.shape)} and {list(labels.shape)}."
                )
            if not ((labels == 0) | (labels == 1)).all():
                raise ValueError(
                    f"Labels of points must be 1 (on) or 0 (off the object), got {labels.unique().tolist()}."
                )
            if not ((xy >= 0) & (xy < xy.new_tensor([width, height]))).all():
                raise ValueError(
                    f"Points must be x, y in pixels inside of the image of {width} x {height}, "
                    f"got {xy.tolist()}."
                )


def _check_heatmaps(
    heatmaps: Sequence[Tensor], asked: Sequence[Sequence[Points]], images: Sequence[np.ndarray]
) -> None:
    if len(heatmaps) != len(images):
        raise ValueError(f"heatmaps must be one tensor per image, got {len(heatmaps)} for {len(images)}.")
    for heat, prompts, image in zip(heatmaps, asked, images, strict=True):
        expected = [len(prompts), *image.shape[:2]]
        if list(heat.shape) != expected:
            raise ValueError(
                f"Each tensor of heatmaps must have shape [T, H, W] = {expected}, got {list(heat.shape)}."
            )
        if not heat.isfinite().all():
            raise ValueError("heatmaps hold values that are not finite; give maps in [0, 1].")
