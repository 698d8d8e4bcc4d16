"""Metrics whose state is rows: what each image contributes, from which every metric follows.

Rows can be gathered over ranks, kept on disk and put together again in any order, and the metrics of a
bootstrap sample follow from the same rows, counted as often as their image was drawn.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from clip_surgery_hub.evaluate.truth import Prediction, Truth

__all__ = ["RowMetric"]

MetricValues = dict[str, Tensor]


class RowMetric(Metric):
    """A metric over images, kept as rows in any number of columns.

    Attributes:
        columns: the type of each column and the shape of one row; the first, "image", is the number of the
            row's image in its data set.
    """

    image: list[Tensor]
    full_state_update = False
    higher_is_better = True

    def __init__(self, columns: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        super().__init__()
        self.columns = {"image": (torch.int64, ()), **columns}
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
    def per_class(self, classes: int) -> MetricValues:
        """MetricValues of each class, float64 ``[T]``; NaN where a class does not occur."""

    @abstractmethod
    def per_image(self) -> Tensor:
        """How well each image went, float64 ``[B]`` in the order of :meth:`images`; NaN where unknown."""

    def rows(self) -> dict[str, Tensor]:
        """The columns, one tensor each, in the order of the images' numbers."""
        found = {name: self._column(name) for name in self.columns}
        order = torch.argsort(found["image"], stable=True)
        return {name: column[order] for name, column in found.items()}

    def add_rows(self, rows: Mapping[str, Tensor]) -> None:
        """Append rows, as :meth:`rows` gave them."""
        for name in self.columns:
            getattr(self, name).append(rows[name].to(self.device))
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
            found[name] = torch.cat(parts).to(dtype) if parts else torch.empty(0, *shape, dtype=dtype)
        return found

    def images(self) -> Tensor:
        """Numbers of the images that have rows, ascending, int64 ``[B]``."""
        numbers: Tensor = self._column("image").unique()
        return numbers

    def renumbered(self) -> tuple[dict[str, Tensor], int]:
        """:meth:`rows` with the images numbered 0, 1, ..., and how many there are."""
        rows = self.rows()
        images, rows["image"] = rows["image"].unique(return_inverse=True)
        return rows, len(images)

    def compute(self) -> MetricValues:
        """Every metric over the rows of all ranks; see :meth:`values`."""
        return self.values()

    def values(self) -> MetricValues:
        """Every metric over the rows that are here, a float64 scalar each; empty where no image counted."""
        rows, images = self.renumbered()
        if not images:
            return {}
        whole = torch.ones(1, images, dtype=torch.float64, device=rows["image"].device)
        return {name: values[0] for name, values in self.resampled(rows, whole).items()}

    def _column(self, name: str) -> Tensor:
        parts: Any = getattr(self, name)
        dtype, shape = self.columns[name]
        if isinstance(parts, Tensor):  # gathered over the ranks
            return parts.to(dtype)
        if not parts:
            return torch.empty(0, *shape, dtype=dtype, device=self.device)
        return torch.cat(list(parts)).to(dtype)


def mean_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Mean of the values ``[M]`` of each group ``[M]``, float64 ``[groups]``; NaN for an empty one."""
    sums = torch.zeros(groups, dtype=torch.float64, device=values.device)
    sums.index_add_(0, group, values.double())
    return sums / torch.bincount(group, minlength=groups)
