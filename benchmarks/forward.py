"""What the second path of architecture surgery costs in a ViT-B/16 of random weights."""

from collections.abc import Callable, Iterator

import torch
from transformers import CLIPConfig, CLIPVisionModelWithProjection

from benchmarks.measure import Comparison, compare
from clip_surgery_hub import apply_surgery
from clip_surgery_hub.hub import MODELS


def vision_tower() -> CLIPVisionModelWithProjection:
    """The vision tower of ViT-B/16, the same random weights at every call, attention by sdpa."""
    torch.manual_seed(0)
    config = CLIPConfig(**MODELS["clip_vit_base_patch16.openai"].config).vision_config
    model = CLIPVisionModelWithProjection._from_config(config, attn_implementation="sdpa")
    return model.eval()


def forward(model: CLIPVisionModelWithProjection, side: int, batch: int) -> Callable[[], object]:
    """A call of the model on `batch` random images of `side` pixels."""
    pixels = torch.randn(
        batch, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float32
    )
    pixels = pixels.to(model.dtype)

    def run() -> object:
        with torch.inference_mode():
            return model(pixel_values=pixels, interpolate_pos_encoding=side != 224)

    return run


def rows() -> Iterator[Comparison]:
    """The rows of the table about the forward pass."""
    plain, modified = vision_tower(), apply_surgery(vision_tower())
    for side, batch, goal in ((224, 8, 1.03), (512, 1, 1.12)):
        yield compare(
            f"forward with surgery, random ViT-B/16, {side} px, batch {batch}",
            forward(modified, side, batch),
            "plain transformers, sdpa",
            forward(plain, side, batch),
            goal,
        )
    yield compare(
        "the same in a bf16 model, 224 px, batch 8",
        forward(apply_surgery(vision_tower().to(torch.bfloat16)), 224, 8),
        "the same in float32",
        forward(modified, 224, 8),
        0.6,
    )
