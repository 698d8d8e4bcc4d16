"""What a checkpoint's folder or hub repository holds: the model, and how it wants texts and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from clip_surgery_hub.known_words import read_known_words
from clip_surgery_hub.pictures import Normalisation

__all__ = ["Checkpoint", "load_checkpoint"]

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


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The parts of a checkpoint.

    Attributes:
        model: a model of `transformers` in eval mode.
        tokenizer: its tokenizer, or None where there are no tokenizer files.
        normalisation: what its image processor does to pictures, or None where there is no such file.
        known_words: the words it was trained on, in lower case, or None where no ``concepts.json`` says so.
    """

    model: nn.Module
    tokenizer: Any
    normalisation: Normalisation | None
    known_words: frozenset[str] | None


def load_checkpoint(
    source: str, *, dtype: torch.dtype = torch.float32, revision: str | None = None
) -> Checkpoint:
    """Load a checkpoint; what is in the cache needs no network.

    Args:
        source: a folder, or a hub id ``owner/name``.
        dtype: of the weights.
        revision: branch, tag or commit of a hub id.

    Raises:
        OSError: where there is no checkpoint, or it cannot be reached.
        ValueError: for files that are damaged, incomplete or of no model of `transformers`.
    """
    if not Path(source).is_dir() and not _answers(source, revision):
        source = _folder_in_cache(source, revision)
    model = _load_model(source, dtype, revision)
    tokenizer = normalisation = None
    if any(_find(source, name, revision) for name in _TOKENIZER_FILES):
        tokenizer = _load_tokenizer(source, revision)
    if any(_find(source, name, revision) for name in _IMAGE_PROCESSOR_FILES):
        normalisation = _load_normalisation(source, revision)
    words = _find(source, _WORDS_FILE, revision)
    return Checkpoint(model, tokenizer, normalisation, None if words is None else read_known_words(words))


def _answers(source: str, revision: str | None) -> bool:
    """Whether the hub can be asked; else its client would knock for every file, half a minute at each."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(source, "config.json", revision=revision))
    except HfHubHTTPError:  # an answer, if a refusal: transformers tells what it means
        return True
    except Exception:  # of whichever network library the client uses, or of its offline mode
        return False
    return True


def _folder_in_cache(source: str, revision: str | None) -> str:
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(source, revision=revision, local_files_only=True))
    except OSError as error:
        raise OSError(
            f"the model {source} cannot be loaded: it is not in the cache and the hub cannot be reached; "
            "check the name and the network, or give a folder; list_models() tells what can be named."
        ) from error


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
        raise kind(f"the model {source} cannot be loaded: {advice}. ({_one_line(error)})") from error
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
        raise ValueError(f"the tokenizer of {source} cannot be loaded ({_one_line(error)}).") from error


def _load_normalisation(source: str, revision: str | None) -> Normalisation:
    from transformers import AutoImageProcessor

    try:
        processor: Any = AutoImageProcessor.from_pretrained(source, revision=revision)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"the image processor of {source} cannot be loaded ({_one_line(error)}).") from error
    resample = int(processor.resample)
    if not processor.do_normalize:
        return Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), resample)
    return Normalisation(tuple(processor.image_mean), tuple(processor.image_std), resample)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _find(source: str, name: str, revision: str | None) -> Path | None:
    """A file of the checkpoint, or None where there is none (or none in the cache, without a network)."""
    if Path(source).is_dir():
        return path if (path := Path(source) / name).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(source, name, revision=revision))
    except EntryNotFoundError:
        return None
