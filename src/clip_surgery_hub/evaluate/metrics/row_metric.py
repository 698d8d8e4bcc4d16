"""Metrics whose state is rows: what each image contributes, from which every metric follows.

Rows can be gathered over ranks, kept on disk and put together again in any order, and the metrics of a
bootstrap sample follow from the same rows, counted as often as their image was drawn.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from clip_surgery_hub.evaluate.truth import Prediction, Truth

__all__ = ["Measurement", "MetricValues", "RowMetric", "mean_by"]

MetricValues = dict[str, Tensor]


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """What the rows of B images say, computed once.

    Attributes:
        values: every metric, a float64 scalar each; empty where no image counted.
        per_class: metrics of each class, float64 ``[T]``; NaN where a class does not occur.
        numbers: of the images, ascending, int64 ``[B]``.
        rows: the columns, "image" renumbered 0, 1, ... B-1.
    """

    values: MetricValues
    per_class: MetricValues
    numbers: Tensor
    rows: Mapping[str, Tensor]


class RowMetric(Metric):
    """A metric over images, kept as rows in any number of columns.

    Attributes:
        columns: the type of each column and the shape of one row; the first, "image", is the number of the
            row's image in its data set.
        classes: T.
    """

    image: list[Tensor]
    full_state_update = False
    higher_is_better = True

    def __init__(self, columns: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], *, classes: int) -> None:
        super().__init__()
        self.columns = {"image": (torch.int64, ()), **columns}
        self.classes = classes
        for name in self.columns:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    @abstractmethod
    def update(self, truth: Truth, prediction: Prediction) -> None:
        """Take what a variant says of one image."""

    @abstractmethod
    def resampled(self, rows: Mapping[str, Tensor], counts: Tensor) -> MetricValues:
        """The metrics over resamples of the images.

        Args:
            rows: the columns, "image" renumbered 0, 1, ... B-1.
            counts: how often each image is in each resample, float64 ``[R, B]``.

        Returns:
            Each metric's value per resample, float64 ``[R]``.
        """

    @abstractmethod
    def summary(self, rows: Mapping[str, Tensor], images: int) -> tuple[MetricValues, MetricValues]:
        """The metrics over all images, and those of each class.

        Args:
            rows: as :meth:`resampled` takes them.
            images: B, one at least.

        Returns:
            `values` and `per_class` of a `Measurement`.
        """

    @abstractmethod
    def per_image(self, rows: Mapping[str, Tensor], images: int) -> Tensor:
        """How well each image went, float64 ``[B]``; NaN where unknown.

        Args:
            rows: as :meth:`resampled` takes them.
            images: B.
        """

    def measurement(self, rows: Mapping[str, Tensor]) -> Measurement:
        """Everything that follows from rows, as :meth:`rows` gives them."""
        numbers, place = rows["image"].unique(return_inverse=True)
        rows = {**rows, "image": place}
        values, per_class = self.summary(rows, len(numbers)) if len(numbers) else ({}, {})
        return Measurement(values=values, per_class=per_class, numbers=numbers, rows=rows)

    def rows(self) -> dict[str, Tensor]:
        """The columns, one tensor each, in the order of the images' numbers."""
        found = {name: self._column(name) for name in self.columns}
        order = torch.argsort(found["image"], stable=True)
        return {name: column[order] for name, column in found.items()}

    def gathered_rows(self) -> dict[str, Tensor]:
        """The :meth:`rows` of all ranks, on the CPU of each; to be called on all of them."""
        if not self.additions:  # so that a rank without rows sends columns of the same types and shapes
            self.add_rows(self.rows())
        with self.sync_context():
            return {name: column.cpu() for name, column in self.rows().items()}

    def add_rows(self, rows: Mapping[str, Tensor]) -> None:
        """Append rows, as :meth:`rows` gave them."""
        for name, (dtype, _) in self.columns.items():
            getattr(self, name).append(rows[name].to(self.device, dtype))
        # Rows that came from elsewhere count as updates: torchmetrics warns of metrics of nothing.
        self._update_count += 1
        self._computed = None

    @property
    def additions(self) -> int:
        """How often rows were added."""
        return len(self.image)

    def rows_since(self, additions: int) -> dict[str, Tensor]:
        """The columns of what was added after the first so many additions, before they were gathered."""
        found = {}
        for name, (dtype, shape) in self.columns.items():
            parts = list(getattr(self, name))[additions:]
            found[name] = torch.cat(parts) if parts else torch.empty(0, *shape, dtype=dtype)
        return found

    def compute(self) -> MetricValues:
        """Every metric over the rows of all ranks, see `Measurement.values`."""
        return self.measurement(self.rows()).values

    def over_all(self, rows: Mapping[str, Tensor], images: int) -> MetricValues:
        """:meth:`resampled` for each image once, a float64 scalar per metric."""
        once = torch.ones(1, images, dtype=torch.float64, device=rows["image"].device)
        return {name: values[0] for name, values in self.resampled(rows, once).items()}

    def _column(self, name: str) -> Tensor:
        parts: Any = getattr(self, name)
        dtype, shape = self.columns[name]
        if isinstance(parts, Tensor):  # gathered over the ranks
            return parts
        if not parts:
            return torch.empty(0, *shape, dtype=dtype, device=self.device)
        return torch.cat(list(parts))


def mean_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Mean of the values ``[M]`` of each group ``[M]``, float64 ``[groups]``; NaN for an empty one."""
    sums = torch.zeros(groups, dtype=torch.float64, device=values.device)
    sums.index_add_(0, group, values.double())
    return sums / torch.bincount(group, minlength=groups)
