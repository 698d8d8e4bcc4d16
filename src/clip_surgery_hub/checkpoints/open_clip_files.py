"""A checkpoint as OpenCLIP pushes it to the hub: open_clip_config.json beside the weights.

The description says what is computed; where parts of the checkpoint contradict it, it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from clip_surgery_hub.checkpoints.building import load_open_clip
from clip_surgery_hub.checkpoints.checkpoint import Checkpoint
from clip_surgery_hub.checkpoints.finding import find_file
from clip_surgery_hub.checkpoints.json_files import read_json_object, shortened
from clip_surgery_hub.checkpoints.open_clip_config import read_architecture
from clip_surgery_hub.checkpoints.open_clip_tokens import load_open_clip_tokenizer
from clip_surgery_hub.checkpoints.weights import read_weights
from clip_surgery_hub.images.image_transform import Normalization

CONFIG_FILE = "open_clip_config.json"
# In the order in which OpenCLIP looks for them.
_WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
# "random" is of training, bicubic elsewhere.
_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "random": Image.Resampling.BICUBIC,
}


def load(source: str, *, dtype: torch.dtype, revision: str | None) -> Checkpoint:
    """Load all that there is of a `Checkpoint`; see `load_checkpoint`.

    Raises:
        OSError: where there is no checkpoint, or it cannot be reached.
        ValueError: for files that are damaged, incomplete or contradictory, or of a model that is not
            supported.
    """
    config_path = find_file(source, CONFIG_FILE, revision)
    if config_path is None:
        raise ValueError(f"{source} has no {CONFIG_FILE}; give a checkpoint of OpenCLIP.")
    config = read_json_object(config_path)
    model_cfg = config.get("model_cfg")
    if not isinstance(model_cfg, dict):
        raise ValueError(f"{config_path} has no model_cfg that describes the model; copy it again.")
    read_architecture(model_cfg, str(config_path))  # what is wrong with it is wrong in this file
    _check_activation(config, model_cfg, source)
    normalization = read_normalization(config.get("preprocess_cfg"), source)
    model = _load_model(source, model_cfg, dtype, revision)
    return Checkpoint(
        model,
        load_open_clip_tokenizer(source, revision, model, model_cfg["text_cfg"]),
        normalization,
        known_words=None,
    )


def read_normalization(preprocess_cfg: Any, source: str) -> Normalization:
    """What OpenCLIP's ``preprocess_cfg`` does to the values of images; OpenAI's where it does not say.

    Raises:
        ValueError: for values that are no mean, standard deviation or filter.
    """
    given = {} if preprocess_cfg is None else preprocess_cfg
    if not isinstance(given, Mapping):
        raise ValueError(f"preprocess_cfg of {source} must be a dictionary, not {shortened(given)}.")
    mean, std = (given.get(key) or default for key, default in (("mean", _OPENAI_MEAN), ("std", _OPENAI_STD)))
    for name, values in (("mean", mean), ("std", std)):
        least = 0.0 if name == "mean" else 1e-6
        if (
            not isinstance(values, list | tuple)
            or len(values) != 3
            or not all(
                isinstance(value, int | float) and math.isfinite(value) and value >= least for value in values
            )
        ):
            raise ValueError(
                f"{name} of preprocess_cfg of {source} must be three numbers, one per color, not "
                f"{shortened(values)}; copy {CONFIG_FILE} again."
            )
    interpolation, mode = given.get("interpolation") or "bicubic", given.get("mode") or "RGB"
    if interpolation not in tuple(_FILTERS) or mode != "RGB":
        raise ValueError(
            f"preprocess_cfg of {source} must have the interpolation bicubic or bilinear and the mode RGB, "
            f"not {shortened(interpolation)} and {shortened(mode)}; copy {CONFIG_FILE} again."
        )
    return Normalization(tuple(map(float, mean)), tuple(map(float, std)), int(_FILTERS[interpolation]))


def _load_model(
    source: str, model_cfg: dict[str, Any], dtype: torch.dtype, revision: str | None
) -> nn.Module:
    for name in _WEIGHTS_FILES:
        if path := find_file(source, name, revision):
            return load_open_clip(model_cfg, read_weights(path), source=str(path), dtype=dtype)
    raise ValueError(f"{source} has no weights; one of {', '.join(_WEIGHTS_FILES)} must be there.")


def _check_activation(config: dict[str, Any], model_cfg: dict[str, Any], source: str) -> None:
    """Refuse where anything disagrees with the description about the activation, which no weight tells."""
    said = model_cfg.get("quick_gelu", False)
    named = "quickgelu" in Path(source).name.lower() and said is False
    if named or any(other != said for other in _values(config, "quick_gelu")):
        raise ValueError(
            f"{CONFIG_FILE} of {source} contradicts {'the name' if named else 'itself'}: quick_gelu of its "
            f"model_cfg is {shortened(said)}; with the wrong activation its results would be wrong."
        )


def _values(config: Any, key: str) -> Iterator[Any]:
    """All values of a key, at any depth."""
    if isinstance(config, dict):
        for name, value in config.items():
            if name == key:
                yield value
            yield from _values(value, key)
