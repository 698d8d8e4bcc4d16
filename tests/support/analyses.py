"""A small CLIP to look into, what it is asked, and both analyses of it."""

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.analysis import (
    AttentionAnalysis,
    RedundancyAnalysis,
    attention_analysis,
    redundancy_analysis,
)
from clip_surgery_hub.images.image_transform import Normalization, resized
from clip_surgery_hub.images.loading import load_image
from tests.support.tokenizers import letters_tokenizer

NORMALIZATION = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
TEXTS = ["bench", "person", "ground", "sky"]


def random_image(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 5, 3)).astype(np.uint8)
    return np.array(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST))


def rectangle(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[rows, columns] = True
    return mask


def surgeon(model: Any, **options: Any) -> CLIPSurgery:
    return CLIPSurgery(
        model, tokenizer=letters_tokenizer(), processor=NORMALIZATION, name="tiny", device="cpu", **options
    )


def three_images() -> list[np.ndarray]:
    return [random_image(40, 60, 0), random_image(48, 32, 1), random_image(32, 32, 2)]


def masks_of_objects() -> list[dict[str, np.ndarray]]:
    return [
        {
            "bench": rectangle(40, 60, slice(0, 20), slice(0, 30)),
            "sky": rectangle(40, 60, slice(5, 33), slice(31, 52)),
        },
        {"person": rectangle(48, 32, slice(20, 48), slice(3, 18))},
        {},
    ]


def attended(clip: CLIPSurgery) -> AttentionAnalysis:
    mask = rectangle(40, 60, slice(10, 30), slice(20, 45))
    return attention_analysis(clip, random_image(), patch=(1, 3), mask=mask)


def compared(clip: CLIPSurgery) -> RedundancyAnalysis:
    return redundancy_analysis(clip, three_images(), TEXTS, masks=masks_of_objects())


def pixels_of(image: np.ndarray, size: tuple[int, int] = (32, 48)) -> Tensor:
    return NORMALIZATION(resized(load_image(image), size, NORMALIZATION.resample))[None]
