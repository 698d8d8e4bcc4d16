"""Promptable segmentation models behind one interface: an image is encoded once, then prompted by points.

Two packages are known: ``segment_anything``, whose predictor does everything itself, and the models of
``transformers`` that take points. For the latter the way between an image's pixels and the model's is here:
SAM and SAM-HQ scale the long side to the model's and pad the short one below or to the right, SAM 2 and
EdgeTAM stretch both sides to the model's square.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from clip_surgery_hub.images.image_transform import Normalization, resized
from clip_surgery_hub.results.explanation import Points

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Ask", "PointPredictor", "Sam", "SamAndProcessor", "check_sam", "encode_image"]

Ask: TypeAlias = Callable[[Points], tuple[Tensor, Tensor]]
"""Points of an image -> candidate masks bool ``[M, H, W]`` and predicted scores ``[M]``, on the CPU."""

# Class of transformers -> whether it pads images to a square (True) or stretches them (False).
_PADS = {"SamModel": True, "SamHQModel": True, "Sam2Model": False, "EdgeTamModel": False}
# What the published checkpoints of all four were trained with: the colors of ImageNet.
_NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), Image.Resampling.BILINEAR)


class PointPredictor(Protocol):
    """What is asked of ``segment_anything.SamPredictor``; any object with these two methods will do."""

    def set_image(self, image: np.ndarray) -> None:
        """Encode an image uint8 ``[H, W, 3]``, RGB."""

    def predict(
        self, *, point_coords: np.ndarray, point_labels: np.ndarray, multimask_output: bool
    ) -> tuple[Any, Any, Any]:
        """Masks bool ``[M, H, W]`` at the image's size, scores ``[M]``, and something more."""


class SamAndProcessor(NamedTuple):
    """A model of `transformers` and the processor that makes its pixels; a plain pair of the two will do.

    Attributes:
        model: a ``SamModel``, ``SamHQModel``, ``Sam2Model`` or ``EdgeTamModel`` in eval mode.
        processor: its processor, or its image processor.
    """

    model: PreTrainedModel
    processor: Any


Sam: TypeAlias = "PointPredictor | PreTrainedModel | tuple[PreTrainedModel, Any]"
"""A segmentation model that takes points, of either package."""


def check_sam(sam: Any) -> None:
    """Refuse what cannot be asked for masks at points.

    Raises:
        TypeError: for anything that is no :data:`Sam`.
        ValueError: for a model of `transformers` in training mode.
    """
    model = sam[0] if isinstance(sam, tuple) and len(sam) == 2 else sam
    if _family(model) is not None:
        if model.training:
            raise ValueError(
                f"The {type(model).__name__} is in training mode, where an image's masks depend on chance "
                "and batch; call its eval() first."
            )
        return
    if model is sam and callable(getattr(sam, "set_image", None)) and callable(getattr(sam, "predict", None)):
        return
    if isinstance(sam, str | os.PathLike):
        advice = f"load it first: load_sam({os.fspath(sam)!r})"
    elif hasattr(sam, "image_encoder") and hasattr(sam, "mask_decoder"):
        advice = "wrap it: segment_anything.SamPredictor(sam)"
    else:
        advice = f"give a SamPredictor of segment_anything, a {', '.join(_PADS)} of transformers, or a pair "
        advice += "(model, processor) of the latter; load_sam(file_or_folder) gives one"
    kind = type(sam) if model is sam else type(model)
    raise TypeError(f"A {kind.__name__} cannot be asked for masks at points; {advice}.")


def encode_image(sam: Sam, image: np.ndarray) -> Ask:
    """Run the image encoder once; what is returned can be asked any number of times.

    Nothing is kept in ``sam``: a predictor still holds the image that it held.

    Args:
        sam: a segmentation model that :func:`check_sam` lets pass.
        image: uint8 ``[H, W, 3]``, RGB.

    Returns:
        A function of :class:`Points` in pixels of the image (one point at least), see :data:`Ask`.

    Raises:
        ValueError: for a processor that does not belong to the model.
    """
    if isinstance(sam, tuple):
        return _encode_with_transformers(sam[0], sam[1], image)
    if _family(sam) is not None:
        return _encode_with_transformers(sam, None, image)
    return _encode_with_predictor(sam, image)


