"""A checkpoint as `save_pretrained` of transformers writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from clip_surgery_hub.checkpoints.checkpoint import Checkpoint
from clip_surgery_hub.checkpoints.files import find_file, one_line
from clip_surgery_hub.checkpoints.saved_surgery import SURGERY_FILE, SavedSurgery, read_saved_surgery
from clip_surgery_hub.known_words import read_known_words
from clip_surgery_hub.pictures import Normalisation

# Any one of them tells that there is a tokenizer; without one transformers makes an empty tokenizer up.
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "sentencepiece.bpe.model", "spiece.model")
# AutoModel would load these without their projection, or (in early transformers 5) without their weights.
_NAMED = (
    "CLIPVisionModelWithProjection",
    "MetaClip2VisionModelWithProjection",
    "CLIPSegForImageSegmentation",
)
_IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_WORDS_FILE = "concepts.json"


def load(source: str, *, dtype: torch.dtype, revision: str | None) -> Checkpoint:
    """Load all that there is of a `Checkpoint`; see `load_checkpoint`.

    Raises:
        OSError: where there is no checkpoint, or it cannot be reached.
        ValueError: for files that are damaged, incomplete or of no model of `transformers`.
    """
    model = _load_model(source, dtype, revision)
    tokenizer = normalisation = None
    if any(find_file(source, name, revision) for name in _TOKENIZER_FILES):
        tokenizer = _load_tokenizer(source, revision)
    names = (*_IMAGE_PROCESSOR_FILES, _WORDS_FILE)
    companions = {name: path for name in names if (path := find_file(source, name, revision))}
    if any(name in companions for name in _IMAGE_PROCESSOR_FILES):
        normalisation = _load_normalisation(source, revision)
    surgery = find_file(source, SURGERY_FILE, revision)
    return Checkpoint(
        model,
        tokenizer,
        normalisation,
        known_words=read_known_words(companions[_WORDS_FILE]) if _WORDS_FILE in companions else None,
        surgery=SavedSurgery() if surgery is None else read_saved_surgery(surgery),
        companions={name: path.read_bytes() for name, path in companions.items()},
    )


def _load_model(source: str, dtype: torch.dtype, revision: str | None) -> nn.Module:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(source, revision=revision)
        architecture = (config.architectures or [""])[0]
        loader = getattr(transformers, architecture) if architecture in _NAMED else transformers.AutoModel
        model, found = loader.from_pretrained(
            source, revision=revision, dtype=dtype, output_loading_info=True
        )
    except SafetensorError as error:
        raise ValueError(f"the weights of {source} are damaged ({error}); copy them again.") from error
    except (OSError, ValueError) as error:
        advice = (
            "it must hold a model of transformers, as save_pretrained writes it"
            if Path(source).is_dir()
            else "check the name and the network, or give a folder; list_models() tells what can be named"
        )
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"the model {source} cannot be loaded: {advice}. ({one_line(error)})") from error
    if found["missing_keys"]:
        some = ", ".join(sorted(found["missing_keys"])[:3])
        raise ValueError(
            f"the checkpoint {source} lacks {len(found['missing_keys'])} weights of {type(model).__name__} "
            f"({some}, ...), so its results would be random; give a complete checkpoint."
        )
    model = model.clip if architecture == "CLIPSegForImageSegmentation" else model
    model.eval()
    return model  # type: ignore[no-any-return]


def _load_tokenizer(source: str, revision: str | None) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, revision=revision)
    except Exception as error:  # the tokenizers library raises plain Exception on damaged files
        raise ValueError(f"the tokenizer of {source} cannot be loaded ({one_line(error)}).") from error


def _load_normalisation(source: str, revision: str | None) -> Normalisation:
    from transformers import AutoImageProcessor

    try:
        processor: Any = AutoImageProcessor.from_pretrained(source, revision=revision)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"the image processor of {source} cannot be loaded ({one_line(error)}).") from error
    resample = int(processor.resample)
    if not processor.do_normalize:
        return Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), resample)
    return Normalisation(tuple(processor.image_mean), tuple(processor.image_std), resample)
