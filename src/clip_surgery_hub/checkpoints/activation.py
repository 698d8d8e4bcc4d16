"""The activation of the MLPs: the one thing that no weight tells, so that a wrong one runs and is wrong."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn


def correct_activation(model: nn.Module, activation: str, *, source: str) -> None:
    """Give the towers the activation that their weights were trained with, where their files say another.

    Some files on the hub do: their description was written without ``quick_gelu``, and what reads it computes
    something close to the model that was trained. The configuration is corrected too, so that the model is
    saved as what it is.

    Args:
        model: of transformers, or around a tower of timm. Its MLPs with an ``activation_fn`` are the vision
            tower's and CLIP's or SigLIP's text tower's; BERT's text towers have their own, which stays.
        activation: by its name in `transformers`.
        source: the checkpoint, for the warning that says so.
    """
    from transformers.activations import ACT2FN

    configs = list({id(part): part for part in _parts(model)}.values())
    wrong = sorted({config.hidden_act for config in configs} - {activation})
    if not wrong:
        return
    for module in model.modules():
        if hasattr(module, "activation_fn"):
            module.activation_fn = ACT2FN[activation]
    for config in configs:
        config.hidden_act = activation
    warnings.warn(
        f"the files of {source} say {' and '.join(wrong)}, but its weights were trained with {activation}, "
        "which is used.",
        stacklevel=2,
    )


def _parts(model: nn.Module) -> list[Any]:
    """The configurations that the MLPs with an ``activation_fn`` were built from."""
    return [
        module.config
        for module in model.modules()
        if hasattr(module, "activation_fn") and hasattr(getattr(module, "config", None), "hidden_act")
    ]
