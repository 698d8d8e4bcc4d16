"""Feature surgery: similarity of image and text without what all texts share, and scores of whole images."""

from __future__ import annotations

import torch
from torch import Tensor

from clip_surgery_hub.functional.scale import at_least_float32


def feature_surgery(
    image_tokens: Tensor, text_embeds: Tensor, redundant: Tensor | None = None, temperature: float = 2.0
) -> Tensor:
    """Image-text similarity without the feature that all texts share (the paper's feature surgery).

    Class set (``redundant`` is None), every image on its own, with ``p = softmax_t(temperature * s_cls,t)``
    and ``w_t = p_t / mean_t(p)``::

        S_nt = w_t s_nt - mean_t'(w_t' s_nt')

    Given redundant feature ``r``, for example the embedding of the empty text::

        S_nt = F_n . (T_t - r)

    Args:
        image_tokens: unit length image tokens, CLS first, ``[B, 1+N, C]``.
        text_embeds: unit length text embeddings, ``[T, C]``.
        redundant: the feature to take away from every text, ``[1, C]``, or None for the class set's own.
        temperature: factor on the CLS similarity in the softmax; the paper's is 2.

    Returns:
        ``[B, 1+N, T]``; row 0 holds the scores of the image as a whole.

    Raises:
        ValueError: for other shapes, or for a class set of a single text (its redundant feature is itself).
    """
    check_pair(image_tokens, text_embeds, dimensions=3, shape="[B, 1+N, C]")
    texts = text_embeds.shape[0]
    if redundant is not None:
        if redundant.shape != (1, text_embeds.shape[1]):
            raise ValueError(
                f"redundant must have shape [1, C] = [1, {text_embeds.shape[1]}], "
                f"got {list(redundant.shape)}."
            )
        return image_tokens @ (text_embeds - redundant).T
    if texts == 1:
        raise ValueError(
            "Feature surgery over a class set needs two texts or more, got 1. "
            'Give `redundant`, the embedding of the empty text "", or add background texts.'
        )
    similarity = image_tokens @ text_embeds.T  # [B, 1+N, T]
    probability = torch.softmax(temperature * similarity[:, :1], dim=-1, dtype=at_least_float32(similarity))
    weighted = (probability * texts).to(similarity.dtype) * similarity  # mean_t(p) is 1/T
    return weighted - weighted.mean(dim=-1, keepdim=True)


def multilabel_scores(
    image_embeds: Tensor, text_embeds: Tensor, redundant: Tensor | None = None, temperature: float = 2.0
) -> Tensor:
    """Scores for multi-label recognition: feature surgery of CLS in place of the patches.

    Args:
        image_embeds: unit length CLS tokens, ``[B, C]``.
        text_embeds: unit length text embeddings, ``[T, C]``.
        redundant: see :func:`feature_surgery`, ``[1, C]`` or None.
        temperature: see :func:`feature_surgery`.

    Returns:
        ``[B, T]``, to be ranked over the images for each text (mean average precision).

    Raises:
        ValueError: as :func:`feature_surgery`.
    """
    check_pair(image_embeds, text_embeds, dimensions=2, shape="[B, C]")
    return feature_surgery(image_embeds[:, None], text_embeds, redundant, temperature)[:, 0]


def classification_scores(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: float | Tensor = 100.0
) -> Tensor:
    """Zero-shot classification as CLIP does it: ``softmax_t(logit_scale * s_cls,t)``.

    CLS is that of the original path, so that surgery changes nothing here.

    Args:
        image_embeds: unit length CLS tokens, ``[B, C]``.
        text_embeds: unit length text embeddings, ``[T, C]``.
        logit_scale: the factor itself (a checkpoint stores its logarithm); 100 in OpenAI's checkpoints.

    Returns:
        Probabilities ``[B, T]`` in [0, 1]; every row sums to 1.

    Raises:
        ValueError: for other shapes.
    """
    check_pair(image_embeds, text_embeds, dimensions=2, shape="[B, C]")
    return torch.softmax(logit_scale * (image_embeds @ text_embeds.T), dim=-1)


def presence(image_tokens: Tensor, text_embeds: Tensor, reference_embeds: Tensor) -> Tensor:
    """How surely each text is in each image at all, against words that have nothing to do with it.

    A heatmap is scaled by itself and always has a highest place; this tells whether that place means
    anything. For CLS and for the highest patch alike, the share of reference words that the image responds to
    less than to the text (half of those it responds to alike); presence is the mean of the two shares.

    Args:
        image_tokens: unit length image tokens, CLS first, ``[B, 1+N, C]``.
        text_embeds: unit length text embeddings, ``[T, C]``.
        reference_embeds: unit length embeddings of R words of many kinds, ``[R, C]``, made as the texts'.

    Returns:
        ``[B, T]`` in [0, 1]; around 1/2 for a text that is not in the image, close to 1 for one that is.

    Raises:
        ValueError: for other shapes, or no reference words.
    """
    check_pair(image_tokens, text_embeds, dimensions=3, shape="[B, 1+N, C]")
    channels = text_embeds.shape[1]
    if reference_embeds.ndim != 2 or len(reference_embeds) == 0 or reference_embeds.shape[1] != channels:
        raise ValueError(
            f"reference_embeds must have shape [R, C] with R >= 1 and C = {channels}, "
            f"got {list(reference_embeds.shape)}."
        )
    shares = []
    for embeds in (text_embeds, reference_embeds):
        similarity = image_tokens @ embeds.T
        shares.append(torch.stack([similarity[:, 0], similarity[:, 1:].amax(1)]))  # [2, B, T] and [2, B, R]
    text, reference = shares[0][..., None], shares[1][:, :, None]
    ahead = text - reference  # [2, B, T, R]; a word against itself differs by rounding
    return ((ahead > 1e-6).float() + (ahead.abs() <= 1e-6).float() / 2).mean((0, 3))


def check_pair(image: Tensor, text_embeds: Tensor, *, dimensions: int, shape: str) -> None:
    """Raise ValueError unless image and texts have the shapes asked for."""
    if text_embeds.ndim != 2 or text_embeds.shape[0] == 0:
        raise ValueError(f"text_embeds must have shape [T, C] with T >= 1, got {list(text_embeds.shape)}.")
    if image.ndim != dimensions or image.shape[-1] != text_embeds.shape[1]:
        raise ValueError(
            f"The image side must have shape {shape} with C = {text_embeds.shape[1]}, as text_embeds have; "
            f"got {list(image.shape)}."
        )
