"""The metrics of the evaluation against other libraries, slow transcriptions, and sums over ranks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed import destroy_process_group, get_rank, get_world_size, init_process_group
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.functional.classification import multilabel_average_precision

from clip_surgery_hub.evaluate.datasets import NO_CLASS, VOID
from clip_surgery_hub.evaluate.intervals import bootstrap_counts, intervals
from clip_surgery_hub.evaluate.metrics import (
    ExplanationMetric,
    InteractionMetric,
    Measurement,
    RecognitionMetric,
    RowMetric,
    SegmentationMetric,
)
from clip_surgery_hub.evaluate.metrics.explainability import STEPS
from clip_surgery_hub.evaluate.truth import Prediction, Truth
from clip_surgery_hub.functional import highest_text, similarity_map, similarity_to_points
from clip_surgery_hub.functional.measures import (
    class_overlaps,
    contrasts,
    peaks_on_mask,
    threshold_overlaps,
)
from tests.support.rank_processes import Ranks

CLASSES = 5
Case = tuple[Truth, Prediction]


def case(index: int, *, height: int = 12, width: int = 18, classes: int = CLASSES) -> Case:
    """An image of some of the classes, with void and pixels of no class, and a random prediction."""
    rng = np.random.default_rng(index)
    shown = rng.permutation(classes)[: rng.integers(1, classes)]
    numbers = rng.choice([VOID, NO_CLASS, *shown], size=(height // 3, width // 3))
    segmentation = torch.from_numpy(numbers.repeat(3, 0).repeat(3, 1))
    labels = torch.tensor([bool((segmentation == one).any()) for one in range(classes)])
    truth = Truth(
        index=index,
        image=np.zeros((height, width, 3), np.uint8),
        labels=labels,
        segmentation=segmentation,
    )
    prediction = Prediction(
        scores=torch.from_numpy(rng.normal(size=classes)).float(),
        similarity=torch.from_numpy(rng.normal(size=(classes, 4, 6))).float(),
    )
    return truth, prediction


CASES = [case(index) for index in range(14)]

METRICS: dict[str, Callable[[], RowMetric]] = {
    "explain": lambda: ExplanationMetric(classes=CLASSES),
    "segment": lambda: SegmentationMetric(classes=CLASSES),
    "recognize": lambda: RecognitionMetric(classes=CLASSES),
    "interact": lambda: InteractionMetric(classes=CLASSES, sam=None),
}


def updated(metric: RowMetric, cases: list[Case]) -> RowMetric:
    for truth, prediction in cases:
        metric.update(truth, prediction)
    return metric


def measurement(metric: RowMetric) -> Measurement:
    """What the rows of this process say."""
    return metric.measurement(metric.rows())


def maps_of(truth: Truth, prediction: Prediction) -> list[tuple[int, Tensor, Tensor, Tensor]]:
    """Class, map, mask and valid pixels of each shown class, one at a time."""
    assert truth.segmentation is not None
    size = (truth.segmentation.shape[0], truth.segmentation.shape[1])
    found = []
    for number in range(CLASSES):
        mask = truth.segmentation == number
        if mask.any():
            similarity = prediction.similarity[number].flatten()[None, :, None]
            heat = similarity_map(similarity, (4, 6), size)[0, 0]
            found.append((number, heat, mask, truth.segmentation != VOID))
    return found


def test_explanation_equals_its_transcription() -> None:
    """Threshold by threshold, map by map, pixel by pixel."""
    overlaps, contrast_means, peaks = [], [], []
    for truth, prediction in CASES:
        contrast_of = []
        for _, heat, mask, valid in maps_of(truth, prediction):
            row = []
            for step in range(STEPS):
                above = (heat >= step / STEPS) & valid
                row.append(float((above & mask).sum() / (above | mask).sum()))
            overlaps.append(row)
            outside = ~mask & valid
            contrast_of.append(float(heat[mask].mean() - heat[outside].mean()))
            highest = torch.where(valid, heat, -1).argmax()
            peaks.append(float(mask.flatten()[highest]))
        contrast_means.append(np.mean(contrast_of))
    table = np.array(overlaps)
    found = {name: float(value) for name, value in updated(METRICS["explain"](), CASES).compute().items()}
    assert found["mIoU"] == pytest.approx(100 * table.mean(0).max(), abs=1e-4)
    assert found["threshold"] == pytest.approx(table.mean(0).argmax() / STEPS)
    assert found["mIoU, own threshold"] == pytest.approx(100 * table.max(1).mean(), abs=1e-4)
    assert found["mSC"] == pytest.approx(100 * np.mean(contrast_means), abs=1e-4)
    assert found["pointing"] == pytest.approx(100 * np.mean(peaks), abs=1e-6)


def test_explanation_per_class_is_the_mean_over_its_maps() -> None:
    metric = updated(METRICS["explain"](), CASES)
    step = round(float(metric.compute()["threshold"]) * STEPS)
    expected: dict[int, list[float]] = {}
    for truth, prediction in CASES:
        for number, heat, mask, valid in maps_of(truth, prediction):
            above = (heat >= step / STEPS) & valid
            expected.setdefault(number, []).append(float((above & mask).sum() / (above | mask).sum()))
    found = measurement(metric).per_class["IoU"]
    assert found.tolist() == pytest.approx([100 * np.mean(expected[one]) for one in range(CLASSES)], abs=1e-4)


def test_background_class_is_not_looked_for() -> None:
    every = updated(ExplanationMetric(classes=CLASSES), CASES).rows()["label"]
    without = updated(ExplanationMetric(classes=CLASSES, background=2), CASES).rows()["label"]
    assert set(every.tolist()) == set(range(CLASSES))
    assert without.tolist() == [one for one in every.tolist() if one != 2]


def test_segmentation_equals_torchmetrics_jaccard_over_the_data_set() -> None:
    index = MulticlassJaccardIndex(CLASSES, ignore_index=VOID)
    for truth, prediction in CASES:
        assert truth.segmentation is not None
        fact = truth.segmentation.clamp(min=VOID)
        fact[truth.segmentation == NO_CLASS] = VOID  # not scored either
        index.update(highest_text(prediction.similarity, (12, 18))[None], fact[None])
    found = updated(METRICS["segment"](), CASES).compute()
    assert float(found["mIoU"]) == pytest.approx(100 * float(index.compute()), abs=1e-4)


def test_segmentation_among_the_images_own_classes_equals_its_transcription() -> None:
    both, either = np.zeros(CLASSES), np.zeros(CLASSES)
    for truth, prediction in CASES:
        assert truth.segmentation is not None
        fact = truth.segmentation.numpy()
        own = [number for number in range(CLASSES) if (fact == number).any()]
        resized = torch.nn.functional.interpolate(prediction.similarity[None], (12, 18), mode="bilinear")[0]
        guess = np.array(own)[resized[own].argmax(0).numpy()]
        for number in range(CLASSES):
            both[number] += ((guess == number) & (fact == number)).sum()
            either[number] += (((guess == number) | (fact == number)) & (fact >= 0)).sum()
    found = updated(METRICS["segment"](), CASES).compute()
    assert float(found["mIoU, image's classes"]) == pytest.approx(100 * (both / either).mean(), abs=1e-4)


def test_mean_of_the_images_is_not_the_metric_of_the_data_set() -> None:
    """What torchmetrics.segmentation.MeanIoU would give: another number, so the test above can tell."""
    metrics = [updated(METRICS["segment"](), [one]).compute()["mIoU"] for one in CASES]
    whole = updated(METRICS["segment"](), CASES).compute()["mIoU"]
    assert abs(float(torch.stack(metrics).nanmean()) - float(whole)) > 0.1


def test_recognition_equals_its_definition() -> None:
    """Precision at every shown image, in the order of the scores, written out."""
    scores = np.array([prediction.scores.numpy() for _, prediction in CASES])
    shown = np.array([truth.labels.numpy() for truth, _ in CASES])
    expected = []
    for number in range(CLASSES):
        order = np.argsort(-scores[:, number])
        ranked = shown[order, number]
        precisions = [ranked[: place + 1].mean() for place in range(len(ranked)) if ranked[place]]
        expected.append(np.mean(precisions))
    metric = updated(METRICS["recognize"](), CASES)
    assert float(metric.compute()["mAP"]) == pytest.approx(100 * np.mean(expected), abs=1e-4)
    assert measurement(metric).per_class["AP"].tolist() == pytest.approx(
        [100 * one for one in expected], abs=1e-4
    )


def test_a_class_that_no_image_shows_does_not_count() -> None:
    scores = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]]).bool()
    metric = RecognitionMetric(classes=3)
    for index in range(6):
        truth = Truth(
            index=index, image=np.zeros((1, 1, 3), np.uint8), labels=labels[index], segmentation=None
        )
        metric.update(truth, Prediction(scores=scores[index], similarity=scores[index][:, None, None]))
    expected = multilabel_average_precision(scores[:, :2], labels[:, :2].int(), num_labels=2)
    assert float(metric.compute()["mAP"]) == pytest.approx(100 * float(expected), abs=1e-4)
    assert measurement(metric).per_class["AP"][2].isnan()


def test_points_are_counted_one_by_one() -> None:
    right = {1: [0, 0], 0: [0, 0]}
    shares = []
    for truth, prediction in CASES:
        for number, _, mask, valid in maps_of(truth, prediction):
            xy, labels = similarity_to_points(prediction.similarity[number].flatten(), (4, 6), (12, 18))
            own = []
            for (x, y), label in zip(xy.tolist(), labels.tolist(), strict=True):
                if valid[y, x]:
                    hit = bool(mask[y, x]) == bool(label)
                    right[label][0] += hit
                    right[label][1] += 1
                    own += [hit] if label else []
            shares += [np.mean(own)] if own else []
    found = updated(METRICS["interact"](), CASES).compute()
    assert float(found["positive points"]) == pytest.approx(100 * right[1][0] / right[1][1])
    assert float(found["negative points"]) == pytest.approx(100 * right[0][0] / right[0][1])
    assert float(found["positive points, mean of the maps"]) == pytest.approx(100 * np.mean(shares))
    assert "mask IoU" not in found


@pytest.mark.parametrize("name", METRICS)
def test_metrics_do_not_depend_on_the_order_or_the_parts(name: str) -> None:
    whole = updated(METRICS[name](), CASES).compute()
    turned = updated(METRICS[name](), CASES[::-1]).compute()
    together = METRICS[name]()
    for part in (CASES[9:], CASES[:4], CASES[4:9]):
        together.add_rows(updated(METRICS[name](), part).rows())
    for other in (turned, together.compute()):
        assert {key: float(value) for key, value in other.items()} == pytest.approx(
            {key: float(value) for key, value in whole.items()}, abs=1e-6
        )


def _rank(images: int, folder: str) -> None:
    init_process_group("gloo")
    rank, ranks, found = get_rank(), get_world_size(), {}
    for name, make in METRICS.items():
        metric = updated(make(), CASES[rank:images:ranks])
        rows = metric.gathered_rows()
        found[name] = (rows, {key: float(value) for key, value in metric.measurement(rows).values.items()})
    torch.save(found, f"{folder}/{rank}")
    destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "images"), [(2, len(CASES)), (3, len(CASES)), (3, 2)], ids=["two", "three", "one without"]
)
def test_metrics_are_the_same_for_any_number_of_ranks(ranks: int, images: int, tmp_path: Path) -> None:
    """Real processes, unequal shares, also none: torchmetrics gathers the rows."""
    started = Ranks.start([images, str(tmp_path)], tmp_path / "log", ranks=ranks, program=_rank)
    assert started.codes() == [0] * ranks, started.err()
    for name, make in METRICS.items():
        alone = updated(make(), CASES[:images])
        expected = {key: float(value) for key, value in alone.compute().items()}
        for rank in range(ranks):
            rows, values = torch.load(tmp_path / str(rank))[name]
            assert values == pytest.approx(expected, abs=1e-6)
            for column, whole in alone.rows().items():
                torch.testing.assert_close(rows[column], whole, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", METRICS)
def test_resamples_are_what_a_data_set_of_copies_gives(name: str) -> None:
    """Each row of counts against a metric that is updated so many times with copies of the images."""
    metric = updated(METRICS[name](), CASES)
    measured = measurement(metric)
    counts = bootstrap_counts(len(measured.numbers), 3, seed=4)
    found = metric.resampled(measured.rows, counts)
    for number, row in enumerate(counts.int().tolist()):
        copies: list[Case] = []
        for (truth, prediction), times in zip(CASES, row, strict=True):
            for _ in range(times):
                copies.append((renumbered(truth, len(copies)), prediction))
        expected = updated(METRICS[name](), copies).compute()
        for key, value in expected.items():
            assert float(found[key][number]) == pytest.approx(float(value), abs=1e-5), key


def renumbered(truth: Truth, index: int) -> Truth:
    return replace(truth, index=index)


@pytest.mark.parametrize("name", METRICS)
def test_intervals_hold_the_metric_and_are_those_of_the_seed(name: str) -> None:
    metric = updated(METRICS[name](), CASES)
    measured = measurement(metric)
    found = intervals(metric, measured, resamples=200)
    assert found == intervals(metric, measured, resamples=200)
    for key, value in metric.compute().items():
        low, high = found[key]
        assert low <= float(value) <= high
    assert found != intervals(metric, measured, resamples=200, seed=1)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_nothing_has_no_values(name: str) -> None:
    assert METRICS[name]().compute() == {}


@pytest.mark.parametrize("name", METRICS)
def test_per_image_tells_the_better_prediction_from_the_worse(name: str) -> None:
    """The truth itself as the prediction, and its opposite: one class on the left, another on the right."""
    segmentation = torch.zeros(12, 18, dtype=torch.int64)
    segmentation[:, 9:] = 1
    labels = torch.arange(CLASSES) < 2
    image = np.zeros((12, 18, 3), np.uint8)
    truth = Truth(index=0, image=image, labels=labels, segmentation=segmentation)
    perfect = torch.stack([(segmentation[1::3, 1::3] == number).float() for number in range(CLASSES)])
    predictions = [
        Prediction(scores=sign * truth.labels.float(), similarity=sign * perfect) for sign in (1.0, -1.0)
    ]
    metric = updated(
        METRICS[name](), [(renumbered(truth, number), one) for number, one in enumerate(predictions)]
    )
    measured = measurement(metric)
    good, bad = metric.per_image(measured.rows, len(measured.numbers)).tolist()
    assert good > bad
    assert measured.numbers.tolist() == [0, 1]


@pytest.mark.parametrize(
    "measure",
    [
        lambda maps, masks, valid: threshold_overlaps(maps, masks, valid, torch.tensor([0.5])),
        contrasts,
        peaks_on_mask,
    ],
)
def test_measures_refuse_what_does_not_fit(measure: Callable[..., Any]) -> None:
    maps = torch.zeros(2, 4, 5)
    with pytest.raises(ValueError, match=r"\[2, 4, 5\], \[2, 4, 6\] and \[4, 5\]"):
        measure(maps, torch.zeros(2, 4, 6, dtype=torch.bool), torch.ones(4, 5, dtype=torch.bool))


def test_class_overlaps_refuse_another_shape() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\] and \[3, 2\]"):
        class_overlaps(torch.zeros(2, 3).long(), torch.zeros(3, 2).long(), 4)


def test_contrast_of_a_class_that_fills_its_image_is_unknown() -> None:
    maps, everything = torch.rand(1, 3, 3), torch.ones(1, 3, 3, dtype=torch.bool)
    assert contrasts(maps, everything, everything[0]).isnan().all()
