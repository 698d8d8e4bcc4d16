"""The model that a command names, opened after everything that can be checked without it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clip_surgery_hub.model import CLIPSurgery

DTYPES = ("float32", "bfloat16", "float16")


def open_model(
    name: str,
    *,
    method: str | None = None,
    depth: int | None = None,
    device: str | None = None,
    dtype: str = "float32",
    images: Sequence[Path] = (),
) -> CLIPSurgery:
    """Load a checkpoint, quietly, once its name and all other options are found to be right.

    Args:
        name: see `hub.resolve`.
        method: see `CLIPSurgery.from_pretrained`, as the next ones.
        depth: how many blocks are modified.
        device: None: the best there is.
        dtype: one of `DTYPES`.
        images: those that it is opened for; a single one is read first, for without it there is nothing to
            do.

    Raises:
        ValueError: for an unknown name, method, dtype or device, an image that cannot be read, or a model
            without a supported vision tower.
        OSError: for a checkpoint that cannot be read.
    """
    import torch

    from clip_surgery_hub.hub import resolve
    from clip_surgery_hub.images.loading import load_image
    from clip_surgery_hub.methods import get_method
    from clip_surgery_hub.model import CLIPSurgery

    if method is not None:
        get_method(method)
    resolve(name)
    check_dtype(dtype)
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # torch raises either, by the kind of device
            raise ValueError(f"The device {device!r} cannot be used: {error} Try --device cpu.") from error
    if len(images) == 1:
        load_image(images[0])
    quiet()
    try:
        return CLIPSurgery.from_pretrained(
            name, method=method, depth=depth, device=device, dtype=getattr(torch, dtype)
        )
    except TypeError as error:  # no supported vision tower: bad input here
        raise ValueError(str(error)) from error


def check_dtype(dtype: str) -> None:
    """Refuse what is none of `DTYPES`.

    Raises:
        ValueError: for any other.
    """
    if dtype not in DTYPES:
        raise ValueError(f"There is no dtype {dtype!r} here. Choose one of {', '.join(DTYPES)}.")


def quiet(*more: str) -> None:
    """Leave out the bars, and all but the errors, of the libraries that load models and of ``more``."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for library in ("transformers", "huggingface_hub", *more):
        logging.getLogger(library).setLevel(logging.ERROR)


def quiet_lightning() -> None:
    """Leave out what the libraries say of themselves: the bar, the log and the last line are what counts."""
    import lightning  # noqa: F401  # sets up its own logging when it is loaded

    quiet("lightning", "lightning.pytorch", "lightning.fabric")
    for message in (
        ".*does not have many workers",
        ".*transfer_batch_to_device",
        ".*available but not used",
        ".*infer the batch",
        ".*LeafSpec",
    ):
        warnings.filterwarnings("ignore", message)
