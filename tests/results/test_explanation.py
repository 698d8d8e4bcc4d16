"""What an explanation answers from its numbers alone: maps, points, boxes, segments, parts of it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from clip_surgery_hub.results.explanation import Explanation, Settings

SETTINGS = Settings(model="some/model", method="clip_surgery", depth=6, versions={"torch": "2.0"})


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def of_maps(surgery_similarity: Tensor, height: int, width: int, *, texts: int | None = None) -> Explanation:
    """One image, its similarity after feature surgery as given (texts first), the negative of it before."""
    texts = len(surgery_similarity) if texts is None else texts
    return Explanation(
        images=(random_image(height, width),),
        sizes=((height, width),),
        texts=tuple(f"text {number}" for number in range(texts)),
        background=tuple(f"background {number}" for number in range(len(surgery_similarity) - texts)),
        surgery_similarity=(surgery_similarity,),
        plain_similarity=(-surgery_similarity,),
        scores=torch.arange(texts)[None] / 10,
        plain_scores=-torch.arange(texts)[None] / 10,
        settings=SETTINGS,
    )


@pytest.fixture
def three() -> Explanation:
    """Three images of different sizes and grids, two texts and one background text."""
    generator = torch.Generator().manual_seed(0)

    def maps() -> tuple[Tensor, ...]:
        return tuple(torch.randn(3, *grid, generator=generator) for grid in ((6, 8), (3, 9), (5, 5)))

    return Explanation(
        images=(random_image(60, 80), random_image(30, 90, seed=1), random_image(17, 19, seed=2)),
        sizes=((60, 80), (30, 90), (17, 19)),
        texts=("bench", "person"),
        background=("grass",),
        surgery_similarity=maps(),
        plain_similarity=maps(),
        scores=torch.randn(3, 2, generator=generator),
        plain_scores=torch.randn(3, 2, generator=generator),
        settings=SETTINGS,
    )


def test_a_heatmap_is_the_scaled_map_resized_bilinearly() -> None:
    (heatmap,) = of_maps(torch.tensor([[[5.0, 9.0]]]), 1, 4).heatmaps()
    # Pixel centers at -1/4, 1/4, 3/4 and 5/4 between the two patch centers 0 and 1.
    assert torch.equal(heatmap, torch.tensor([[[0.0, 0.25, 0.75, 1.0]]]))


def test_a_text_alike_everywhere_has_an_empty_heatmap_and_no_points() -> None:
    explanation = of_maps(torch.full((1, 4, 4), 0.3), 20, 20)
    assert torch.equal(explanation.heatmaps()[0], torch.zeros(1, 20, 20))
    assert explanation.points()[0][0].xy.shape == (0, 2)
    assert explanation.boxes()[0][0].shape == (0, 4)


def test_heatmaps_and_points_are_the_published_ones(golden: dict[str, Tensor]) -> None:
    patches = golden["similarity_class_set"][:, 1:]  # [2, 64, 4]
    maps = patches.transpose(1, 2).unflatten(-1, (8, 8))
    small, large = (
        Explanation(
            images=(random_image(*size), random_image(*size)),
            sizes=(size, size),
            texts=("a", "b", "c", "d"),
            background=(),
            surgery_similarity=tuple(maps),
            plain_similarity=tuple(maps),
            scores=torch.zeros(2, 4),
            plain_scores=torch.zeros(2, 4),
            settings=SETTINGS,
        )
        for size in ((30, 40), (480, 640))
    )
    expected = golden["map_class_set_30x40"].permute(0, 3, 1, 2)
    torch.testing.assert_close(torch.stack(small.heatmaps()), expected, rtol=0, atol=1e-5)
    for number, points in enumerate(large.points()[0]):
        assert torch.equal(points.xy, golden[f"points_{number}"].to(torch.int64))
        assert torch.equal(points.labels, golden[f"labels_{number}"].to(torch.uint8))


def test_points_lie_on_the_hottest_cell_of_a_wide_image() -> None:
    surgery_similarity = torch.zeros(1, 2, 8)
    surgery_similarity[0, :, 4:6] = 1.0  # the third of four cells of 2 x 2 patches
    ((points,),) = of_maps(surgery_similarity, 50, 400).points()
    assert points.xy[points.labels == 1].tolist() == [[250, 25]]
    assert points.xy[points.labels == 0].tolist() == [[50, 25]]


def test_a_box_surrounds_the_part_above_the_threshold() -> None:
    surgery_similarity = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    explanation = of_maps(surgery_similarity, 4, 4)
    # Along each side the map is 1, 3/4, 1/4, 0; in the plane it is the product.
    assert explanation.boxes(threshold=0.5)[0][0].tolist() == [[0, 0, 2, 2]]
    assert explanation.boxes(threshold=0.2)[0][0].tolist() == [[0, 0, 3, 3]]
    assert explanation.boxes(threshold=0.9)[0][0].tolist() == [[0, 0, 1, 1]]


def test_parts_apart_have_boxes_of_their_own() -> None:
    surgery_similarity = torch.zeros(1, 8, 8)
    surgery_similarity[0, 1:3, 1:3] = 1.0
    surgery_similarity[0, 5:7, 4:7] = 1.0
    boxes = of_maps(surgery_similarity, 8, 8).boxes(threshold=0.5)[0][0]
    assert boxes.tolist() == [[1, 1, 3, 3], [4, 5, 7, 7]]


@given(
    seed=st.integers(0, 2**32 - 1),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    texts=st.integers(1, 3),
    background=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_every_pixel_goes_to_the_highest_similarity(
    seed: int, grid: tuple[int, int], size: tuple[int, int], texts: int, background: int
) -> None:
    surgery_similarity = torch.randn(texts + background, *grid, generator=torch.Generator().manual_seed(seed))
    explanation = of_maps(surgery_similarity, *size, texts=texts)
    for features, maps in (("surgery", surgery_similarity), ("plain", -surgery_similarity)):
        resized = interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
        (segments,) = explanation.segment(features)
        assert segments.dtype == torch.int64 and segments.shape == size
        assert torch.equal(segments, resized.argmax(0))
    assert torch.equal(explanation.segment()[0], explanation.segment("plain")[0])


def test_the_background_texts_count_on_after_the_texts() -> None:
    surgery_similarity = torch.zeros(3, 1, 2)
    surgery_similarity[0, 0, 0], surgery_similarity[2, 0, 1] = 1.0, 1.0
    explanation = of_maps(surgery_similarity, 2, 4, texts=1)
    assert explanation.segment("surgery")[0].tolist() == [[0, 0, 2, 2], [0, 0, 2, 2]]
    assert (
        len(explanation.similarity[0]) == len(explanation.heatmaps()[0]) == len(explanation.points()[0]) == 1
    )


def test_other_features_are_refused_with_those_there_are(three: Explanation) -> None:
    with pytest.raises(ValueError, match='"plain" or "surgery", got \'surgery_similarity\''):
        three.segment("surgery_similarity")  # type: ignore[arg-type]


def test_combined_points_are_on_any_of_the_texts_chosen() -> None:
    surgery_similarity = torch.zeros(3, 4, 8)
    surgery_similarity[0, :2, :2], surgery_similarity[1, 2:, 6:], surgery_similarity[2, 2:, :2] = (
        1.0,
        1.0,
        1.0,
    )
    surgery_similarity[:2, :2, 4:6], surgery_similarity[:2, 2:, 2:4] = -0.5, -0.4  # the lowest cells of both
    explanation = of_maps(surgery_similarity, 40, 80)
    (points,) = explanation.combined_points(["text 0", "text 1"])
    assert points.xy[points.labels == 1].tolist() == [[10, 10], [70, 30]]
    assert points.xy[points.labels == 0].tolist() == [[50, 10], [30, 30]]
    assert len(explanation.combined_points()[0].xy[explanation.combined_points()[0].labels == 1]) == 3
    with pytest.raises(ValueError, match="'text 9' was not explained; the texts are 'text 0', 'text 1'"):
        explanation.combined_points(["text 9"])


def test_labels_are_ranked_by_score(three: Explanation) -> None:
    scores = torch.tensor([[0.1, 0.3], [0.2, -0.2], [-0.3, -0.1]])
    explanation = dataclasses.replace(three, scores=scores)
    named = [[label.text for label in labels] for labels in explanation.labels(threshold=0.1)]
    assert named == [["person", "bench"], ["bench"], []]
    named = [[label.text for label in labels] for labels in explanation.labels(top_k=1)]
    assert named == [["person"], ["bench"], ["person"]]
    assert explanation.labels(top_k=9)[0][0].score == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either threshold or top_k, got threshold=None and top_k=None"),
        ({"threshold": 0.1, "top_k": 2}, "either threshold or top_k, got threshold=0.1 and top_k=2"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
    ],
)
def test_labels_need_one_measure(three: Explanation, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        three.labels(**options)


def test_present_texts_reach_the_threshold(three: Explanation) -> None:
    known = dataclasses.replace(three, presence=torch.tensor([[0.5, 0.9], [1.0, 0.0], [0.2, 0.3]]))
    assert known.present(0.5) == [[True, True], [True, False], [False, False]]
    assert known[1].present() == [[True, False]]
    assert known != three
    assert known.to_dict()["images"][0]["texts"][1]["presence"] == pytest.approx(0.9)
    assert three.to_dict()["images"][0]["texts"][1]["presence"] is None
    with pytest.raises(ValueError, match="embeddings were given in place of texts"):
        three.present()


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_thresholds_are_shares(three: Explanation, threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must lie in"):
        three.points(threshold)
    with pytest.raises(ValueError, match="threshold must lie in"):
        three.boxes(threshold)


@pytest.mark.parametrize(
    ("index", "numbers"),
    [(0, [0]), (-1, [2]), (slice(1, None), [1, 2]), (slice(None, None, -2), [2, 0]), (slice(5, 9), [])],
)
def test_an_index_gives_the_part_for_those_images(
    three: Explanation, index: int | slice, numbers: list[int]
) -> None:
    part = three[index]
    assert len(part) == len(numbers)
    assert torch.equal(part.scores, three.scores[numbers])
    assert torch.equal(part.plain_scores, three.plain_scores[numbers])
    for position, number in enumerate(numbers):
        assert part.images[position] is three.images[number]
        assert part.surgery_similarity[position] is three.surgery_similarity[number]
        assert torch.equal(part.heatmaps()[position], three.heatmaps()[number])
        assert torch.equal(part.segment()[position], three.segment()[number])
    assert (part.texts, part.background, part.settings) == (three.texts, three.background, three.settings)


def test_iterating_ends_and_indexing_too_far_raises(three: Explanation) -> None:
    assert [one == three[number] for number, one in enumerate(three)] == [True, True, True]
    for index in (3, -4):
        with pytest.raises(IndexError):
            three[index]


def test_equal_means_the_same_numbers(three: Explanation) -> None:
    assert three == dataclasses.replace(three)
    for changed in (
        dataclasses.replace(three, texts=("bench", "man")),
        dataclasses.replace(three, scores=three.scores + 1e-6),
        dataclasses.replace(three, surgery_similarity=three.plain_similarity),
        dataclasses.replace(three, settings=dataclasses.replace(SETTINGS, depth=5)),
        dataclasses.replace(three, images=(random_image(60, 80, seed=9), *three.images[1:])),
        three[:2],
    ):
        assert three != changed


def test_it_is_frozen(three: Explanation) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        three.texts = ("other",)  # type: ignore[misc]


def test_its_repr_is_one_line_that_says_what_it_holds(three: Explanation) -> None:
    assert repr(three) == (
        "Explanation(3 images, texts 'bench', 'person', background 'grass', "
        "some/model, clip_surgery at depth 6)"
    )
    assert "1 image of 90x30 px" in repr(three[1])
    many = of_maps(torch.zeros(30, 2, 2), 4, 4)
    assert "'text 3' and 26 more" in repr(many)
    long = dataclasses.replace(three, texts=("two\nlines", "x" * 1000))
    assert "\n" not in repr(long) and len(repr(long)) < 200


def test_its_dict_survives_json_and_says_what_the_methods_say(three: Explanation) -> None:
    values = three.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["settings"]["depth"] == 6
    assert [(one["width"], one["height"], one["grid"]) for one in values["images"]] == [
        (80, 60, [6, 8]),
        (90, 30, [3, 9]),
        (19, 17, [5, 5]),
    ]
    person = values["images"][2]["texts"][1]
    assert person["text"] == "person"
    assert person["score"] == three.scores[2, 1].item()
    assert person["points"] == three.points()[2][1].xy.tolist()
    assert person["labels"] == three.points()[2][1].labels.tolist()
    assert person["boxes"] == three.boxes()[2][1].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": "ab"}, "texts must be a tuple of strings"),
        ({"texts": ()}, "at least one text"),
        ({"texts": ("a", "b", "c")}, r"T\+K = 3 \+ 1"),
        ({"surgery_similarity": ()}, "surgery_similarity holds 0 tensors for 3 images"),
        ({"plain_similarity": (torch.zeros(3, 1, 1),) * 3}, "the same grid"),
        ({"scores": torch.zeros(3, 3)}, r"scores must have shape \[B, T\] = \[3, 2\]"),
        ({"scores": torch.zeros(3, 2, dtype=torch.float64)}, "float32 on the CPU"),
        ({"scores": torch.zeros(3, 2, requires_grad=True)}, "with a gradient"),
        ({"scores": torch.full((3, 2), torch.nan)}, "not finite"),
        ({"images": (np.zeros((4, 4, 3)),) * 3}, "uint8 array"),
        ({"sizes": ((60, 80), (30, 90), (17, 20))}, r"sizes must be those of the images, \[\(60, 80\)"),
        ({"images": None, "sizes": ((60, 80), (30, 90), (17, 0))}, "at least 1 each"),
        ({"images": (np.zeros((4, 4), np.uint8),) * 3}, "uint8 array"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(
    three: Explanation, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(three, **changes)


def test_without_images_everything_but_drawing_is_as_with_them(three: Explanation, tmp_path: Path) -> None:
    bare = dataclasses.replace(three, images=None)
    assert bare != three and len(bare) == 3 and bare[1].sizes == ((30, 90),)
    assert bare.to_dict() == three.to_dict()
    for method in ("heatmaps", "segment"):
        assert all(map(torch.equal, getattr(bare, method)(), getattr(three, method)()))
    bare.save(tmp_path / "bare")
    assert Explanation.load(tmp_path / "bare") == bare
    assert not (tmp_path / "bare" / "images").exists()
    with pytest.raises(ValueError, match="keeps only the sizes of its images.*explain the images themselves"):
        bare.plot()


def test_the_settings_name_the_installed_versions() -> None:
    versions = Settings(model="m", method="none").versions
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(versions) == {"clip-surgery-hub", "torch", "transformers"}