def _encode_with_predictor(sam: Any, image: np.ndarray) -> Ask:
    predictor = copy(sam)  # shares the weights, not the image that the caller may have set
    predictor.set_image(image)

    def ask(points: Points) -> tuple[Tensor, Tensor]:
        masks, scores, _ = predictor.predict(
            point_coords=points.xy.numpy(), point_labels=points.labels.numpy(), multimask_output=True
        )
        return torch.as_tensor(masks, dtype=torch.bool), torch.as_tensor(scores, dtype=torch.float32)

    return ask


def _encode_with_transformers(model: Any, processor: Any, image: np.ndarray) -> Ask:
    height, width = size = (image.shape[0], image.shape[1])
    side, pads = int(model.config.prompt_encoder_config.image_size), bool(_family(model))
    if processor is None:
        inside = _fit(size, side) if pads else (side, side)
        pixels = _padded(
            _NORMALIZATION(resized(Image.fromarray(image), inside, _NORMALIZATION.resample)), side
        )
    else:
        pixels, inside = _processed(processor, image, model, side)
    with torch.no_grad():
        embeddings = model.get_image_embeddings(pixels[None].to(model.device, model.dtype))
    encoded = {"image_embeddings": embeddings}
    if isinstance(embeddings, tuple):  # SAM-HQ reads the encoder's early layers too
        encoded = dict(zip(("image_embeddings", "intermediate_embeddings"), embeddings, strict=True))
    scale = torch.tensor([inside[1] / width, inside[0] / height], dtype=torch.float64)

    def ask(points: Points) -> tuple[Tensor, Tensor]:
        # One text at a time: a shorter list of points among longer ones would be filled up with points that
        # the decoder of transformers still attends to, so that a text's mask would depend on the others.
        places = (points.xy * scale).float().to(model.device)[None, None]  # [1, 1, K, 2]
        labels = points.labels.to(model.device, torch.int64)[None, None]  # [1, 1, K]
        with torch.no_grad():
            found = model(input_points=places, input_labels=labels, multimask_output=True, **encoded)
        logits = found.pred_masks[0].float()  # [1, M, h, w]
        if pads:
            logits = interpolate(logits, (side, side), mode="bilinear", align_corners=False)
            logits = logits[..., : inside[0], : inside[1]]
        logits = interpolate(logits, size, mode="bilinear", align_corners=False)[0]
        return (logits > 0).cpu(), found.iou_scores[0, 0].float().cpu()

    return ask


def _processed(processor: Any, image: np.ndarray, model: Any, side: int) -> tuple[Tensor, tuple[int, int]]:
    """What the processor makes of an image: pixels ``[3, side, side]``, and the part that is not padding."""
    image_processor = getattr(processor, "image_processor", processor)
    # A copy, for torch warns of arrays that must not be written to, as those of an explanation are.
    made = image_processor(images=image.copy(), return_tensors="pt", input_data_format="channels_last")
    pixels = made["pixel_values"][0]
    pads = "reshaped_input_sizes" in made
    if pads != _family(model) or tuple(pixels.shape) != (3, side, side):
        raise ValueError(
            f"The {type(processor).__name__} makes {'padded' if pads else 'stretched'} images of "
            f"{pixels.shape[-2]} x {pixels.shape[-1]} pixels, the {type(model).__name__} takes "
            f"{'padded' if _family(model) else 'stretched'} ones of {side} x {side}; give the processor that "
            "was saved with the model, or the model alone."
        )
    rows, columns = made["reshaped_input_sizes"][0] if pads else (side, side)
    return pixels, (int(rows), int(columns))


def _family(model: Any) -> bool | None:
    """Whether a model of transformers pads its images (else it stretches them); None for other objects."""
    for ancestor in type(model).__mro__:
        if ancestor.__name__ in _PADS and ancestor.__module__.startswith("transformers."):
            return _PADS[ancestor.__name__]
    return None


def _fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width with the long side at ``side``, the other in proportion, rounded, 1 at least."""
    scale = side / max(size)
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def _padded(pixels: Tensor, side: int) -> Tensor:
    """Pixels ``[3, h, w]`` with zeros (the mean color) below and to the right: ``[3, side, side]``."""
    return pad(pixels, (0, side - pixels.shape[2], 0, side - pixels.shape[1]))
