"""How sure a metric is: the same metric over images drawn anew, with replacement, a thousand times.

A resample is a row of counts, how often each image is in it. A metric is a function of such counts, so that
all resamples are computed at once, and the metric itself is the same function of a row of ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000
SEED = 0
Counts = NDArray[np.float64]
Statistic = Callable[[Counts], NDArray[np.float64]]
"""Counts [R, B] of the B images to the metric of each of the R resamples [R]."""


@dataclass(frozen=True, kw_only=True)
class MetricValue:
    """A metric of one variant, with its 95% interval.

    Attributes:
        variant: what was measured, such as "raw CLIP".
        name: of the metric, such as "mSC".
        value: percent, unless the name says otherwise.
        low: lower end of the 95% interval.
        high: upper end of the 95% interval.
        count: how many maps, points, texts, ... were counted.
    """

    variant: str
    name: str
    value: float
    low: float
    high: float
    count: int


def resampled(images: int, resamples: int = RESAMPLES) -> Counts:
    """How often each image is in each resample, [R, B]; rows sum to B."""
    drawn = np.random.default_rng(SEED).integers(0, images, (resamples, images))
    rows = np.repeat(np.arange(resamples), images)
    flat = np.bincount(rows * images + drawn.ravel(), minlength=resamples * images)
    return flat.reshape(resamples, images).astype(np.float64)


def interval(
    statistic: Statistic, images: int, resamples: int = RESAMPLES, *, centered: bool = False
) -> tuple[float, float, float]:
    """The metric, and the middle 95% of it over resamples of the images.

    `centered` puts the spread of the resamples around the metric, for means over classes that few images
    show: there the copies of an image and the classes left out raise the resamples' own mean.
    """
    value = float(statistic(np.ones((1, images)))[0])
    found = statistic(resampled(images, resamples))
    low, high = np.nanpercentile(found, (2.5, 97.5)) + (value - np.nanmean(found) if centered else 0.0)
    return value, float(low), float(high)


def checked(
    variant: str,
    name: str,
    statistic: Statistic,
    exact: float,
    images: int,
    count: int,
    *,
    centered: bool = False,
) -> MetricValue:
    """A share in percent, whose resampled form must give what torchmetrics gives on the images themselves.

    Raises:
        ArithmeticError: if it does not.
    """
    value, low, high = interval(statistic, images, centered=centered)
    if abs(value - exact) > 1e-4:
        raise ArithmeticError(f"the bootstrap's form of {name} gives {value}, torchmetrics {exact}.")
    return MetricValue(
        variant=variant, name=name, value=100 * value, low=100 * low, high=100 * high, count=count
    )


def ratio(above: ArrayLike, below: ArrayLike) -> Statistic:
    """Sum of the images' numerators [B] over the sum of their denominators [B].

    With sums and numbers of an image's maps this is the mean over all maps; with ones below, over images.
    """
    numerator, denominator = np.asarray(above, float), np.asarray(below, float)
    return lambda counts: (counts @ numerator) / (counts @ denominator)


def share(groups: Sequence[Sequence[float]]) -> Statistic:
    """The mean over all values of all images, given as one list per image, possibly empty."""
    return ratio([sum(group) for group in groups], [len(group) for group in groups])


def average_precision(scores: NDArray[np.float64], shown: NDArray[np.bool_]) -> Statistic:
    """Mean over the classes of the average precision, scores and truth [B, T].

    A class counts in a resample where it is shown in it. Copies of an image have one score, so they share a
    threshold: a class's average precision is the mean over its shown copies of the precision at theirs.
    """
    image, label = np.nonzero(shown)  # K pairs: a threshold each
    above = scores[:, label] >= scores[image, label]  # [B, K]
    right = above & shown[:, label]
    owner = (label[:, None] == np.unique(label)).astype(np.float64)  # [K, classes]

    def statistic(counts: Counts) -> NDArray[np.float64]:
        copies = counts[:, image]  # [R, K]
        precision = (counts @ right) / np.maximum(counts @ above, 1)
        shows = copies @ owner
        found = ((precision * copies) @ owner) / np.maximum(shows, 1)
        with np.errstate(invalid="ignore"):  # not a number where a resample shows no class
            return np.asarray(found.sum(1) / (shows > 0).sum(1))

    return statistic


def area_under_roc(scores: ArrayLike, shown: ArrayLike, image: ArrayLike) -> Statistic:
    """Chance that a shown text's score lies above that of one not shown (half for equal ones).

    P pairs of image and text: score [P], whether the image shows the text [P], number of the image [P].
    """
    levels, level = np.unique(np.asarray(scores, float), return_inverse=True)
    truth, owner = np.asarray(shown, bool), np.asarray(image)

    def statistic(counts: Counts) -> NDArray[np.float64]:
        on, off = np.zeros((2, len(counts), len(levels)))
        for number, row in enumerate(counts):
            weight = row[owner]
            on[number] = np.bincount(level, weight * truth, len(levels))
            off[number] = np.bincount(level, weight * ~truth, len(levels))
        below = off.cumsum(1) - off / 2
        return (on * below).sum(1) / (on.sum(1) * off.sum(1))

    return statistic


def mean_intersection_over_union(
    overlap: NDArray[np.int64], predicted: NDArray[np.int64], actual: NDArray[np.int64]
) -> Statistic:
    """Mean over the classes of the overlap of all images over the union of all images; pixels [B, C].

    Classes without pixels in either, among the images of a resample, do not count.
    """

    def statistic(counts: Counts) -> NDArray[np.float64]:
        both = counts @ overlap
        union = counts @ (predicted + actual) - both
        shares = np.divide(both, union, out=np.full_like(both, np.nan), where=union > 0)
        return np.asarray(np.nanmean(shares, 1))

    return statistic


def quantile(groups: Sequence[Sequence[float]], part: float) -> Statistic:
    """The value below which a part of all values lies, given as one list per image."""
    values = np.array([value for group in groups for value in group])
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    order = np.argsort(values, kind="stable")

    def statistic(counts: Counts) -> NDArray[np.float64]:
        heaped = counts[:, owner[order]].cumsum(1)
        first = (heaped <= part * heaped[:, -1:]).sum(1)
        return np.asarray(values[order][np.minimum(first, len(values) - 1)])

    return statistic
