"""The LightningModule: pixels in, rows out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor

from clip_surgery_hub.methods import get_method
from clip_surgery_hub.model import CLIPSurgery, Redundant, check_redundant
from clip_surgery_hub.prediction.output_columns import COLUMNS, explained_rows
from clip_surgery_hub.prediction.runs import check_outputs
from clip_surgery_hub.results.encoded import EncodedImages
from clip_surgery_hub.results.query import TextQuery

__all__ = ["DEFAULT_OUTPUTS", "SurgeryPredictor"]

DEFAULT_OUTPUTS = ("scores", "presence", "points")


class SurgeryPredictor(lightning.LightningModule):
    """Explains the batches of an `ImageDataModule` in any Trainer.

    The texts are embedded once, on the device of the Trainer, when prediction starts.

    Args:
        model: a name, folder or hub id as `CLIPSurgery.from_pretrained` takes it, or a CLIPSurgery.
        texts: one or more texts to look for.
        background: texts that belong to the class set but are not asked for.
        outputs: what a row keeps, of `prediction.COLUMNS`.
        method: how the vision tower is read; None: as the checkpoint was saved, else "clip_surgery", or as
            the given CLIPSurgery is.
        depth: how many of the last blocks are modified; None: as many as the method wants.
        size: short side in pixels at which images are read; None: the checkpoint's own.
        max_side: longest side in pixels; None: 4 x ``size``.
        redundant: see `CLIPSurgery.explain`.
        labels: how many labels the output "labels" keeps of an image, the highest scores.

    Raises:
        ValueError: for no text, an unknown output, method or ``redundant``, a ``labels`` below 1, a ``size``
            that holds no patch, a checkpoint without image processor file, or ``method`` or ``depth`` beside
            a CLIPSurgery, which has its own.
        OSError: if the checkpoint cannot be reached.
    """

    def __init__(
        self,
        model: str | CLIPSurgery,
        texts: Sequence[str],
        *,
        background: Sequence[str] = (),
        outputs: Sequence[str] = DEFAULT_OUTPUTS,
        method: str | None = None,
        depth: int | None = None,
        size: int | None = None,
        max_side: int | None = None,
        redundant: Redundant = "auto",
        labels: int = 5,
    ) -> None:
        super().__init__()
        for name, given in (("texts", texts), ("background", background)):
            if isinstance(given, str):
                raise ValueError(f"{name} is a list, got the text {given!r}: write [{given!r}].")
        _check(texts, outputs, redundant, labels)
        self.clip = _loaded(model, method=method, depth=depth)
        self.texts, self.background = tuple(texts), tuple(background)
        self.outputs = tuple(name for name in COLUMNS if name in outputs)
        self.redundant_name: Redundant = redundant
        self.labels = labels
        self.model = self.clip.model
        self.image_transform = self.clip.image_transform(size=size, max_side=max_side)
        self.settings = self.clip.settings(size=size, max_side=max_side)
        self._query: TextQuery | None = None

    def on_predict_start(self) -> None:
        """Embed the texts before the first batch, where what is wrong with them is said."""
        self._query = self._text_query()

    def forward(self, pixels: Tensor) -> Tensor:
        """Unit length tokens ``[B, 1+N, C]``, float32, of pixels ``[B, 3, H, W]`` uint8, on their device."""
        return self.clip.encode_pixels(self.image_transform.normalization(pixels))

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> list[dict[str, Any]]:
        """Explain a batch.

        Args:
            batch: see `sources.batches_of`.
            batch_idx: not used.

        Returns:
            A row per image. Explained: ``key``, ``height``, ``width``, ``grid_height``, ``grid_width`` and
            the outputs, as `runs.images_schema` describes them. Not readable: ``key`` and ``error``, which
            has ``kind`` and ``message``.
        """
        failed = [
            {"key": error["key"], "error": {"kind": error["kind"], "message": error["message"]}}
            for error in batch["errors"]
        ]
        if not batch["keys"]:
            return failed
        tokens, (height, width) = self(batch["pixels"]), batch["pixels"].shape[2:]
        encoded = EncodedImages(
            tokens=tuple(tokens),
            grids=(self.clip.tower.grid(height, width),) * len(tokens),
            sizes=tuple(zip(batch["heights"].tolist(), batch["widths"].tolist(), strict=True)),
            settings=self.settings,
        )
        query = self._query or self._text_query()
        # Differences of nearly equal numbers: in float32, whatever the precision of the tower.
        with torch.autocast(tokens.device.type, enabled=False):
            explanation = query.to(tokens.device).explain(encoded)
        return failed + explained_rows(
            batch["keys"], explanation, tokens[:, 0], outputs=self.outputs, labels=self.labels
        )

    def _text_query(self) -> TextQuery:
        query = self.clip.text_query(self.texts, background=self.background, redundant=self.redundant_name)
        return query.to(self.clip.device)


def _check(texts: Sequence[str], outputs: Sequence[str], redundant: str, labels: int) -> None:
    if not texts:
        raise ValueError("No text was given; say what to look for in texts.")
    if not outputs:
        raise ValueError(f"No output was chosen. Choose from {', '.join(COLUMNS)}.")
    check_outputs(outputs)
    check_redundant(redundant)
    if labels < 1:
        raise ValueError(f"labels must be at least 1, got {labels}.")


def _loaded(model: str | CLIPSurgery, *, method: str | None, depth: int | None) -> CLIPSurgery:
    """The model on the CPU, from where the Trainer moves it."""
    if isinstance(model, CLIPSurgery):
        if method is not None or depth is not None:
            raise ValueError("A CLIPSurgery has its method and depth already; give neither beside it.")
        return model
    if method is not None:
        get_method(method)
    return CLIPSurgery.from_pretrained(model, method=method, depth=depth, device="cpu")
