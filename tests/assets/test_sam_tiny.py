"""The SAM that comes with the package: a plain checkpoint of transformers, whose masks lie on the objects.

The metrics are measured on scenes that training never drew, with thresholds a little below what
`training/evaluate_sam.py` measured on 500 of them (see the model card beside the checkpoint).
"""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import SamModel, SamProcessor

from clip_surgery_hub import CLIPSurgery
from clip_surgery_hub.evaluate import open_dataset
from clip_surgery_hub.evaluate.metrics import InteractionMetric
from clip_surgery_hub.evaluate.truth import Prediction, Truth
from clip_surgery_hub.results.explanation import Points
from clip_surgery_hub.sam.backends import SamAndProcessor, encode_image
from clip_surgery_hub.sam.loading import load_sam
from clip_surgery_hub.sam.masks import masks
from clip_surgery_hub.scenes import Scene, World, draw_scene
from tests.support.paths import ASSETS

NAME = "sam_tiny.scenes"
FOLDER = ASSETS / NAME
WORLD = World(size=(80, 80))
IMAGES = 30
LEAST_PIXELS = 30
THREE_POINTS = 0.70
"""Least mean overlap of the masks that the score picks."""


@pytest.fixture(scope="module")
def sam() -> SamAndProcessor:
    loaded = load_sam(NAME)
    assert isinstance(loaded, SamAndProcessor)
    return loaded


def scenes() -> list[Scene]:
    return [draw_scene((79, index), WORLD) for index in range(IMAGES)]


def true_points(mask: Tensor, count: int, rng: np.random.Generator) -> Points:
    places = mask.nonzero().flip(1)
    chosen = torch.from_numpy(rng.integers(len(places), size=count))
    return Points(places[chosen], torch.ones(count, dtype=torch.uint8))


def overlap(found: Tensor, meant: Tensor) -> float:
    return float((found & meant).sum() / (found | meant).sum())


def mean_overlap(sam: SamAndProcessor, count: int) -> float:
    """Of the masks with the highest score, at `count` points on each object."""
    rng = np.random.default_rng(0)
    found = []
    for scene in scenes():
        ask = encode_image(sam, scene.image)
        for mask in torch.from_numpy(scene.visible):
            if int(mask.sum()) >= LEAST_PIXELS:
                candidates, scores = ask(true_points(mask, count, rng))
                assert candidates.shape == (3, *scene.image.shape[:2])
                found.append(overlap(candidates[scores.argmax()], mask))
    assert len(found) > 2 * IMAGES
    return float(np.mean(found))


def test_transformers_alone_loads_it_and_its_processor() -> None:
    model = SamModel.from_pretrained(FOLDER).float().eval()
    processor = SamProcessor.from_pretrained(FOLDER)
    scene = draw_scene(3, WORLD)
    middle = true_points(torch.from_numpy(scene.visible[-1]), 1, np.random.default_rng(0)).xy
    inputs = processor(scene.image, input_points=[[middle.tolist()]], return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    (found,) = processor.post_process_masks(
        outputs.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )
    assert found.shape == (1, 3, 80, 80)
    candidates, scores = encode_image(SamAndProcessor(model, processor), scene.image)(
        Points(middle, torch.ones(1, dtype=torch.uint8))
    )
    assert (found[0].bool() == candidates).float().mean() > 0.999
    torch.testing.assert_close(outputs.iou_scores[0, 0], scores, atol=1e-4, rtol=0)


def test_the_model_alone_gets_the_colors_that_it_was_trained_with(sam: SamAndProcessor) -> None:
    image = draw_scene(4, WORLD).image
    point = Points(torch.tensor([[40, 40]]), torch.ones(1, dtype=torch.uint8))
    alone, scores = encode_image(sam.model, image)(point)
    together, expected = encode_image(sam, image)(point)
    # The image is resized on both ways, which some processors round otherwise than others.
    assert (alone != together).float().mean() < 1e-3
    torch.testing.assert_close(scores, expected, atol=2e-3, rtol=0)


def test_it_is_small_and_stored_in_half_precision() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 12e6
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        dtypes = {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118
    assert dtypes == {"F16"}


def test_it_says_what_it_is() -> None:
    card = (FOLDER / "README.md").read_text()
    for heading in ("## Data", "## Training", "## License", "## Metrics", "## What it cannot do"):
        assert heading in card


def test_three_points_on_an_object_give_its_mask(sam: SamAndProcessor) -> None:
    assert mean_overlap(sam, 3) > THREE_POINTS


@pytest.mark.slow
def test_three_points_tell_more_than_one(sam: SamAndProcessor) -> None:
    assert mean_overlap(sam, 3) > mean_overlap(sam, 1)


def test_a_point_chooses_among_the_objects(sam: SamAndProcessor) -> None:
    rng = np.random.default_rng(1)
    own, others = [], []
    for scene in scenes():
        ask = encode_image(sam, scene.image)
        visible = torch.from_numpy(scene.visible)
        for index, mask in enumerate(visible):
            if int(mask.sum()) >= LEAST_PIXELS:
                candidates, scores = ask(true_points(mask, 3, rng))
                shares = visible & candidates[scores.argmax()]
                own.append(overlap(candidates[scores.argmax()], mask))
                others.append(float((shares.sum((1, 2)) / visible.sum((1, 2)).clamp(min=1))[index - 1]))
    assert np.mean(others) < np.mean(own) / 3


def test_text_becomes_a_mask_with_nothing_but_what_is_bundled(sam: SamAndProcessor) -> None:
    scene = draw_scene(5, WORLD)
    explanation = CLIPSurgery.from_pretrained("clip_vit_tiny.scenes").explain(scene.image, scene.words)
    found = masks(explanation, sam, choose="agreement")
    assert found.masks[0].shape == (len(scene.words), 80, 80)
    assert found.masks[0].any()


def test_an_evaluation_asks_for_the_masks_that_a_user_gets(sam: SamAndProcessor) -> None:
    """Points, both choices of mask and their overlap: those of `masks`, measured here pixel by pixel."""
    dataset = open_dataset("scenes")
    clip = CLIPSurgery.from_pretrained("clip_vit_tiny.scenes", device="cpu")
    embeds = clip.encode_text(dataset.classes.names, None)
    sample = dataset.sample(5)
    assert sample.segmentation is not None
    explanation = clip.explain(sample.image, dict(zip(dataset.classes.names, embeds, strict=True)))
    shown = sample.labels.nonzero()[0].tolist()
    points = [[Points(*explanation.points()[0][number]) for number in shown]]
    heatmaps = [explanation.heatmaps()[0][shown]]
    truth = torch.from_numpy(sample.segmentation.astype(np.int64))
    metric = InteractionMetric(classes=len(dataset.classes), sam=sam)
    metric.update(
        Truth(
            index=5,
            image=np.asarray(sample.image),
            labels=torch.from_numpy(sample.labels),
            segmentation=truth,
        ),
        Prediction(scores=explanation.scores[0], similarity=explanation.surgery_similarity[0]),
    )
    measured = metric.compute()
    for name, choose in (("mask IoU", "score"), ("mask IoU, by agreement", "agreement")):
        result = masks(explanation, sam, choose=choose, points=points, heatmaps=heatmaps)  # type: ignore[arg-type]
        (found,) = result.masks
        expected = [overlap(mask, truth == number) for mask, number in zip(found, shown, strict=True)]
        assert float(measured[name]) == pytest.approx(100 * np.mean(expected), abs=1e-4)
