"""What each method of the registry costs in a ViT-B/16 of random weights."""

from collections.abc import Iterator

from benchmarks.forward import forward, vision_tower
from benchmarks.measure import Comparison, compare
from clip_surgery_hub import apply_surgery, remove_surgery

#: The ratio to stay below; `clip_surgery` is among the rows of `forward`.
GOALS = {"gem": 1.30, "maskclip": 1.15, "sclip": 1.15, "clearclip": 1.15, "naclip": 1.15}


def rows() -> Iterator[Comparison]:
    """The rows of the table about methods."""
    plain, modified = vision_tower(), vision_tower()
    for name, goal in GOALS.items():
        apply_surgery(modified, name)
        yield compare(
            f"forward with {name}, random ViT-B/16, 224 px, batch 8",
            forward(modified, 224, 8),
            "plain transformers, sdpa",
            forward(plain, 224, 8),
            goal,
        )
        remove_surgery(modified)
