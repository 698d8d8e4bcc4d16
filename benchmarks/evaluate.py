"""What an evaluation costs beside the bare forward passes, and how much memory it takes."""

import json
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.forward import forward, vision_tower
from benchmarks.measure import Comparison, compare

CLASSES, IMAGES = 59, 8
MOST_MEMORY = 2048.0
"""MB on top of the model."""


def evaluation(
    task: str, *, classes: int, side: int, images: int, height: int = 375, width: int = 500
) -> Callable[[], object]:
    """A step of an evaluation of CLIP Surgery on a random ViT-B/16, with images of VOC's usual size."""
    from clip_surgery_hub import CLIPSurgery
    from clip_surgery_hub.evaluate import get_task, variants_of
    from clip_surgery_hub.evaluate.data import Item
    from clip_surgery_hub.evaluate.evaluator import SurgeryEvaluator
    from clip_surgery_hub.evaluate.tasks import TaskOptions
    from clip_surgery_hub.evaluate.truth import Truth
    from clip_surgery_hub.images.image_transform import Normalization

    clip = CLIPSurgery(vision_tower(), processor=Normalization((0.5,) * 3, (0.5,) * 3), device="cpu")
    generator = torch.Generator().manual_seed(0)
    embeds = torch.nn.functional.normalize(torch.randn(classes, 512, generator=generator), dim=-1)
    chosen = get_task(task)
    evaluator = SurgeryEvaluator(
        clip,
        task=chosen,
        task_options=TaskOptions(classes=classes),
        variants=variants_of(["clip_surgery"], blocks=12, automatic=chosen.automatic),
        class_set=embeds,
        owner=torch.arange(classes),
    )
    rng = np.random.default_rng(0)
    items = []
    for index in range(images):
        shown = rng.choice(classes, 5, replace=False)  # PASCAL Context shows about so many
        coarse = torch.from_numpy(rng.choice(shown, (height // 25, width // 25)))
        segmentation = coarse.repeat_interleave(25, 0).repeat_interleave(25, 1)
        labels = torch.zeros(classes, dtype=torch.bool)
        labels[segmentation.unique()] = True
        truth = Truth(
            index=index,
            image=np.zeros((*segmentation.shape, 3), np.uint8),
            labels=labels,
            segmentation=segmentation,
        )
        pixels = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)
        items.append(Item(pixels, truth))

    def run() -> object:
        with torch.inference_mode():
            return evaluator.test_step(items)

    return run


def rows() -> Iterator[Comparison]:
    """The rows of the table about evaluations."""
    from benchmarks.memory import in_a_process

    bare = forward(vision_tower(), 224, IMAGES)
    for task in ("explain", "segment", "recognize"):
        yield compare(
            f"evaluation, {task}, {CLASSES} classes, random ViT-B/16, 224 px, 8 images of 500 x 375",
            evaluation(task, classes=CLASSES, side=224, images=IMAGES),
            "plain transformers, sdpa, the same images",
            bare,
            1.25,
        )
    found = in_a_process("segment", module="benchmarks.evaluate")
    taken = found["peak"] - found["before"]
    yield Comparison(
        "peak memory of an evaluation, segment, 171 classes, 512 px, on top of the model",
        "2 GB",
        taken,
        MOST_MEMORY,
        taken / MOST_MEMORY,
        1.0,
        "MB",
    )


def main() -> None:
    """Print what `peak` says of a step of 171 classes at 512 px."""
    from benchmarks.memory import peak

    run = evaluation(sys.argv[1], classes=171, side=512, images=IMAGES, height=500, width=650)
    print(json.dumps(peak(run)))


if __name__ == "__main__":
    main()
