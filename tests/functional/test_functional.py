"""Feature surgery, maps, points, boxes and scores, against golden values, transcriptions and invariants."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from clip_surgery_hub import functional
from tests.support.paths import GOLDEN

quick = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)
counts = st.integers(1, 6)


@pytest.fixture(scope="module")
def expected():
    return load_file(GOLDEN / "expected.safetensors")


def unit_vectors(seed, *shape):
    return functional.unit_length(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def elementwise_surgery(image_tokens, text_embeds, redundant=None, temperature=2.0):
    """The published computation for one image, multiplied out feature by feature: [1+N, T, C] in memory."""
    if redundant is not None:
        return torch.stack([(image_tokens * (text - redundant[0])).sum(-1) for text in text_embeds], dim=-1)
    probability = (temperature * image_tokens[0] @ text_embeds.T).softmax(-1)
    weight = probability / probability.mean()
    features = image_tokens[:, None, :] * text_embeds[None, :, :] * weight[None, :, None]
    return (features - features.mean(dim=1, keepdim=True)).sum(-1)


def test_feature_surgery_gives_the_published_values(expected):
    tokens, texts = expected["surgery_tokens_64"], functional.unit_length(expected["text_embeds"])
    class_set = functional.feature_surgery(tokens, texts[:4])
    given_redundant = functional.feature_surgery(tokens, texts[:4], texts[4:])
    torch.testing.assert_close(class_set, expected["similarity_class_set"], atol=1e-5, rtol=0)
    torch.testing.assert_close(given_redundant, expected["similarity_redundant"], atol=1e-5, rtol=0)


def test_similarity_map_gives_the_published_maps(expected):
    maps = functional.similarity_map(expected["similarity_class_set"][:, 1:], (8, 8), (30, 40))
    torch.testing.assert_close(maps.permute(0, 2, 3, 1), expected["map_class_set_30x40"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("text", range(4))
def test_points_are_the_published_points(expected, text):
    similarity = expected["similarity_class_set"][0, 1:, text]
    points, labels = functional.similarity_to_points(similarity, (8, 8), (480, 640))
    assert points.dtype == torch.int64 and labels.dtype == torch.uint8
    assert torch.equal(points, expected[f"points_{text}"])
    assert torch.equal(labels, expected[f"labels_{text}"])


@quick
@given(seeds, counts, st.integers(1, 9), st.integers(2, 7), st.sampled_from([0.5, 2.0, 7.0]))
def test_closed_form_is_the_elementwise_form(seed, batch, patches, texts, temperature):
    tokens, embeds = unit_vectors(seed, batch, 1 + patches, 16), unit_vectors(seed + 1, texts, 16)
    closed = functional.feature_surgery(tokens, embeds, temperature=temperature)
    slow = torch.stack([elementwise_surgery(image, embeds, temperature=temperature) for image in tokens])
    torch.testing.assert_close(closed, slow, atol=1e-5, rtol=0)
    redundant = unit_vectors(seed + 2, 1, 16)
    closed = functional.feature_surgery(tokens, embeds, redundant)
    slow = torch.stack([elementwise_surgery(image, embeds, redundant) for image in tokens])
    torch.testing.assert_close(closed, slow, atol=1e-5, rtol=0)


@quick
@given(seeds, st.integers(2, 5), st.integers(2, 6))
def test_a_batch_is_its_images_one_by_one(seed, batch, texts):
    tokens, embeds = unit_vectors(seed, batch, 10, 16), unit_vectors(seed + 1, texts, 16)
    for redundant in (None, unit_vectors(seed + 2, 1, 16)):
        together = functional.feature_surgery(tokens, embeds, redundant)
        alone = torch.cat(
            [functional.feature_surgery(tokens[i : i + 1], embeds, redundant) for i in range(batch)]
        )
        torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


@quick
@given(seeds, st.permutations(range(5)))
def test_permuting_the_texts_permutes_the_result(seed, order):
    tokens, embeds = unit_vectors(seed, 2, 10, 16), unit_vectors(seed + 1, 5, 16)
    for redundant in (None, unit_vectors(seed + 2, 1, 16)):
        plain = functional.feature_surgery(tokens, embeds, redundant)
        permuted = functional.feature_surgery(tokens, embeds[order], redundant)
        torch.testing.assert_close(permuted, plain[..., order], atol=1e-6, rtol=0)


@quick
@given(seeds, st.integers(2, 6))
def test_a_text_of_constant_similarity_enters_only_the_softmax_and_the_mean(seed, texts):
    """A text whose similarity is the same constant c everywhere: every term of the formula by hand."""
    tokens, embeds = unit_vectors(seed, 1, 10, 16).double(), unit_vectors(seed + 1, texts, 16).double()
    constant = 0.25
    tokens = torch.cat(
        [tokens * math.sqrt(1 - constant**2), torch.full((1, 10, 1), constant).double()], dim=-1
    )
    embeds = torch.cat([embeds, torch.zeros(texts, 1)], dim=-1)
    added = torch.cat([torch.zeros(16), torch.ones(1)])[None].double()
    similarity = tokens @ embeds.T
    exponential = (2 * similarity[0, 0]).exp()
    total = exponential.sum() + math.exp(2 * constant)
    weighted = (texts + 1) * exponential / total * similarity
    weight_of_added = (texts + 1) * math.exp(2 * constant) / total
    mean = (weighted.sum(-1, keepdim=True) + weight_of_added * constant) / (texts + 1)
    result = functional.feature_surgery(tokens, torch.cat([embeds, added]))
    torch.testing.assert_close(result[..., :texts], weighted - mean)
    torch.testing.assert_close(result[..., texts:], weight_of_added * constant - mean)


@quick
@given(seeds, counts)
def test_a_feature_shared_by_the_texts_and_the_redundant_one_is_taken_away(seed, texts):
    tokens, embeds = unit_vectors(seed, 2, 10, 16), unit_vectors(seed + 1, texts, 16)
    redundant, shared = unit_vectors(seed + 2, 1, 16), unit_vectors(seed + 3, 1, 16)
    plain = functional.feature_surgery(tokens, embeds, redundant)
    torch.testing.assert_close(
        functional.feature_surgery(tokens, embeds + shared, redundant + shared), plain, atol=1e-5, rtol=0
    )
    assert functional.feature_surgery(tokens, redundant, redundant).abs().max() == 0


@quick
@given(seeds, st.integers(2, 6))
def test_class_set_similarity_sums_to_zero_and_twins_share_theirs(seed, texts):
    tokens, embeds = unit_vectors(seed, 2, 10, 16), unit_vectors(seed + 1, texts, 16)
    result = functional.feature_surgery(tokens, embeds)
    assert result.sum(-1).abs().max() < 1e-5
    twins = functional.feature_surgery(tokens, torch.cat([embeds, embeds[:1]]))
    torch.testing.assert_close(twins[..., 0], twins[..., -1], atol=1e-6, rtol=0)


def test_a_class_set_of_one_text_is_refused_with_advice():
    tokens, embeds = unit_vectors(0, 2, 5, 8), unit_vectors(1, 1, 8)
    with pytest.raises(ValueError, match="needs two texts or more, got 1.*redundant"):
        functional.feature_surgery(tokens, embeds)
    assert functional.feature_surgery(tokens, embeds, unit_vectors(2, 1, 8)).shape == (2, 5, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_give_their_own_dtype_near_the_float32_value(dtype):
    tokens, embeds = unit_vectors(0, 2, 17, 32), unit_vectors(1, 5, 32)
    exact = functional.feature_surgery(tokens, embeds)
    result = functional.feature_surgery(tokens.to(dtype), embeds.to(dtype))
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), exact, atol=2e-2 if dtype != torch.float64 else 1e-6, rtol=0)
    maps = functional.similarity_map(result[:, 1:], (4, 4), (9, 7))
    assert maps.dtype == dtype and maps.isfinite().all()
    points, labels = functional.similarity_to_points(result[0, 1:, 0], (4, 4), (9, 7))
    assert points.shape == (2 * int(labels.sum()), 2)


def test_gradients_reach_both_sides():
    tokens, embeds = unit_vectors(0, 2, 5, 8).requires_grad_(), unit_vectors(1, 3, 8).requires_grad_()
    assert torch.autograd.gradcheck(functional.feature_surgery, (tokens.double(), embeds.double()))


@pytest.mark.parametrize(
    ("tokens", "texts", "redundant", "message"),
    [
        ((5, 8), (3, 8), None, r"shape \[B, 1\+N, C\] with C = 8.*got \[5, 8\]"),
        ((2, 5, 8), (3, 9), None, r"C = 9.*got \[2, 5, 8\]"),
        ((2, 5, 8), (8,), None, r"text_embeds must have shape \[T, C\].*got \[8\]"),
        ((2, 5, 8), (0, 8), None, r"T >= 1"),
        ((2, 5, 8), (3, 8), (8,), r"redundant must have shape \[1, C\] = \[1, 8\], got \[8\]"),
    ],
)
def test_wrong_shapes_say_what_was_given_and_expected(tokens, texts, redundant, message):
    with pytest.raises(ValueError, match=message):
        functional.feature_surgery(
            torch.zeros(tokens), torch.zeros(texts), None if redundant is None else torch.zeros(redundant)
        )


def test_multilabel_scores_are_row_zero_of_feature_surgery(expected):
    tokens, texts = expected["surgery_tokens_64"], functional.unit_length(expected["text_embeds"])
    scores = functional.multilabel_scores(tokens[:, 0], texts[:4])
    torch.testing.assert_close(scores, expected["similarity_class_set"][:, 0], atol=1e-5, rtol=0)
    scores = functional.multilabel_scores(tokens[:, 0], texts[:4], texts[4:])
    torch.testing.assert_close(scores, expected["similarity_redundant"][:, 0], atol=1e-5, rtol=0)


def test_classification_scores_by_hand():
    image = torch.tensor([[1.0, 0.0]])
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    scores = functional.classification_scores(image, texts, logit_scale=math.log(3.0))
    torch.testing.assert_close(scores, torch.tensor([[0.75, 0.25]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1.2e4])
def test_unit_length_survives_small_and_large_components(dtype, scale):
    vectors = (torch.tensor([[3.0, 4.0], [1.0, -1.0], [0.0, 0.0]]) * scale).to(dtype)
    result = functional.unit_length(vectors)
    assert result.dtype == dtype
    wanted = torch.tensor([[0.6, 0.8], [0.5**0.5, -(0.5**0.5)], [0.0, 0.0]])
    torch.testing.assert_close(result.float(), wanted, atol=1e-2 if dtype != torch.float32 else 1e-6, rtol=0)


@quick
@given(seeds, st.integers(1, 6), st.integers(1, 6), st.integers(1, 40), st.integers(1, 40), counts)
def test_maps_lie_in_zero_one_and_batches_do_not_mix(seed, rows, columns, height, width, texts):
    similarity = torch.randn(2, rows * columns, texts, generator=torch.Generator().manual_seed(seed))
    maps = functional.similarity_map(similarity, (rows, columns), (height, width))
    assert maps.shape == (2, texts, height, width)
    assert maps.isfinite().all() and maps.min() >= 0 and maps.max() <= 1
    alone = functional.similarity_map(similarity[1:, :, -1:], (rows, columns), (height, width))
    torch.testing.assert_close(maps[1:, -1:], alone, atol=1e-6, rtol=0)
    scaled = functional.similarity_map(similarity * 3 + 5, (rows, columns), (height, width))
    torch.testing.assert_close(scaled, maps, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("value", [0.0, 0.3, -1.0])
def test_constant_maps_are_zeros(dtype, value):
    maps = functional.similarity_map(torch.full((1, 6, 2), value, dtype=dtype), (2, 3), (8, 9))
    assert torch.equal(maps, torch.zeros(1, 2, 8, 9, dtype=dtype))


def test_a_map_of_the_grids_own_size_is_the_min_max_of_the_patches():
    similarity = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0, 1.0])[None, :, None]
    maps = functional.similarity_map(similarity, (2, 3), (2, 3))
    torch.testing.assert_close(maps[0, 0], torch.tensor([[0.0, 0.5, 0.25], [1.0, 0.75, 0.0]]))


def test_maps_refuse_a_grid_that_still_holds_cls():
    with pytest.raises(ValueError, match=r"8 x 8 holds 64 patches, got 65. Leave CLS out"):
        functional.similarity_map(torch.zeros(1, 65, 2), (8, 8), (64, 64))
    with pytest.raises(ValueError, match=r"\[B, N, T\]"):
        functional.similarity_map(torch.zeros(64, 2), (8, 8), (64, 64))
    with pytest.raises(ValueError, match="at least 1 each"):
        functional.similarity_map(torch.zeros(1, 64, 2), (8, 8), (0, 64))


def slow_points(similarity, grid, size, threshold, downsample):
    """Text to points cell by cell, for grids the downsampling divides: the mean of each cell's middle."""
    rows, columns = grid[0] // downsample, grid[1] // downsample
    patches = similarity.reshape(grid).tolist()
    middle = [downsample // 2 - 1, downsample // 2] if downsample % 2 == 0 else [downsample // 2]
    cells = []
    for row in range(rows):
        for column in range(columns):
            inside = [patches[row * downsample + i][column * downsample + j] for i in middle for j in middle]
            cells.append((sum(inside) / len(inside), row, column))
    low, high = min(cells)[0], max(cells)[0]
    count = min(sum((cell[0] - low) / (high - low) >= threshold for cell in cells), len(cells) // 2)
    ranked = sorted(cells)
    chosen = ranked[len(ranked) - count :] + ranked[:count]
    points = [
        [int((column + 0.5) * size[1] / columns), int((row + 0.5) * size[0] / rows)]
        for _, row, column in chosen
    ]
    return points, [1] * count + [0] * count


@quick
@given(seeds, st.integers(1, 5), st.integers(2, 5), st.integers(1, 4), st.sampled_from([0.0, 0.4, 0.8, 1.0]))
def test_points_are_those_of_the_transcription(seed, rows, columns, downsample, threshold):
    grid, size = (rows * downsample, columns * downsample), (480, 640)
    similarity = torch.rand(
        grid[0] * grid[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    points, labels = functional.similarity_to_points(similarity, grid, size, threshold, downsample)
    assert (points.tolist(), labels.tolist()) == slow_points(similarity, grid, size, threshold, downsample)


@quick
@given(seeds, st.integers(1, 7), st.integers(1, 7), st.integers(1, 30), st.integers(1, 30))
def test_points_lie_in_the_image_as_many_positive_as_negative(seed, rows, columns, height, width):
    similarity = torch.randn(rows * columns, generator=torch.Generator().manual_seed(seed))
    points, labels = functional.similarity_to_points(similarity, (rows, columns), (height, width))
    assert len(points) == len(labels) == 2 * int(labels.sum())
    assert (points >= 0).all() and (points < torch.tensor([width, height])).all()


@quick
@given(seeds, st.integers(1, 4), st.sampled_from([0.3, 0.8]))
def test_combined_points_are_positive_for_each_text_and_negative_for_their_mean(seed, texts, threshold):
    grid, size = (6, 8), (480, 640)
    similarity = torch.rand(48, texts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    on = []
    for text in range(texts):
        points, labels = slow_points(similarity[:, text], grid, size, threshold, 2)
        on += [point for point in points[: sum(labels)] if point not in on]
    low, high = similarity.amin(0), similarity.amax(0)
    points, labels = slow_points(((similarity - low) / (high - low)).mean(1), grid, size, threshold, 2)
    off = [point for point in points[sum(labels) :] if point not in on]
    points, labels = functional.combined_points(similarity, grid, size, threshold)
    assert points.tolist() == on + off
    assert labels.tolist() == [1] * len(on) + [0] * len(off)


def test_combined_points_of_one_text_are_its_points(expected):
    similarity = expected["similarity_class_set"][0, 1:, :1]
    points, labels = functional.combined_points(similarity, (8, 8), (480, 640))
    assert torch.equal(points, expected["points_0"]) and torch.equal(labels, expected["labels_0"])


def test_combined_points_need_a_text():
    with pytest.raises(ValueError, match=r"\[N, K\], K >= 1 texts of one image, got \[64, 0\]"):
        functional.combined_points(torch.zeros(64, 0), (8, 8), (64, 64))


@quick
@given(seeds, st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))
def test_presence_counts_the_words_that_answer_less(seed, images, texts, words):
    tokens, embeds = unit_vectors(seed, images, 1 + 6, 8), unit_vectors(seed + 1, texts + words, 8)
    reference = torch.cat([embeds[texts:], embeds[:1]])  # the first text is a reference word, too
    found = functional.presence(tokens, embeds[:texts], reference)
    for image in range(images):
        for text in range(texts):
            shares = []
            for rows in (tokens[image, :1], tokens[image, 1:]):  # CLS, then the highest patch
                score = max(float(row @ embeds[text]) for row in rows)
                others = [max(float(row @ word) for row in rows) for word in reference]
                equal = [math.isclose(other, score, abs_tol=1e-6) for other in others]
                less = [other < score and not same for other, same in zip(others, equal, strict=True)]
                shares.append((sum(less) + sum(equal) / 2) / len(others))
            assert float(found[image, text]) == pytest.approx(sum(shares) / 2, abs=1e-6)


def test_presence_needs_reference_words_of_the_same_space():
    tokens, texts = torch.zeros(1, 5, 8), torch.zeros(2, 8)
    with pytest.raises(ValueError, match=r"\[R, C\] with R >= 1 and C = 8, got \[0, 8\]"):
        functional.presence(tokens, texts, torch.zeros(0, 8))
    with pytest.raises(ValueError, match=r"C = 8, got \[3, 4\]"):
        functional.presence(tokens, texts, torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("similarity", "grid"), [(torch.full((16,), 0.7), (4, 4)), (torch.tensor([0.7]), (1, 1))]
)
def test_a_constant_map_and_a_single_patch_give_no_points(similarity, grid):
    points, labels = functional.similarity_to_points(similarity, grid, (64, 64))
    assert points.shape == (0, 2) and labels.shape == (0,)


def test_points_refuse_options_out_of_range():
    similarity = torch.rand(16)
    with pytest.raises(ValueError, match=r"threshold must lie in \[0, 1\].*got 80"):
        functional.similarity_to_points(similarity, (4, 4), (64, 64), threshold=80)
    with pytest.raises(ValueError, match="downsample must be at least 1, got 0"):
        functional.similarity_to_points(similarity, (4, 4), (64, 64), downsample=0)
    with pytest.raises(ValueError, match=r"\[N\]"):
        functional.similarity_to_points(similarity[None], (4, 4), (64, 64))


def slow_boxes(mask):
    """Flood fill, pixel by pixel."""
    height, width = len(mask), len(mask[0])
    seen, boxes = set(), []
    for start in ((y, x) for y in range(height) for x in range(width)):
        if not mask[start[0]][start[1]] or start in seen:
            continue
        part, stack = [], [start]
        seen.add(start)
        while stack:
            y, x = stack.pop()
            part.append((y, x))
            for near in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                inside = 0 <= near[0] < height and 0 <= near[1] < width
                if inside and mask[near[0]][near[1]] and near not in seen:
                    seen.add(near)
                    stack.append(near)
        ys, xs = [y for y, _ in part], [x for _, x in part]
        boxes.append([min(xs), min(ys), max(xs) + 1, max(ys) + 1])
    return boxes


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seeds, st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.3, 0.5, 0.7]))
def test_boxes_are_those_of_a_flood_fill(seed, height, width, threshold):
    heatmap = torch.rand(height, width, generator=torch.Generator().manual_seed(seed))
    boxes = functional.map_to_boxes(heatmap, threshold)
    assert boxes.dtype == torch.int64
    assert boxes.tolist() == slow_boxes((heatmap >= threshold).tolist())


def test_boxes_of_nothing_and_of_everything():
    assert functional.map_to_boxes(torch.zeros(4, 5), 0.5).shape == (0, 4)
    assert functional.map_to_boxes(torch.ones(4, 5), 0.5).tolist() == [[0, 0, 5, 4]]
    with pytest.raises(ValueError, match=r"\[H, W\]"):
        functional.map_to_boxes(torch.zeros(1, 4, 5), 0.5)
    with pytest.raises(ValueError, match="threshold"):
        functional.map_to_boxes(torch.zeros(4, 5), 1.5)
