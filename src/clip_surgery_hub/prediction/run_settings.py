"""What two starts must have in common to write to one run."""

from __future__ import annotations

from hashlib import sha256
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from clip_surgery_hub.prediction.module import SurgeryPredictor

__all__ = ["run_settings", "weights_digest"]


def run_settings(module: SurgeryPredictor, *, precision: str, data: str | None) -> dict[str, Any]:
    """The settings of a run in plain values, for `runs.RunFolder`.

    Args:
        module: that predicts.
        precision: of the Trainer.
        data: what the images are, a source's description; None where it is not known.
    """
    settings = module.settings.to_dict()
    return {
        "data": data,
        "texts": list(module.texts),
        "background": list(module.background),
        "outputs": list(module.outputs),
        "labels": module.labels,
        "width": module.clip.tower.embedding_width,
        "model": settings["model"],
        "weights": weights_digest(module.model),
        **{name: settings[name] for name in ("method", "depth", "size", "max_side", "interpolation")},
        "templates": "paper",
        "redundant": module.redundant_name,
        "precision": precision,
        "versions": settings["versions"] | {"lightning": version("lightning")},
    }


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of all weights, their names, shapes and types; the same on every device."""
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
