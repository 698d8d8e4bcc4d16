"""A checkpoint as OpenCLIP pushes it to the hub: open_clip_config.json beside the weights.

The description says what is computed; where parts of the checkpoint contradict it, it is refused.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import nn

from clip_surgery_hub.checkpoints.building import load_open_clip
from clip_surgery_hub.checkpoints.checkpoint import Checkpoint
from clip_surgery_hub.checkpoints.finding import find_file
from clip_surgery_hub.checkpoints.json_files import nested_values, read_json_object, shortened
from clip_surgery_hub.checkpoints.open_clip_config import read_architecture
from clip_surgery_hub.checkpoints.preprocessing import TRIAL, load_tokenizer
from clip_surgery_hub.checkpoints.weights import read_weights
from clip_surgery_hub.hub.entry import OPENAI_MEAN, OPENAI_STD
from clip_surgery_hub.images.image_transform import LEAST_STD, Normalization, per_color

CONFIG_FILE = "open_clip_config.json"
# In the order in which OpenCLIP looks for them.
_WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# "random" is of training, bicubic elsewhere.
_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "random": Image.Resampling.BICUBIC,
}


def load(source: str, *, dtype: torch.dtype, revision: str | None) -> Checkpoint:
    """Load all that there is of a `Checkpoint`; see `load_checkpoint`."""
    if (config_path := find_file(source, CONFIG_FILE, revision)) is None:
        raise ValueError(f"{source} has no {CONFIG_FILE}; give a checkpoint of OpenCLIP.")
    config = read_json_object(config_path)
    model_cfg = config.get("model_cfg")
    if not isinstance(model_cfg, dict):
        raise ValueError(f"{config_path} has no model_cfg that describes the model; copy it again.")
    read_architecture(model_cfg, str(config_path))  # what is wrong with it is wrong in this file
    _check_activation(config, model_cfg, source)
    normalization = read_normalization(config.get("preprocess_cfg"), source)
    found = (find_file(source, name, revision) for name in _WEIGHTS_FILES)
    if (weights := next(filter(None, found), None)) is None:
        raise ValueError(f"{source} has no weights; one of {', '.join(_WEIGHTS_FILES)} must be there.")
    model = load_open_clip(model_cfg, read_weights(weights), path=weights, dtype=dtype)
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
    try:
        if not isinstance(given, Mapping):
            raise ValueError(f"it must be a dictionary, not {shortened(given)}")
        mean = per_color(given.get("mean") or OPENAI_MEAN, "mean", least=0.0)
        std = per_color(given.get("std") or OPENAI_STD, "std", least=LEAST_STD)
        interpolation, mode = given.get("interpolation") or "bicubic", given.get("mode") or "RGB"
        if interpolation not in tuple(_FILTERS) or mode != "RGB":
            raise ValueError(
                "the interpolation must be bicubic or bilinear and the mode RGB, not "
                f"{shortened(interpolation)} and {shortened(mode)}"
            )
    except ValueError as error:
        raise ValueError(
            f"preprocess_cfg of {source} is wrong: {error}; copy {CONFIG_FILE} again."
        ) from error
    return Normalization(mean, std, int(_FILTERS[interpolation]))


def load_open_clip_tokenizer(
    source: str, revision: str | None, model: nn.Module, text_cfg: Mapping[str, Any]
) -> Any:
    """The tokenizer whose files lie beside the weights, or None where there are none.

    Raises:
        ValueError: for damaged files, an end token that the model does not pool at, or rules for texts (in
            `text_cfg`, OpenCLIP's description of the text side) that are not supported.
    """
    tokenizer = load_tokenizer(source, revision, cast(Any, model.config).text_config)
    if tokenizer is None:
        return None
    rules, mode = text_cfg.get("tokenizer_kwargs") or {}, text_cfg.get("tokenizer_mode")
    if mode or rules not in ({}, {"clean": "canonicalize"}):
        given = {"tokenizer_mode": mode, "tokenizer_kwargs": rules}
        raise ValueError(
            f"{source} prepares texts in a way that is not supported: {shortened(given)}; only {{'clean': "
            "'canonicalize'} is. Without its tokenizer files it loads, for texts given as embeddings."
        )
    if rules:
        _clean(tokenizer, source)
    ids = list(tokenizer(TRIAL)["input_ids"])
    pool, end = text_cfg.get("pool_type", "argmax"), text_cfg.get("eos_id", 2)
    if (pool == "argmax" and ids.index(max(ids)) != len(ids) - 1) or (pool == "eos" and ids[-1] != end):
        where = "its highest id" if pool == "argmax" else f"the id {end}"
        raise ValueError(
            f"the tokenizer of {source} does not belong to its model, which reads a text at {where}, but "
            f"{TRIAL!r} becomes {shortened(ids)}; copy the files of the tokenizer again."
        )
    return tokenizer


def _clean(tokenizer: Any, source: str) -> None:
    """Lower case, no punctuation, single spaces, as OpenCLIP's ``canonicalize``, before all else."""
    from tokenizers import Regex, normalizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"the tokenizer of {source} cannot clean texts; a tokenizer.json must be there.")
    marks = "".join(f"\\{mark}" for mark in string.punctuation)
    steps = [
        normalizers.Replace("_", " "),
        normalizers.Replace(Regex(f"[{marks}]"), ""),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    own = backend.normalizer
    backend.normalizer = normalizers.Sequence([*steps, own] if own is not None else steps)


def _check_activation(config: dict[str, Any], model_cfg: dict[str, Any], source: str) -> None:
    """Refuse where anything disagrees with the description about the activation, which no weight tells."""
    said = model_cfg.get("quick_gelu", False)
    others = [value for name, value in nested_values(config) if name.rsplit(".", 1)[-1] == "quick_gelu"]
    named = "quickgelu" in Path(source).name.lower() and said is False
    if named or any(other != said for other in others):
        raise ValueError(
            f"{CONFIG_FILE} of {source} contradicts {'the name' if named else 'itself'}: quick_gelu of its "
            f"model_cfg is {shortened(said)}; with the wrong activation its results would be wrong."
        )
