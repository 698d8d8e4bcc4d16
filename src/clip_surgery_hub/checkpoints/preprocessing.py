"""Tokenizer and normalization of a checkpoint of transformers, tried before they are given out."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clip_surgery_hub.checkpoints.finding import find_file
from clip_surgery_hub.checkpoints.json_files import as_json_object, read_json_object, shortened
from clip_surgery_hub.images.image_transform import Normalization, normalization_of

# Any one of them tells that there is a tokenizer; without one transformers makes an empty tokenizer up.
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "sentencepiece.bpe.model", "spiece.model")
_MORE_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
TRIAL = "a photo of a dog"


def load_tokenizer(source: str, revision: str | None, text_config: Any) -> Any:
    """The tokenizer of a checkpoint as transformers has it, or None where there is none.

    Raises:
        ValueError: for files that are damaged, or a tokenizer whose tokens the text tower (of `text_config`,
            None where there is none) does not have.
    """
    from transformers import AutoTokenizer

    names = (*_TOKENIZER_FILES, *_MORE_TOKENIZER_FILES)
    found = {name: path for name in names if (path := find_file(source, name, revision)) is not None}
    if not found.keys() & set(_TOKENIZER_FILES):
        return None
    try:
        for name in sorted(found.keys() & set(_MORE_TOKENIZER_FILES)):
            read_json_object(found[name])
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        tokens = list(tokenizer(TRIAL)["input_ids"])
    except Exception as error:  # the tokenizers library raises plain Exception on damaged files
        advice = f"copy {', '.join(found)} again"
        if "spiece.model" in found and "tokenizer.json" not in found and find_spec("sentencepiece") is None:
            advice = "it needs the package sentencepiece: pip install 'clip-surgery-hub[siglip]'"
        raise ValueError(
            f"the tokenizer of {source} cannot be loaded ({_damage(found) or shortened(error)}); {advice}."
        ) from error
    rows = getattr(text_config, "vocab_size", None)
    if not tokens or (rows is not None and max(tokens) >= rows):
        raise ValueError(
            f"the tokenizer of {source} is not that of its model: {TRIAL!r} becomes {shortened(tokens)}, of "
            f"{rows} tokens that the model has; copy {', '.join(found)} again."
        )
    return tokenizer


def _damage(files: dict[str, Path]) -> str:
    """Which file of JSON is damaged, and how; empty where none is."""
    for path in files.values():
        if path.suffix == ".json":
            try:
                as_json_object(path.read_bytes(), str(path))
            except ValueError as error:
                return str(error).rsplit(";", 1)[0]
    return ""


def load_normalization(source: str, revision: str | None) -> Normalization | None:
    """What a checkpoint wants done to the values of images, or None where no file says so.

    Raises:
        ValueError: for a file that is damaged, or numbers that would make no image.
    """
    from transformers import AutoImageProcessor

    paths = [path for name in _IMAGE_PROCESSOR_FILES if (path := find_file(source, name, revision))]
    if not paths:
        return None
    try:
        for path in paths:
            read_json_object(path)
        return normalization_of(
            AutoImageProcessor.from_pretrained(source, revision=revision, trust_remote_code=False)
        )
    except Exception as error:  # transformers hands through what a number of the wrong kind leads to
        raise ValueError(
            f"the image processor of {source} cannot be loaded ({shortened(error)}); copy "
            f"{' and '.join(str(path.name) for path in paths)} again."
        ) from error
