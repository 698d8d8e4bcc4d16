"""Samples become batches of one shape each, in the data loader's workers."""

from __future__ import annotations

import signal
from collections.abc import Container, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from clip_surgery_hub.images.image_transform import ImageTransform
from clip_surgery_hub.images.loading import ImageError
from clip_surgery_hub.prediction.sources.source import Sample, Share, Source

Batch = dict[str, Any]
BATCHES_HELD_BACK = 4
"""How many batches' worth of images wait at most for others of their shape."""


@dataclass(eq=False)
class ImageBatches(IterableDataset[Batch]):
    """The batches of one rank, shared among the workers of a data loader that takes them as they are.

    Args:
        source: the images of all ranks.
        image_transform: how they are decoded and resized.
        batch_size: of full batches.
        done: keys that are left out.
        rank: number of this process, from 0.
        ranks: how many processes share the source.
    """

    source: Source
    image_transform: ImageTransform
    _: KW_ONLY
    batch_size: int
    done: Container[str] = ()
    rank: int = 0
    ranks: int = 1

    def __iter__(self) -> Iterator[Batch]:
        """The batches of this worker, or of the whole rank where there are no workers."""
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        share = Share(self.rank * workers + number, self.ranks * workers)
        samples = self.source.samples(share, self.done)
        return batches_of(samples, self.image_transform, batch_size=self.batch_size)


def batches_of(
    samples: Iterable[Sample], image_transform: ImageTransform, *, batch_size: int
) -> Iterator[Batch]:
    """Decode samples and put them together by their shapes; each is in one batch, as a row or as an error.

    A batch goes out when ``batch_size`` images of its shape are there. When as many images wait as there
    are in four batches, the largest group of one shape goes out as it is; at the end all that is left does.

    Args:
        samples: not decoded.
        image_transform: how they are decoded and resized.
        batch_size: of full batches.

    Yields:
        Dictionaries:

        - ``keys``: B strings, B at most ``batch_size``.
        - ``pixels``: ``[B, 3, H, W]`` uint8, not normalized; ``[0, 3, patch, patch]`` without images.
        - ``heights``, ``widths``: ``[B]`` int64, of the images before they were resized, in pixels.
        - ``errors``: a list of ``{"key", "kind", "message"}``, at most ``batch_size``, of images that could
          not be read, see `images.ERROR_KINDS`.
    """
    waiting: dict[tuple[int, ...], list[tuple[str, Tensor, tuple[int, int]]]] = {}
    held, errors = 0, []
    for key, content in samples:
        try:
            pixels, size = image_transform.read(content)
        except ImageError as error:
            errors.append({"key": key, "kind": error.kind, "message": _printable(error)})
            if len(errors) == batch_size:
                yield _batch([], errors, image_transform)
                errors = []
            continue
        group = waiting.setdefault(tuple(pixels.shape), [])
        group.append((key, pixels, size))
        held += 1
        if held == BATCHES_HELD_BACK * batch_size:
            group = max(waiting.values(), key=len)
        if len(group) == batch_size or held == BATCHES_HELD_BACK * batch_size:
            del waiting[tuple(group[0][1].shape)]
            held -= len(group)
            yield _batch(group, errors, image_transform)
            errors = []
    for group in waiting.values():
        yield _batch(group, errors, image_transform)
        errors = []
    if errors:
        yield _batch([], errors, image_transform)


def leave_signals_to_the_rank(worker: int) -> None:
    """Let a worker live on when a terminal or a cluster signals a whole group of processes to stop.

    The rank decides what is done before the end, and needs its workers for it; it ends them itself. A worker
    whose rank is gone ends too.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _batch(
    group: list[tuple[str, Tensor, tuple[int, int]]],
    errors: list[dict[str, str]],
    image_transform: ImageTransform,
) -> Batch:
    empty = torch.empty(0, 3, image_transform.patch_size, image_transform.patch_size, dtype=torch.uint8)
    return {
        "keys": [key for key, _, _ in group],
        "pixels": torch.stack([pixels for _, pixels, _ in group]) if group else empty,
        "heights": torch.tensor([height for _, _, (height, _) in group], dtype=torch.int64),
        "widths": torch.tensor([width for _, _, (_, width) in group], dtype=torch.int64),
        "errors": errors,
    }


def _printable(error: ImageError) -> str:
    """One line that can be written as UTF-8, whatever the bytes of the file's name are."""
    return " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())
