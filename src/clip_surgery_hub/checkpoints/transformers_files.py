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

from clip_surgery_hub.checkpoints.checkpoint import Checkpoint
from clip_surgery_hub.checkpoints.finding import find_file
from clip_surgery_hub.checkpoints.json_files import nested_values, read_json_object, shortened
from clip_surgery_hub.checkpoints.load_state import check_amounts, check_kinds, refuse_misfit, without_memory
from clip_surgery_hub.checkpoints.preprocessing import load_normalization, load_tokenizer
from clip_surgery_hub.checkpoints.weights import Weights, check_values, read_shards, read_weights
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
# Configurations list their layers and labels one by one, so these numbers cost memory before any model does.
_COUNTED = ("layer", "label", "block", "expert", "depth")
_MOST_COUNTED = 100_000
_WANTED = "it must hold a model of transformers, as save_pretrained writes it"


def load(source: str, *, dtype: torch.dtype, revision: str | None) -> Checkpoint:
    """Load model, tokenizer, normalization and known words; see `load_checkpoint`."""
    model = _load_model(source, dtype, revision)
    words = find_file(source, _WORDS_FILE, revision)
    return Checkpoint(
        model,
        load_tokenizer(source, revision, getattr(model.config, "text_config", None)),
        load_normalization(source, revision),
        None if words is None else read_known_words(words),
    )


def _load_model(source: str, dtype: torch.dtype, revision: str | None) -> nn.Module:
    path, settings = _read_configuration(source, revision)
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
    refuse_misfit(
        empty,
        weights,
        path,
        mismatched=found["mismatched_keys"],
        missing=found["missing_keys"],
        unexpected=set(found["unexpected_keys"]) - whole.state_dict().keys(),
    )
    for name, entry in model.state_dict().items():
        check_values({name: entry}, weights.file_of(name))
    model.config.name_or_path = source
    model = model.clip if kind.__name__ == "CLIPSegForImageSegmentation" else model
    model.eval()
    return model  # type: ignore[no-any-return]


def _read_configuration(source: str, revision: str | None) -> tuple[Path, dict[str, Any]]:
    """What ``config.json`` says, where transformers can be given it without harm.

    ``auto_map`` may be there: it names Python files of a checkpoint, which are never imported.
    Refused is what says no type of model, or asks for weights that are not plain tensors in the usual files,
    for code to be downloaded, or for absurd numbers.
    """
    if (adapter := find_file(source, _ADAPTER_FILE, revision)) is not None:
        raise ValueError(
            f"{adapter} describes an adapter of peft, which would not be applied; merge it with its model by "
            "peft, and give that: CLIPSurgery(model)."
        )
    if (path := find_file(source, _CONFIG_FILE, revision)) is None:
        raise ValueError(f"the model {source} cannot be loaded: {_WANTED} ({_CONFIG_FILE} is not there).")
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
    for name, value in nested_values(settings):
        last = name.rsplit(".", 1)[-1]
        if last.endswith("_implementation") and "/" in str(value):
            raise ValueError(
                f"{name} = {shortened(value)} in {path} asks for code to be downloaded; take it out."
            )
        if _is_number(value) and value > _MOST_COUNTED and any(word in last for word in _COUNTED):
            raise ValueError(f"{name} = {shortened(value)} in {path} is absurd; copy the file again.")
        if last.endswith("_eps") and not (_is_number(value) and 0 < value < 1):
            raise ValueError(f"{name} = {shortened(value)} in {path} must be a small number above 0.")
    return path, settings


def _largest_numbers(settings: dict[str, Any]) -> str:
    """The three largest numbers of a configuration by name, for a message about what is too large."""
    numbers = [(value, name) for name, value in nested_values(settings) if _is_number(value)]
    return ", ".join(f"{name} = {shortened(value)}" for value, name in sorted(numbers, reverse=True)[:3])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _find_weights(source: str, revision: str | None) -> Weights:
    for name in _WEIGHTS_FILES:
        if (file := find_file(source, name, revision)) is not None:
            return Weights(file, read_weights(file), {})
        if (index := find_file(source, f"{name}.index.json", revision)) is not None:
            return read_shards(index, partial(find_file, source, revision=revision))
    raise FileNotFoundError(
        f"the model {source} cannot be loaded: {_WANTED} ({' or '.join(_WEIGHTS_FILES)} is not there)."
    )


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
    largest = _largest_numbers(settings)
    model = without_memory(lambda: (saved_as if is_named else auto)(config), weights, path, largest)
    is_model = isinstance(saved_as, type) and issubclass(saved_as, transformers.PreTrainedModel)
    if not is_model or saved_as.config_class is not type(config) or isinstance(model, saved_as):
        return model, model, config
    return model, without_memory(lambda: saved_as(config), weights, path, largest), config


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
