"""What the fields of an `Explanation` must be to fit together, said in one line where they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from clip_surgery_hub.explanation import Explanation


def check_fields(explanation: Explanation) -> None:
    """Check shapes, types and values of all fields.

    Raises:
        ValueError: naming the field, what it holds and what it should.
    """
    texts, background, pictures = explanation.texts, explanation.background, explanation.pictures
    for name, words in (("texts", texts), ("background", background)):
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{name} must be a tuple of strings, got {words!r}.")
    if not texts:
        raise ValueError("An explanation needs at least one text, got none.")
    for name in ("operated", "plain"):
        tensors = getattr(explanation, name)
        if len(tensors) != len(pictures):
            raise ValueError(f"{name} holds {len(tensors)} tensors for {len(pictures)} pictures: one each.")
        for tensor in tensors:
            if tensor.ndim != 3 or tensor.shape[0] != len(texts) + len(background) or tensor.numel() == 0:
                raise ValueError(
                    f"Each tensor of {name} must have shape [T+K, h, w] with T+K = "
                    f"{len(texts)} + {len(background)}, got {list(tensor.shape)}."
                )
    for picture in pictures:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            raise ValueError(
                f"Each picture must be a uint8 array [H, W, 3], got {picture.dtype} {list(picture.shape)}."
            )
    for operated, plain in zip(explanation.operated, explanation.plain, strict=True):
        if operated.shape != plain.shape:
            raise ValueError(
                "operated and plain must lie on the same grid, "
                f"got {list(operated.shape)} and {list(plain.shape)}."
            )
    per_text = {name: getattr(explanation, name) for name in ("scores", "plain_scores", "presence")}
    if explanation.presence is None:
        del per_text["presence"]
    for name, scores in per_text.items():
        if scores.shape != (len(pictures), len(texts)):
            raise ValueError(
                f"{name} must have shape [B, T] = [{len(pictures)}, {len(texts)}], got {list(scores.shape)}."
            )
    for tensor in (*explanation.operated, *explanation.plain, *per_text.values()):
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
