"""The result of ``explain``: which patch of which image responds to which text, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from clip_surgery_hub.functional import (
    combined_points,
    highest_text,
    map_to_boxes,
    similarity_map,
    similarity_to_points,
)
from clip_surgery_hub.results.saving import read_parts, write_parts
from clip_surgery_hub.results.settings import Settings

__all__ = ["PRESENT", "Explanation", "Features", "Label", "Points", "Settings"]

Features = Literal["plain", "surgery"]
PRESENT = 0.85
"""The least presence of a text that is taken to be in an image: where as large a share of the texts that are
there is kept as of those that are not is left out, on synthetic scenes (docs/results.md)."""


class Points(NamedTuple):
    """Where a text is, and where it is not, as a promptable segmentation model such as SAM takes it.

    Attributes:
        xy: ``[P+Q, 2]`` int64, x then y in pixels of the image: the P highest places, then the Q lowest.
            P = Q for one text; several texts combined may have more of the first.
        labels: ``[P+Q]`` uint8, P ones (on the text), then Q zeros (off it).
    """

    xy: Tensor
    labels: Tensor


class Label(NamedTuple):
    """A text that an image shows, and its score after feature surgery."""

    text: str
    score: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """Patch similarity of B images with T texts and K background texts, and what can be read from it.

    Everything offered here is computed from the fields; the model is not needed any more.

    Attributes:
        texts: the T texts asked for.
        background: the K background texts, possibly none; they belong to the class set but are not asked for.
        surgery_similarity: B tensors ``[T+K, h, w]``, similarity of the patches after feature surgery, texts
            first; ``h, w`` is the image's patch grid.
        plain_similarity: B tensors ``[T+K, h, w]``, cosine similarity of the patches before feature surgery,
            in [-1, 1].
        scores: ``[B, T]``, the scores for multi-label recognition: CLS after feature surgery.
        plain_scores: ``[B, T]``, cosine similarity of CLS and text, in [-1, 1].
        sizes: heights and widths of the images in pixels, ``(H, W)`` each.
        settings: how it was made.
        presence: ``[B, T]`` in [0, 1], how surely each text is in each image at all (about 1/2 for one that
            is not, see `functional.presence`); None where embeddings were given in place of texts.
        images: B arrays uint8 ``[H, W, 3]``, or None where only the sizes are kept; they are needed to draw
            and to prompt SAM.

    All tensors are float32 on the CPU.

    Raises:
        ValueError: if the fields do not fit together, or hold values that are not finite.
    """

    texts: tuple[str, ...]
    background: tuple[str, ...]
    surgery_similarity: tuple[Tensor, ...]
    plain_similarity: tuple[Tensor, ...]
    scores: Tensor
    plain_scores: Tensor
    sizes: tuple[tuple[int, int], ...]
    settings: Settings
    presence: Tensor | None = None
    images: tuple[np.ndarray, ...] | None = None

    def __post_init__(self) -> None:
        _check_fields(self)

    @property
    def similarity(self) -> list[Tensor]:
        """Patch similarity after feature surgery, without the background: B tensors ``[T, h, w]``."""
        return [one[: len(self.texts)] for one in self.surgery_similarity]

    @property
    def images_to_draw(self) -> tuple[np.ndarray, ...]:
        """:attr:`images`, where they are kept.

        Raises:
            ValueError: where only their sizes are.
        """
        if self.images is None:
            raise ValueError(
                "The explanation keeps only the sizes of its images, and this needs their pixels: explain "
                "the images themselves, or add them with dataclasses.replace(explanation, images=...)."
            )
        return self.images

    def heatmaps(self) -> list[Tensor]:
        """Maps over each image: B tensors ``[T, H, W]`` in [0, 1] at the image's own size.

        Each map is scaled by itself from its lowest patch (0) to its highest (1), then resized bilinearly: it
        tells where in the image a text is most at home, not whether it is there at all (see ``scores``).
        """
        return [
            torch.stack([_heatmap(one, size) for one in similarity])
            for similarity, size in zip(self.similarity, self.sizes, strict=True)
        ]

    def points(self, threshold: float = 0.8) -> list[list[Points]]:
        """Positive and negative points of each text, in pixels of the image (the paper's text to points).

        Args:
            threshold: places of at least this share of the map's range are candidates, in [0, 1].

        Returns:
            B lists of T :class:`Points`.

        Raises:
            ValueError: for a threshold outside [0, 1].
        """
        return [
            [Points(*similarity_to_points(one.flatten(), _grid(one), size, threshold)) for one in similarity]
            for similarity, size in zip(self.similarity, self.sizes, strict=True)
        ]

    def combined_points(self, texts: Sequence[str] | None = None, threshold: float = 0.8) -> list[Points]:
        """Points on and off several texts at once, for one mask of all of them ("dog+ball").

        Args:
            texts: which of the explained texts; None for all of them.
            threshold: see :meth:`points`.

        Returns:
            B :class:`Points`: on each of the texts, and off their mean map.

        Raises:
            ValueError: for a text that was not explained, no text, or a threshold outside [0, 1].
        """
        chosen = [self._number_of(text) for text in (self.texts if texts is None else texts)]
        return [
            Points(*combined_points(maps[chosen].flatten(1).T, _grid(maps), size, threshold))
            for maps, size in zip(self.similarity, self.sizes, strict=True)
        ]

    def present(self, threshold: float = PRESENT) -> list[list[bool]]:
        """Whether each text is in each image: :attr:`presence` of at least ``threshold``.

        Raises:
            ValueError: where presence is not known, since embeddings were given in place of texts.
        """
        if self.presence is None:
            raise ValueError(
                "Presence compares texts with other words, and embeddings were given in place of texts: "
                "explain the texts themselves."
            )
        answer: list[list[bool]] = (self.presence >= threshold).tolist()
        return answer

    def labels(self, *, threshold: float | None = None, top_k: int | None = None) -> list[list[Label]]:
        """Which texts each image shows, by their scores (multi-label recognition).

        Args:
            threshold: the least score of a label; scores after feature surgery have no fixed scale, so choose
                it on a few images of your own.
            top_k: that many labels for every image, or all texts where there are fewer.

        Returns:
            B lists of :class:`Label`, the highest score first.

        Raises:
            ValueError: unless exactly one of the two is given, or for a ``top_k`` below 1.
        """
        if (threshold is None) == (top_k is None):
            raise ValueError(f"Give either threshold or top_k, got threshold={threshold} and top_k={top_k}.")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}.")
        ranked = [
            sorted(map(Label, self.texts, scores), key=lambda label: -label.score)
            for scores in self.scores.tolist()
        ]
        if threshold is None:
            return [labels[:top_k] for labels in ranked]
        return [[label for label in labels if label.score >= threshold] for labels in ranked]

    def boxes(self, threshold: float = 0.5) -> list[list[Tensor]]:
        """Boxes around the connected parts of each heatmap above a threshold.

        Args:
            threshold: share of the map's range from which a pixel counts, in [0, 1].

        Returns:
            B lists of T tensors int64 ``[K, 4]``: x0, y0, x1, y1 in pixels of the image, x1, y1 exclusive.

        Raises:
            ValueError: for a threshold outside [0, 1].
        """
        return [
            [map_to_boxes(_heatmap(one, size), threshold) for one in similarity]
            for similarity, size in zip(self.similarity, self.sizes, strict=True)
        ]

    def segment(self, features: Features = "plain") -> list[Tensor]:
        """The best text of every pixel, out of the texts and the background texts.

        The similarity is resized bilinearly to the image's own size, then the highest wins; with a single
        text and no background that text has every pixel.

        Args:
            features: "plain" compares the cosine similarity, as the paper's segmentation does; "surgery"
                compares the similarity after feature surgery.

        Returns:
            B tensors int64 ``[H, W]``: t < T is ``texts[t]``, t >= T is ``background[t - T]``.

        Raises:
            ValueError: for other ``features``.
        """
        if features not in get_args(Features):
            raise ValueError(f'features must be "plain" or "surgery", got {features!r}.')
        chosen = self.plain_similarity if features == "plain" else self.surgery_similarity
        return [highest_text(similarity, size) for similarity, size in zip(chosen, self.sizes, strict=True)]

    def plot(self, *, opacity: float = 0.8) -> np.ndarray:
        """Draw every image with its overlays side by side; nothing is shown or written.

        Args:
            opacity: the most that the heat covers of the image, in [0, 1].

        Returns:
            Matplotlib axes ``[B, 1+T]``: the image, then one overlay per text. Their figure is
            ``axes[0, 0].figure``; ``figure.savefig("panel.png")`` writes it.

        Raises:
            ValueError: for an explanation without images, or an opacity outside [0, 1].
        """
        from clip_surgery_hub.plotting.heatmaps import plot_explanation

        return plot_explanation(self, opacity=opacity)

    def to_dict(self) -> dict[str, Any]:
        """Texts, settings, scores, points and boxes (default thresholds) in plain values that JSON can hold.

        ``images[b]["texts"][t]`` belongs to image b and text t; x, y in pixels of the image. The maps,
        which are large, are not in it.
        """
        images = []
        for index, (points, boxes) in enumerate(zip(self.points(), self.boxes(), strict=True)):
            height, width = self.sizes[index]
            per_text = [
                {
                    "text": text,
                    "score": float(self.scores[index, number]),
                    "plain_score": float(self.plain_scores[index, number]),
                    "presence": None if self.presence is None else float(self.presence[index, number]),
                    "points": points[number].xy.tolist(),
                    "labels": points[number].labels.tolist(),
                    "boxes": boxes[number].tolist(),
                }
                for number, text in enumerate(self.texts)
            ]
            grid = list(self.surgery_similarity[index].shape[1:])
            images.append({"height": height, "width": width, "grid": grid, "texts": per_text})
        return {
            "texts": list(self.texts),
            "background": list(self.background),
            "settings": self.settings.to_dict(),
            "images": images,
        }

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write everything to a folder, all or nothing; an explanation saved there earlier is replaced.

        Args:
            folder: where to; it appears under this name only when it is complete.
            overwrite: replace a folder that holds something else too, with all that is in it.

        Raises:
            FileExistsError: if the folder holds something else and ``overwrite`` is False, or is a file.
            OSError: if it cannot be written.
        """
        tensors = {"scores": self.scores, "plain_scores": self.plain_scores}
        if self.presence is not None:
            tensors["presence"] = self.presence
        for name in ("surgery_similarity", "plain_similarity"):
            tensors |= {f"{name}.{index}": one for index, one in enumerate(getattr(self, name))}
        record = {
            "texts": list(self.texts),
            "background": list(self.background),
            "sizes": [list(size) for size in self.sizes],
            "settings": self.settings.to_dict(),
        }
        write_parts(folder, record=record, tensors=tensors, images=self.images, overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path) -> Explanation:
        """Read what ``save`` wrote; equal to what was saved.

        Raises:
            FileNotFoundError: if there is no saved explanation.
            ValueError: if it is damaged, or of a later format.
        """
        record, tensors, images = read_parts(folder)
        try:
            sizes = tuple((int(height), int(width)) for height, width in record["sizes"])
            return cls(
                texts=tuple(record["texts"]),
                background=tuple(record["background"]),
                surgery_similarity=tuple(
                    tensors[f"surgery_similarity.{index}"] for index in range(len(sizes))
                ),
                plain_similarity=tuple(tensors[f"plain_similarity.{index}"] for index in range(len(sizes))),
                scores=tensors["scores"],
                plain_scores=tensors["plain_scores"],
                sizes=sizes,
                settings=Settings.from_dict(record["settings"]),
                presence=tensors.get("presence"),
                images=images,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The explanation saved in {folder} is damaged: {error}. Save it again."
            ) from error

    def _number_of(self, text: str) -> int:
        if text not in self.texts:
            raise ValueError(f"{text!r} was not explained; the texts are {_listed(self.texts, most=20)}.")
        return self.texts.index(text)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.sizes)

    def __getitem__(self, index: int | slice) -> Explanation:
        """The explanation of the chosen images only: of one for a number, of several for a slice."""
        every = range(len(self))
        chosen = list(every[index]) if isinstance(index, slice) else [every[index]]
        return replace(
            self,
            surgery_similarity=tuple(self.surgery_similarity[number] for number in chosen),
            plain_similarity=tuple(self.plain_similarity[number] for number in chosen),
            scores=self.scores[chosen],
            plain_scores=self.plain_scores[chosen],
            sizes=tuple(self.sizes[number] for number in chosen),
            presence=None if self.presence is None else self.presence[chosen],
            images=None if self.images is None else tuple(self.images[number] for number in chosen),
        )

    def __iter__(self) -> Iterator[Explanation]:
        """One explanation per image."""
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Whether texts, settings, images and every number are the same."""
        if not isinstance(other, Explanation):
            return NotImplemented
        return (
            (self.texts, self.background, self.settings) == (other.texts, other.background, other.settings)
            and self.sizes == other.sizes
            and (self.images is None) == (other.images is None)
            and all(map(np.array_equal, self.images or (), other.images or ()))
            and all(map(torch.equal, self.surgery_similarity, other.surgery_similarity))
            and all(map(torch.equal, self.plain_similarity, other.plain_similarity))
            and torch.equal(self.scores, other.scores)
            and torch.equal(self.plain_scores, other.plain_scores)
            and _same(self.presence, other.presence)
        )

    def __repr__(self) -> str:
        """What it holds, in one line."""
        settings, counted = self.settings, [f"{len(self)} images"]
        if len(self) == 1:
            ((height, width),) = self.sizes
            counted = [f"1 image of {width}x{height} px"]
        counted.append(f"texts {_listed(self.texts)}")
        if self.background:
            counted.append(f"background {_listed(self.background)}")
        depth = "" if settings.depth is None else f" at depth {settings.depth}"
        return f"Explanation({', '.join(counted)}, {settings.model}, {settings.method}{depth})"


def _check_fields(explanation: Explanation) -> None:
    """Raise ValueError, naming the field, what it holds and what it should, where fields do not fit."""
    texts, background, sizes = explanation.texts, explanation.background, explanation.sizes
    for name, words in (("texts", texts), ("background", background)):
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{name} must be a tuple of strings, got {words!r}.")
    if not texts:
        raise ValueError("An explanation needs at least one text, got none.")
    for name in ("surgery_similarity", "plain_similarity"):
        tensors = getattr(explanation, name)
        if len(tensors) != len(sizes):
            raise ValueError(f"{name} holds {len(tensors)} tensors for {len(sizes)} images: one each.")
        for tensor in tensors:
            if tensor.ndim != 3 or tensor.shape[0] != len(texts) + len(background) or tensor.numel() == 0:
                raise ValueError(
                    f"Each tensor of {name} must have shape [T+K, h, w] with T+K = "
                    f"{len(texts)} + {len(background)}, got {list(tensor.shape)}."
                )
    for image in explanation.images or ():
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(
                f"Each image must be a uint8 array [H, W, 3], got {image.dtype} {list(image.shape)}."
            )
    if explanation.images is not None:
        found = tuple(image.shape[:2] for image in explanation.images)
        if found != sizes:
            raise ValueError(f"sizes must be those of the images, {list(found)}, got {list(sizes)}.")
    if any(len(size) != 2 or min(size) < 1 for size in sizes):
        raise ValueError(f"sizes must be (height, width) in pixels, at least 1 each, got {list(sizes)}.")
    for surgery, plain in zip(explanation.surgery_similarity, explanation.plain_similarity, strict=True):
        if surgery.shape != plain.shape:
            raise ValueError(
                "surgery_similarity and plain_similarity must lie on the same grid, "
                f"got {list(surgery.shape)} and {list(plain.shape)}."
            )
    per_text = {name: getattr(explanation, name) for name in ("scores", "plain_scores", "presence")}
    if explanation.presence is None:
        del per_text["presence"]
    for name, scores in per_text.items():
        if scores.shape != (len(sizes), len(texts)):
            raise ValueError(
                f"{name} must have shape [B, T] = [{len(sizes)}, {len(texts)}], got {list(scores.shape)}."
            )
    for tensor in (*explanation.surgery_similarity, *explanation.plain_similarity, *per_text.values()):
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or tensor.requires_grad:
            raise ValueError(
                f"Tensors must be detached float32 on the CPU, got {tensor.dtype} on {tensor.device}"
                f"{' with a gradient' if tensor.requires_grad else ''}: .detach().float().cpu()."
            )
        if not tensor.isfinite().all():
            raise ValueError(
                "The similarity holds values that are not finite. Half precision may have overflowed: "
                "load the model with dtype=torch.float32."
            )


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    return first is second if first is None or second is None else torch.equal(first, second)


def _listed(texts: tuple[str, ...], most: int = 4) -> str:
    shown = ", ".join(repr(text if len(text) <= 30 else f"{text[:29]}…") for text in texts[:most])
    return shown if len(texts) <= most else f"{shown} and {len(texts) - most} more"


def _grid(similarity: Tensor) -> tuple[int, int]:
    """Patch rows and columns of similarity ``[..., h, w]``."""
    return similarity.shape[-2], similarity.shape[-1]


def _heatmap(similarity: Tensor, size: tuple[int, int]) -> Tensor:
    """Similarity of one image and text ``[h, w]`` -> heatmap ``[H, W]``."""
    return similarity_map(similarity.reshape(1, -1, 1), _grid(similarity), size)[0, 0]
