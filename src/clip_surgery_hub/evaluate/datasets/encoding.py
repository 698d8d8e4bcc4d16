"""From the numbers in the masks of a data set to the numbers of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_surgery_hub.evaluate.datasets.dataset import NO_CLASS, VOID

__all__ = ["Encoding"]

_UNKNOWN = -3


class Encoding:
    """Which number in a file means which class.

    Args:
        ids: T tuples, the numbers in the files of each class.
        void: the numbers of `VOID` pixels.
        no_class: the numbers of `NO_CLASS` pixels.
    """

    def __init__(
        self, ids: Sequence[Sequence[int]], *, void: Sequence[int] = (), no_class: Sequence[int] = ()
    ) -> None:
        pairs = [(raw, number) for number, numbers in enumerate(ids) for raw in numbers]
        pairs += [(raw, VOID) for raw in void] + [(raw, NO_CLASS) for raw in no_class]
        self._table = np.full(max(raw for raw, _ in pairs) + 2, _UNKNOWN, np.int16)  # its last is unknown
        for raw, number in pairs:
            self._table[raw] = number

    def decode(self, values: np.ndarray, file: Path) -> np.ndarray:
        """The numbers of the classes, int16 ``[H, W]``, of a mask ``[H, W]`` of whole numbers.

        Args:
            values: as the file holds them.
            file: named by the error.

        Raises:
            ValueError: for numbers that mean nothing here.
        """
        segmentation: np.ndarray = self._table[np.clip(values, 0, len(self._table) - 1)]
        unknown = (segmentation == _UNKNOWN) | (values < 0)
        if unknown.any():
            found = ", ".join(str(value) for value in np.unique(values[unknown])[:5])
            known = len(self._table) - 2
            raise ValueError(
                f"The mask {file} holds numbers of no class of this data set: {found} (the largest known is "
                f"{known}). It belongs to another data set, or was saved in another way: get it anew."
            )
        return segmentation
