"""From points to masks: both packages alike, each family as its processor has it, and which mask is taken."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything import SamPredictor
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Sam2ImageProcessor,
    Sam2Processor,
    SamHQProcessor,
    SamImageProcessor,
    SamProcessor,
)

from clip_surgery_hub.results.explanation import Points
from clip_surgery_hub.sam.backends import SamAndProcessor
from clip_surgery_hub.sam.masks import mask_agreement, masks
from tests.support.tiny_sams import (
    BEFORE_5_20,
    FAMILIES,
    NAMES,
    SIDE,
    as_transformers,
    explained,
    random_image,
    tiny_sam,
)

LANDSCAPE, PORTRAIT = (40, SIDE), (SIDE, 48)  # their long side is the model's: nothing is resized
SIZES = (LANDSCAPE, PORTRAIT, (97, 160), (160, 69))  # 38.8 and 27.6 pixels, rounded up


def processor_of(name: str) -> Any:
    if name in ("Sam2Model", "EdgeTamModel"):
        return Sam2Processor(Sam2ImageProcessor(size={"height": SIDE, "width": SIDE}))
    kind = SamProcessor if name == "SamModel" else SamHQProcessor
    pad_size = {"height": SIDE, "width": SIDE}
    return kind(SamImageProcessor(size={"longest_edge": SIDE}, pad_size=pad_size))


def published_pipeline(model: nn.Module, processor: Any, image: np.ndarray, points: Points) -> Any:
    """One text of one image through the processor and the whole model: best mask and all scores."""
    inputs = processor(
        images=image,
        input_points=[[points.xy.tolist()]],
        input_labels=[[points.labels.tolist()]],
        return_tensors="pt",
    )
    sizes = [inputs.pop(key) for key in ("original_sizes", "reshaped_input_sizes") if key in inputs]
    with torch.no_grad():
        found = model(**inputs)
    full = processor.post_process_masks(found.pred_masks, *sizes)[0][0]
    scores = found.iou_scores[0, 0]
    return full[scores.argmax()], scores.max()


def counted_calls(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


# Two packages, four families


def test_both_packages_give_the_same_masks_for_the_same_weights() -> None:
    sam = tiny_sam()
    model = as_transformers(sam)
    low: dict[str, list[Tensor]] = {"first": [], "second": []}
    sam.mask_decoder.register_forward_hook(lambda *call: low["first"].append(call[2][0][0]))
    model.mask_decoder.register_forward_hook(lambda *call: low["second"].append(call[2][0][0, 0]))
    explanation = explained(*(random_image(*size) for size in SIZES))
    first, second = masks(explanation, SamPredictor(sam)), masks(explanation, model)
    assert len(low["first"]) == 4 * 3
    for one, other in zip(low["first"], low["second"], strict=True):
        assert one.shape == (3, 32, 32) and one.std() > 0.1
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    for size, one, other in zip(SIZES, first.masks, second.masks, strict=True):
        assert one.dtype == other.dtype == torch.bool and one.shape == (3, *size)
        assert (one != other).sum() <= 3  # pixels whose logit is zero but for rounding
        assert one.any() and not one.all()
    torch.testing.assert_close(first.scores, second.scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_masks_are_those_of_the_processors_own_pipeline(name: str) -> None:
    model, processor = FAMILIES[name](), processor_of(name)
    explanation = explained(*(random_image(*size) for size in SIZES))
    given = masks(explanation, SamAndProcessor(model, processor))
    alone = masks(explanation, model)
    seen = set()
    for number, image in enumerate(explanation.images):
        for text, points in enumerate(explanation.points()[number]):
            mask, score = published_pipeline(model, processor, image, points)
            assert torch.equal(given.masks[number][text], mask)
            torch.testing.assert_close(given.scores[number][text], score, rtol=0, atol=1e-5)
            # Alone, an image is resized by another library, and rounded elsewhere.
            assert (alone.masks[number][text] != mask).float().mean() < 0.005
            torch.testing.assert_close(alone.scores[number][text], score, rtol=0, atol=5e-3)
            seen.add(int(mask.sum()))
    assert len(seen) > 3  # images and points decide


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("SamModel", (40, 64)),
        ("SamHQModel", (64, 9)),
        ("Sam2Model", (64, 64)),
        pytest.param("EdgeTamModel", (64, 64), marks=BEFORE_5_20),
    ],
)
def test_a_model_alone_sees_what_its_processor_shows_it(name: str, size: tuple[int, int]) -> None:
    model, shown = FAMILIES[name](), []
    encoder = model.vision_encoder
    encoder.register_forward_pre_hook(
        lambda _, positional, named: shown.append((positional, named)), with_kwargs=True
    )
    explanation = explained(random_image(*size), texts=1)
    masks(explanation, model)
    masks(explanation, (model, processor_of(name)))
    pixels = [named.get("pixel_values", *positional) for positional, named in shown]
    assert pixels[0].shape == (1, 3, SIDE, SIDE)
    torch.testing.assert_close(pixels[0], pixels[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["segment_anything", *NAMES])
def test_the_image_is_encoded_once_for_all_its_texts(name: str) -> None:
    if name == "segment_anything":
        sam: Any = SamPredictor(tiny_sam())
        calls = counted_calls(sam.model.image_encoder)
    else:
        sam = FAMILIES[name]()
        calls = counted_calls(sam.vision_encoder)
    explanation = explained(random_image(30, 50), random_image(50, 30), texts=5)
    masks(explanation, sam)
    assert len(calls) == 2
    masks(explained(random_image(30, 50), maps=torch.zeros(2, 8, 8)), sam)
    assert len(calls) == 2  # no points, nothing to ask


@pytest.mark.parametrize("name", NAMES)
def test_a_texts_mask_does_not_depend_on_the_other_texts(name: str) -> None:
    model, explanation = FAMILIES[name](), explained(random_image(40, 60))
    prompts = explanation.points(0.6)[0]
    assert len({len(prompt.labels) for prompt in prompts}) > 1
    together = masks(explanation, model, points=[prompts])
    for number, prompt in enumerate(prompts):
        alone = masks(explanation, model, points=[[prompt]])
        assert torch.equal(together.masks[0][number], alone.masks[0][0])
        assert together.scores[0][number] == alone.scores[0][0]


@pytest.mark.parametrize(("name", "to_model"), [("SamModel", (4, 4)), ("Sam2Model", (64 / 12, 4))])
def test_points_are_pixels_of_the_image_at_any_size(name: str, to_model: tuple[float, float]) -> None:
    model, places = FAMILIES[name](), []
    model.prompt_encoder.register_forward_pre_hook(
        lambda _, positional, named: places.append(named["input_points"][0, 0]), with_kwargs=True
    )
    xy = torch.tensor([[3, 9], [8, 2]])
    for scale in (1, 4):
        image = random_image(16 * scale, 12 * scale)
        masks(explained(image), model, points=[[Points(xy * scale, torch.tensor([1, 0]))]])
        torch.testing.assert_close(places[-1], xy * torch.tensor(to_model).float())
    assert len(places) == 2


def test_the_predictors_own_image_stays() -> None:
    predictor, own = SamPredictor(tiny_sam()), random_image(20, 30, seed=5)
    predictor.set_image(own)
    before = predictor.get_image_embedding().clone()
    masks(explained(random_image(50, 40)), predictor)
    assert predictor.original_size == (20, 30)
    assert torch.equal(predictor.get_image_embedding(), before)


def test_half_precision_gives_nearly_the_same_scores() -> None:
    model, explanation = as_transformers(tiny_sam()), explained(random_image(64, 48))
    exact = masks(explanation, model)
    half = masks(explanation, model.to(torch.bfloat16))
    assert half.scores[0].dtype == torch.float32
    torch.testing.assert_close(half.scores[0], exact.scores[0], rtol=0, atol=0.05)


# Which mask


class Proposing:
    """Stands in for a predictor: the same masks and scores for any points; notes what it was asked."""

    def __init__(self, proposals: dict[str, tuple[Tensor, float]]) -> None:
        self.proposals = proposals
        self.shown: list[np.ndarray] = []
        self.asked: list[tuple[Any, Any]] = []

    def set_image(self, image: np.ndarray) -> None:
        self.shown.append(image)

    def predict(self, *, point_coords: np.ndarray, point_labels: np.ndarray, multimask_output: bool) -> Any:
        assert multimask_output
        self.asked.append((point_coords.tolist(), point_labels.tolist()))
        found = [mask.numpy() for mask, _ in self.proposals.values()]
        return np.stack(found), np.array([score for _, score in self.proposals.values()]), None


def object_on_ground() -> tuple[Tensor, dict[str, Tensor]]:
    """A map that is warm on an object, hot on a part of it and cool around; and masks by name."""
    whole, part = torch.zeros(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
    whole[2:6, 2:6], part[2:4, 2:4] = True, True
    heat = 0.2 * torch.ones(8, 8) + 0.4 * whole + 0.4 * part
    heat[0, 0] = 0
    return heat, {
        "background": ~whole,
        "whole": whole,
        "part": part,
        "all": torch.ones_like(whole),
        "none": torch.zeros_like(whole),
    }


@pytest.mark.parametrize(
    ("choose", "scores", "expected"),
    [
        ("score", {"background": 0.9, "whole": 0.5, "part": 0.7}, "background"),
        ("agreement", {"background": 0.9, "whole": 0.5, "part": 0.7}, "whole"),
        ("score", {"background": 0.1, "whole": 0.5, "part": 0.7}, "part"),
        ("agreement", {"background": 0.9, "part": 0.7}, "part"),
        ("agreement", {"all": 0.9, "none": 0.8, "part": 0.1}, "part"),
        ("agreement", {"background": 0.9, "all": 0.2, "none": 0.3}, "none"),
    ],
)
def test_the_known_mask_is_taken(choose: Any, scores: dict[str, float], expected: str) -> None:
    heat, named = object_on_ground()
    sam = Proposing({name: (named[name], score) for name, score in scores.items()})
    explanation = explained(random_image(8, 8), maps=heat[None])  # a patch is a pixel: the map is the heatmap
    result = masks(explanation, sam, choose=choose)
    assert torch.equal(result.masks[0][0], named[expected])
    assert result.scores[0][0] == pytest.approx(scores[expected])


def test_of_masks_that_agree_equally_the_one_of_the_highest_score_is_taken() -> None:
    heat, named = object_on_ground()
    sam = Proposing({"all": (named["all"], 0.3), "none": (named["none"], 0.4)})
    result = masks(explained(random_image(8, 8), maps=heat[None]), sam, choose="agreement")
    assert not result.masks[0].any() and result.scores[0].item() == pytest.approx(0.4)


@given(st.integers(0, 10_000), st.floats(0.1, 50), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_agreement_is_the_correlation_of_mask_and_heat(seed: int, scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    heat = torch.rand(7, 9, generator=generator)
    candidates = torch.rand(3, 7, 9, generator=generator) < 0.3
    candidates[:, 0, 0], candidates[:, 0, 1] = True, False
    agreement = mask_agreement(candidates, heat)
    for value, mask in zip(agreement.tolist(), candidates, strict=True):
        assert value == pytest.approx(np.corrcoef(mask.flatten(), heat.flatten())[0, 1], abs=1e-6)
    other = mask_agreement(candidates, heat.double() * scale + shift)
    torch.testing.assert_close(other, agreement, rtol=0, atol=1e-6)
    torch.testing.assert_close(mask_agreement(~candidates, heat), -agreement)


def test_agreement_in_closed_form() -> None:
    heat = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    candidates = torch.tensor(
        [[[1, 1, 0, 0]], [[0, 0, 1, 1]], [[1, 0, 0, 0]], [[1, 1, 1, 1]], [[0, 0, 0, 0]]]
    )
    # A quarter of the image: (1 - 1/3) * sqrt(1/4 * 3/4) / (1/2) = 1 / sqrt(3).
    expected = torch.tensor([1, -1, 3**-0.5, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(mask_agreement(candidates.bool(), heat), expected)
    for columns in range(2, 40):  # the mean of equal numbers is often another number, by a rounding
        constant = torch.full((1, columns), 0.1, dtype=torch.float64)
        half = torch.arange(columns)[None, None] < columns / 2
        assert mask_agreement(half, constant).tolist() == [0]
    with pytest.raises(ValueError, match=r"got \[1, 4\] and \[1, 4\]"):
        mask_agreement(candidates[0].bool(), heat)


# Points


def test_a_text_without_points_has_an_empty_mask_and_score_zero() -> None:
    heat, named = object_on_ground()
    sam = Proposing({"whole": (named["whole"], 0.5)})
    maps = torch.stack([torch.full((8, 8), 0.3), heat])
    result = masks(explained(random_image(8, 8), maps=maps), sam)
    assert not result.masks[0][0].any() and torch.equal(result.masks[0][1], named["whole"])
    assert result.scores[0].tolist() == [0.0, 0.5]
    assert len(result.points[0][0].labels) == 0 and len(sam.asked) == 1


def test_the_explanations_points_are_asked_and_returned() -> None:
    heat, named = object_on_ground()
    sam = Proposing({"whole": (named["whole"], 0.5)})
    explanation = explained(random_image(8, 8), maps=torch.stack([heat, -heat]))
    result = masks(explanation, sam, threshold=0.6)
    assert len(result) == 1
    for asked, used, expected in zip(sam.asked, result.points[0], explanation.points(0.6)[0], strict=True):
        assert asked == (expected.xy.tolist(), expected.labels.tolist())
        assert torch.equal(used.xy, expected.xy) and torch.equal(used.labels, expected.labels)
    assert len(sam.shown) == 1 and np.array_equal(sam.shown[0], explanation.images[0])


def test_points_and_heatmaps_may_be_given_for_combined_texts() -> None:
    heat, named = object_on_ground()
    sam = Proposing({"background": (named["background"], 0.9), "whole": (named["whole"], 0.5)})
    explanation = explained(random_image(8, 8), random_image(8, 8), maps=torch.stack([heat, heat, heat]))
    one = Points(torch.tensor([[2, 3], [0, 7]]), torch.tensor([1, 0], dtype=torch.uint8))
    points, maps = [[one], [one, one]], [heat[None], torch.stack([heat, -heat])]
    by_score = masks(explanation, sam, points=points)
    assert [tuple(found.shape) for found in by_score.masks] == [(1, 8, 8), (2, 8, 8)]
    assert sam.asked == 3 * [([[2, 3], [0, 7]], [1, 0])]
    assert all(torch.equal(mask, named["background"]) for found in by_score.masks for mask in found)
    by_heat = masks(explanation, sam, choose="agreement", points=points, heatmaps=maps)
    assert torch.equal(by_heat.masks[0][0], named["whole"])
    assert torch.equal(by_heat.masks[1][1], named["background"])


def test_heatmaps_may_be_given_without_points() -> None:
    heat, named = object_on_ground()
    sam = Proposing({"background": (named["background"], 0.9), "whole": (named["whole"], 0.5)})
    explanation = explained(random_image(8, 8), maps=heat[None])
    result = masks(explanation, sam, choose="agreement", heatmaps=[-heat[None]])
    assert torch.equal(result.masks[0][0], named["background"])


def test_no_images_give_no_masks() -> None:
    result = masks(explained(random_image(8, 8))[:0], Proposing({}))
    assert len(result) == 0 and result.masks == result.scores == result.points == ()


def test_the_result_is_frozen() -> None:
    result = masks(explained(random_image(8, 8))[:0], Proposing({}))
    with pytest.raises(FrozenInstanceError):
        result.masks = ()  # type: ignore[misc]


# Refusals


def refused(message: str, kind: type[Exception] = ValueError, **changes: Any) -> None:
    heat, named = object_on_ground()
    sam = changes.pop("sam", Proposing({"whole": (named["whole"], 0.5)}))
    explanation = changes.pop("explanation", explained(random_image(8, 8), maps=heat[None]))
    with pytest.raises(kind, match=message) as caught:
        masks(explanation, sam, **changes)
    assert "\n" not in str(caught.value)
    assert not getattr(sam, "shown", [])


ONE = Points(torch.tensor([[2, 3]]), torch.tensor([1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choose": "best"}, 'choose must be "score" or "agreement", got \'best\''),
        ({"threshold": 1.5}, "threshold must lie in"),
        ({"points": []}, "one list per image, got 0 for 1"),
        ({"points": [[ONE]], "choose": "agreement"}, "needs the heatmap of each of them: give heatmaps="),
        ({"points": [[(1, 2)]]}, r"lists of Points\(xy, labels\), got a tuple"),
        ({"points": [[Points(torch.zeros(2, 3), torch.zeros(2))]]}, r"got \[2, 3\] and \[2\]"),
        ({"points": [[Points(torch.zeros(2, 2), torch.zeros(3))]]}, r"got \[2, 2\] and \[3\]"),
        (
            {"points": [[ONE._replace(labels=torch.tensor([2]))]]},
            r"1 \(on\) or 0 \(off the object\), got \[2\]",
        ),
        (
            {"points": [[ONE._replace(xy=torch.tensor([[8, 0]]))]]},
            r"inside of the image of 8 x 8, got \[\[8, 0\]\]",
        ),
        ({"points": [[ONE._replace(xy=torch.tensor([[0, -1]]))]]}, "inside of the image"),
        ({"points": [[ONE._replace(xy=torch.tensor([[0, torch.nan]]))]]}, "inside of the image"),
        ({"heatmaps": []}, "one tensor per image, got 0 for 1"),
        ({"heatmaps": [torch.zeros(2, 8, 8)]}, r"\[T, H, W\] = \[1, 8, 8\], got \[2, 8, 8\]"),
        ({"heatmaps": [torch.full((1, 8, 8), torch.nan)]}, "not finite"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_asked(changes: Any, message: str) -> None:
    refused(message, **changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tiny_sam, r"A Sam cannot be asked .* wrap it: segment_anything.SamPredictor\(sam\)"),
        (lambda: "sam.pth", r"A str cannot be asked .* load it first: load_sam\('sam.pth'\)"),
        (lambda: None, "A NoneType cannot be asked .* a SamModel, SamHQModel, Sam2Model, EdgeTamModel"),
        (lambda: (Proposing({}), None), "A Proposing cannot be asked"),
        (
            lambda: CLIPVisionModel(
                CLIPVisionConfig(
                    hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
                )
            ),
            "A CLIPVisionModel cannot be asked",
        ),
    ],
)
def test_what_takes_no_points_is_refused(make: Callable[[], Any], message: str) -> None:
    refused(message, TypeError, sam=make())


def test_a_model_in_training_mode_is_refused() -> None:
    model = as_transformers(tiny_sam()).train()
    refused("SamModel is in training mode", sam=model)
    refused("SamModel is in training mode", sam=(model, None))


def test_another_models_processor_is_refused() -> None:
    model = as_transformers(tiny_sam())
    message = (
        "SamProcessor makes padded images of 1024 x 1024 pixels, the SamModel takes padded ones of 64 x 64"
    )
    refused(message, sam=(model, SamProcessor(SamImageProcessor())))
    refused("makes stretched images of 64 x 64", sam=(model, processor_of("Sam2Model")))


def test_something_else_than_an_explanation_is_refused() -> None:
    refused(
        "needs an Explanation, what explain returns, got list", TypeError, explanation=[random_image(8, 8)]
    )


def test_scores_that_are_not_finite_are_refused() -> None:
    heat, named = object_on_ground()
    sam = Proposing({"whole": (named["whole"], 0.5), "part": (named["part"], float("nan"))})
    with pytest.raises(ValueError, match="scores are not finite. .* use float32"):
        masks(explained(random_image(8, 8), maps=heat[None]), sam)
