"""Surgery gives the published numbers and leaves everything else as it was."""

import pytest
import torch
from torch import Tensor
from transformers import CLIPModel

from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.transform import (
    apply_surgery,
)


def unit_embeds(model: CLIPModel, pixel_values: Tensor) -> Tensor:
    return torch.nn.functional.normalize(model.get_image_features(pixel_values).pooler_output, dim=-1)


@pytest.mark.parametrize("size", [64, 96])
def test_tokens_are_the_published_ones(golden_clip: CLIPModel, golden: dict[str, Tensor], size: int) -> None:
    apply_surgery(golden_clip)
    with torch.no_grad():
        tokens = find_tower(golden_clip).encode(golden[f"pixel_values_{size}"])
    torch.testing.assert_close(tokens, golden[f"surgery_tokens_{size}"], rtol=0, atol=1e-5)
