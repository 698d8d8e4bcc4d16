"""Feature surgery in closed form against the paper's elementwise form."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.measure import Comparison, compare
from clip_surgery_hub.functional import feature_surgery, unit_length


def elementwise(image_tokens: Tensor, text_embeds: Tensor) -> Tensor:
    """The class set as in the paper: ``[B, 1+N, C], [T, C] -> [B, 1+N, T]`` over ``[B, 1+N, T, C]``."""
    probability = torch.softmax(2 * image_tokens[:, 0] @ text_embeds.T, dim=-1)  # [B, T]
    weight = probability / probability.mean(dim=-1, keepdim=True)
    product = image_tokens[:, :, None, :] * text_embeds[None, None, :, :] * weight[:, None, :, None]
    return (product - product.mean(dim=2, keepdim=True)).sum(dim=-1)


def rows() -> Iterator[Comparison]:
    """The row of the table about feature surgery."""
    generator = torch.Generator().manual_seed(0)
    tokens = unit_length(torch.randn(1, 1025, 512, generator=generator))
    texts = unit_length(torch.randn(59, 512, generator=generator))
    torch.testing.assert_close(feature_surgery(tokens, texts), elementwise(tokens, texts), atol=1e-5, rtol=0)
    yield compare(
        "feature surgery, 59 texts x 1025 tokens, 512 channels",
        lambda: feature_surgery(tokens, texts),
        "elementwise transcription",
        lambda: elementwise(tokens, texts),
        1 / 30,
    )
