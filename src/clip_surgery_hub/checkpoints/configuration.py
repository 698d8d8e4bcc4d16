"""`config.json` of a checkpoint of transformers, judged before transformers makes anything of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clip_surgery_hub.checkpoints.json_files import read_json_object, shortened

__all__ = ["largest_numbers", "read_configuration"]

# Configurations list their layers and labels one by one, so these numbers cost memory before any model does.
_COUNTED = ("layer", "label", "block", "expert", "depth")
_MOST_COUNTED = 100_000


def read_configuration(path: Path) -> dict[str, Any]:
    """What ``config.json`` says, where transformers can be given it without harm.

    ``auto_map`` may be there: it names Python files of a checkpoint, which are never imported.

    Raises:
        ValueError: for a file that is damaged, says no type of model, asks for weights that are not plain
            tensors in the usual files, for code to be downloaded, or for absurd numbers.
        OSError: for a file that cannot be read.
    """
    settings = read_json_object(path)
    if not isinstance(settings.get("model_type"), str) or not settings["model_type"]:
        raise ValueError(f"{path} has no 'model_type' that is a name; copy it again.")
    architectures = settings.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
    ):
        raise ValueError(
            f"'architectures' in {path} must be names of classes, not {shortened(architectures)}."
        )
    if settings.get("quantization_config") is not None:
        raise ValueError(
            f"{path} describes quantized weights, which cannot be checked; load the model with transformers "
            "and give it to CLIPSurgery(model)."
        )
    if settings.get("transformers_weights") is not None:
        raise ValueError(
            f"{path} has weights in another file, {shortened(settings['transformers_weights'])}; rename it "
            "to model.safetensors and take 'transformers_weights' out."
        )
    for name, value in _values(settings):
        last = name.rsplit(".", 1)[-1]
        if last.endswith("_implementation") and "/" in str(value):
            raise ValueError(
                f"{name} = {shortened(value)} in {path} asks for code to be downloaded; take it out."
            )
        if _is_number(value) and value > _MOST_COUNTED and any(word in last for word in _COUNTED):
            raise ValueError(f"{name} = {shortened(value)} in {path} is absurd; copy the file again.")
        if last.endswith("_eps") and not (_is_number(value) and 0 < value < 1):
            raise ValueError(f"{name} = {shortened(value)} in {path} must be a small number above 0.")
    return settings


def largest_numbers(settings: dict[str, Any]) -> str:
    """The three largest numbers of a configuration by name, for a message about what is too large."""
    numbers = [(value, name) for name, value in _values(settings) if _is_number(value)]
    return ", ".join(f"{name} = {shortened(value)}" for value, name in sorted(numbers, reverse=True)[:3])


def _values(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _values(value, f"{prefix}{name}.")
        yield f"{prefix}{name}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
