"""Text embeddings kept in memory and on disk, under keys that change with whatever the numbers depend on."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

FORMAT = "clip_surgery_hub text embedding 1"  # part of every key: a new way of embedding gets a new number


def cache_folder() -> Path:
    """The folder named by ``CLIP_SURGERY_CACHE``, read at each call, or the platform's folder for caches."""
    named = os.environ.get("CLIP_SURGERY_CACHE")
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        parent = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Caches"
    else:
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return parent / "clip_surgery_hub"


class EmbeddingCache:
    """Embeddings of texts by key: first in memory, then on disk (one small file each, below `cache_folder`).

    Any number of processes may share the folder: a file appears whole or not at all, and one that is damaged
    counts as missing. A copied or unpickled cache starts with an empty memory and the same folder.

    Args:
        memory_entries: how many embeddings stay in memory; the oldest makes room.
    """

    def __init__(self, *, memory_entries: int = 10_000) -> None:
        self.memory_entries = memory_entries
        self._memory: dict[str, Tensor] = {}
        self._weights: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()
        self._tokenizers: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {"memory_entries": self.memory_entries}

    def __setstate__(self, state: dict[str, Any]) -> None:
        EmbeddingCache.__init__(self, **state)

    def keys(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        templates: Sequence[str],
        truncate: bool,
        texts: Sequence[str],
    ) -> list[str]:
        """One key per text: a hash of the text tower, its weights, the tokenizer, the templates and the text.

        The weights are hashed once per model and again when a checksum over all of them has changed, however
        they were written to.
        """
        weights = _remembered(self._weights, model, _weights_state, _weights_digest)
        words = _remembered(self._tokenizers, tokenizer, _tokenizer_state, _tokenizer_digest)
        shared = json.dumps([FORMAT, weights, words, list(templates), truncate])
        return [hashlib.sha256(json.dumps([shared, text]).encode()).hexdigest() for text in texts]

    def read(self, key: str) -> Tensor | None:
        """The embedding ``[C]`` under a key, or None where there is none or it is damaged."""
        embedding = self._memory.get(key)
        if embedding is None:
            embedding = _read_file(_path(key))
            if embedding is None:
                return None
            self._remember(key, embedding)
        return embedding.clone()

    def write(self, key: str, embedding: Tensor) -> None:
        """Keep an embedding ``[C]``; if the folder cannot be written to, in memory only, with a warning."""
        self._remember(key, embedding.clone())
        try:
            _write_file(_path(key), embedding)
        except OSError as error:
            warnings.warn(
                f"Text embeddings are not kept on disk: {error}. "
                "Set CLIP_SURGERY_CACHE to a folder that can be written to.",
                stacklevel=2,
            )

    def _remember(self, key: str, embedding: Tensor) -> None:
        self._memory[key] = embedding
        while len(self._memory) > self.memory_entries:
            self._memory.pop(next(iter(self._memory)), None)


def _path(key: str) -> Path:
    return cache_folder() / "texts" / key[:2] / f"{key}.safetensors"


def _read_file(path: Path) -> Tensor | None:
    try:
        data = path.read_bytes()  # in one go: safe_open opens a file twice, and it may be replaced in between
        embedding = load(data)["embedding"]
    except (OSError, SafetensorError, KeyError):
        return None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # `load` found it in order
    digest = header.get("__metadata__", {}).get("sha256")
    if embedding.ndim != 1 or embedding.dtype != torch.float32 or digest != _digest(embedding):
        return None
    return embedding


def _write_file(path: Path, embedding: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = save({"embedding": embedding.contiguous()}, metadata={"sha256": _digest(embedding)})
    temporary = path.with_name(f".{path.stem[:16]}-{secrets.token_hex(8)}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(tensor: Tensor) -> str:
    """SHA-256 of the bytes of a tensor."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def _remembered(memory: WeakKeyDictionary[Any, tuple[Any, str]], owner: Any, state: Any, digest: Any) -> str:
    """``digest(owner)``, computed anew only when the cheaper ``state(owner)`` is not what it was."""
    current = state(owner)
    known = memory.get(owner)
    if known is None or known[0] != current:
        known = memory[owner] = (current, digest(owner))
    return known[1]


def _text_side(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers but those of the vision tower; one too many only costs a new key."""
    for tensors in (model.named_parameters(), model.named_buffers()):
        for name, tensor in tensors:
            if not {"vision_model", "visual_projection", "logit_scale"} & set(name.split(".")):
                yield name, tensor


def _weights_state(model: nn.Module) -> tuple[Any, ...]:
    """Layout and a sum over the bits of every weight, which sees writes past autograd too (``.data``)."""
    layout, sums = [], []
    for name, tensor in _text_side(model):
        flat = tensor.detach().reshape(-1)
        wide = flat.nbytes % 8 == 0 and flat.storage_offset() * flat.element_size() % 8 == 0
        layout.append((name, tensor.dtype, tensor.shape))
        sums.append(
            flat.view(torch.int64 if wide else torch.uint8).sum()
        )  # eight bytes at a time where it can
    return (*layout, *torch.stack(sums).tolist())


def _weights_digest(model: nn.Module) -> str:
    config = cast(Any, model.config).text_config.to_dict()
    for irrelevant in ("transformers_version", "_name_or_path", "dtype", "_attn_implementation"):
        config.pop(irrelevant, None)
    parts = [type(model).__name__, json.dumps(config, sort_keys=True, default=str)]
    parts += [
        f"{name} {tensor.dtype} {list(tensor.shape)} {_digest(tensor)}" for name, tensor in _text_side(model)
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _tokenizer_state(tokenizer: Any) -> tuple[Any, ...]:
    return len(tokenizer), str(tokenizer.special_tokens_map), tokenizer.model_max_length


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    else:  # what comes before the added tokens is the truncation and padding of the last call
        rules = backend.to_str()
        rules = rules[max(rules.find('"added_tokens"'), 0) :]
    parts = [type(tokenizer).__name__, str(tokenizer.special_tokens_map), rules]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
