"""A checkpoint as `save_pretrained` of transformers writes it.

Its files are judged before transformers is given anything: the configuration, then the weights against the
model that it describes, which has no memory yet. What was judged is what is loaded; none of its code is run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clip_surgery_hub.checkpoints.check_state import (
    Misfit,
    Weights,
    check_amounts,
    check_kinds,
    refuse_misfit,
    without_memory,
)
from clip_surgery_hub.checkpoints.checkpoint import Checkpoint
from clip_surgery_hub.checkpoints.configuration import largest_numbers, read_configuration
from clip_surgery_hub.checkpoints.finding import find_file
from clip_surgery_hub.checkpoints.json_files import shortened
from clip_surgery_hub.checkpoints.preprocessing import load_normalization, load_tokenizer
from clip_surgery_hub.checkpoints.weights import (
    check_values,
    read_shards,
    read_weight_map,
    read_weights,
)
from clip_surgery_hub.text.vocabulary import read_known_words

# AutoModel would load these without their projection, or (in early transformers 5) without their weights.
_NAMED = (
    "CLIPVisionModelWithProjection",
    "MetaClip2VisionModelWithProjection",
    "CLIPSegForImageSegmentation",
)
# In the order in which transformers looks for them; the next is not opened where there is one.
_WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
_CONFIG_FILE = "config.json"
_ADAPTER_FILE = "adapter_config.json"
_WORDS_FILE = "concepts.json"
_WANTED = "it must hold a model of transformers, as save_pretrained writes it"


def load(source: str, *, dtype: torch.dtype, revision: str | None) -> Checkpoint:
    """Load model, tokenizer, normalization and known words; see `load_checkpoint`.

    Raises:
        OSError: where there is no checkpoint, or it cannot be reached.
        ValueError: for files that are damaged, incomplete, do not fit each other, hold more than data, or are
            of no model of `transformers`.
    """
    model = _load_model(source, dtype, revision)
    words = find_file(source, _WORDS_FILE, revision)
    return Checkpoint(
        model,
        load_tokenizer(source, revision, getattr(model.config, "text_config", None)),
        load_normalization(source, revision),
        None if words is None else read_known_words(words),
    )


def _load_model(source: str, dtype: torch.dtype, revision: str | None) -> nn.Module:
    path = _find_configuration(source, revision)
    settings = read_configuration(path)
    weights = _find_weights(source, revision)
    empty, whole, config = _empty_models(path, settings, weights)
    kind: Any = type(empty)
    check_kinds(empty, weights)
    check_amounts(empty, whole, weights, path)
    try:
        with _without_report():
            model, found = kind.from_pretrained(
                None,
                config=config,
                state_dict=dict(weights.tensors),
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # said below, by name
            )
    except Exception as error:  # of whatever it is that does not fit
        raise ValueError(
            f"the weights of {weights.path} cannot be put into {kind.__name__} ({shortened(error)}); give "
            "files that belong together."
        ) from error
    beyond = set(found["unexpected_keys"]) - whole.state_dict().keys()
    misfit = Misfit(found["missing_keys"], found["mismatched_keys"], beyond)
    refuse_misfit(misfit, kind.__name__, weights, path)
    for name, entry in model.state_dict().items():
        check_values({name: entry}, weights.files.get(name, weights.path))
    model.config.name_or_path = source
    model = model.clip if kind.__name__ == "CLIPSegForImageSegmentation" else model
    model.eval()
    return model  # type: ignore[no-any-return]


def _find_configuration(source: str, revision: str | None) -> Path:
    if (adapter := find_file(source, _ADAPTER_FILE, revision)) is not None:
        raise ValueError(
            f"{adapter} describes an adapter of peft, which would not be applied; merge it with its model by "
            "peft, and give that: CLIPSurgery(model)."
        )
    if (path := find_file(source, _CONFIG_FILE, revision)) is None:
        raise ValueError(f"the model {source} cannot be loaded: {_WANTED} ({_CONFIG_FILE} is not there).")
    return path


def _find_weights(source: str, revision: str | None) -> Weights:
    for name in _WEIGHTS_FILES:
        if (file := find_file(source, name, revision)) is not None:
            tensors = read_weights(file)
            return Weights(file, tensors, dict.fromkeys(tensors, file))
        if (index := find_file(source, f"{name}.index.json", revision)) is not None:
            return _find_shards(source, index, revision)
    raise FileNotFoundError(
        f"the model {source} cannot be loaded: {_WANTED} ({' or '.join(_WEIGHTS_FILES)} is not there)."
    )


def _find_shards(source: str, index: Path, revision: str | None) -> Weights:
    shards = {}
    for shard in sorted(set(read_weight_map(index).values())):
        file = find_file(source, shard, revision)
        if file is None:
            raise ValueError(f"{index} names {shard}, which is not there; copy it again.")
        shards[shard] = file
    found = read_shards(index, shards)
    tensors = {name: tensor for name, (_, tensor) in found.items()}
    return Weights(index, tensors, {name: file for name, (file, _) in found.items()})


def _empty_models(path: Path, settings: dict[str, Any], weights: Weights) -> tuple[nn.Module, nn.Module, Any]:
    """The model to be loaded, the one saved, which may be larger, both on the meta device; the config."""
    import transformers

    architecture = (settings.get("architectures") or [""])[0]
    saved_as: Any = getattr(transformers, architecture, None)
    is_named = architecture in _NAMED
    reader = saved_as.config_class if is_named else transformers.AutoConfig
    try:
        config = reader.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # the checks of its types raise errors of every kind
        raise ValueError(
            f"{path} cannot be read as a configuration of transformers ({shortened(error)}); copy it again."
        ) from error
    auto = partial(transformers.AutoModel.from_config, trust_remote_code=False)
    largest = largest_numbers(settings)
    model = without_memory(lambda: (saved_as if is_named else auto)(config), weights, path, largest)
    if not _is_model_of(saved_as, config) or isinstance(model, saved_as):
        return model, model, config
    return model, without_memory(lambda: saved_as(config), weights, path, largest), config


def _is_model_of(kind: Any, config: Any) -> bool:
    from transformers import PreTrainedModel

    return isinstance(kind, type) and issubclass(kind, PreTrainedModel) and kind.config_class is type(config)


@contextmanager
def _without_report() -> Iterator[None]:
    """Leaves the table of weights that do not fit out of the log of this thread: it is said in one line."""
    thread = threading.get_ident()

    def is_other(record: logging.LogRecord) -> bool:
        return record.thread != thread or "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
