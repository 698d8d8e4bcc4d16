"""Text embeddings kept in memory and on disk, under keys that change with whatever the numbers depend on."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakSet

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

SAMPLES = 128  # numbers of each weight that are looked at to see whether it has changed
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
        _caches.add(self)
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

        The weights are hashed whole once per model, and again when `_weights_state` is not what it was.
        """
        weights = _remembered(self._weights, model, _weights_state, _weights_digest)
        words = _remembered(self._tokenizers, tokenizer, _tokenizer_state, _tokenizer_digest)
        shared = json.dumps([json.dumps([FORMAT, weights, words, list(templates), truncate])])
        begun = hashlib.sha256(shared[:-1].encode())
        keys = []
        for text in texts:
            whole = begun.copy()
            whole.update(f", {json.dumps(text)}]".encode())
            keys.append(whole.hexdigest())
        return keys

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

    def forget(self) -> None:
        """Forget every embedding in memory, and what the weights and tokenizers were known by."""
        self._memory.clear()
        self._weights.clear()
        self._tokenizers.clear()

    def _remember(self, key: str, embedding: Tensor) -> None:
        self._memory[key] = embedding
        while len(self._memory) > self.memory_entries:
            self._memory.pop(next(iter(self._memory)), None)


_caches: WeakSet[EmbeddingCache] = WeakSet()


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


def clear_text_cache(*, disk: bool = True) -> None:
    """Forget every text embedding, in the memory of all models of this process and on disk.

    For weights that were written to in a way that no cache sees: past autograd (through ``.data`` or NumPy),
    and in few numbers only, see `_weights_state`.

    Args:
        disk: also remove the files below `cache_folder`, which all processes share.

    Raises:
        OSError: a file cannot be removed.
    """
    for cache in list(_caches):
        cache.forget()
    folder = cache_folder() / "texts"
    if disk and folder.exists():
        shutil.rmtree(folder)


def _text_side(module: nn.Module, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers but those of the vision tower; one too many only costs a new key."""
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and name != "logit_scale":
            yield path + name, tensor
    for name, child in module._modules.items():
        if child is not None and name not in ("vision_model", "visual_projection"):
            yield from _text_side(child, f"{path}{name}.")


@torch.no_grad()
def _weights_state(model: nn.Module) -> tuple[Any, ...]:
    """Layout, place, version and a digest of some numbers of every weight: a millisecond for a large tower.

    The version sees every write that autograd knows of. Writes past it, through ``.data`` (as PEFT merges
    adapters) or NumPy, are seen by the numbers: `SAMPLES` or more of each weight, evenly spread, so that a
    change of a weight as a whole is seen, or of any of its rows where it has no more rows than that. A change
    of single numbers between those that are looked at is not; `clear_text_cache` is for that.
    """
    layout = []
    samples: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for name, tensor in _text_side(model):
        layout.append((name, tensor.dtype, tensor.shape, tensor.data_ptr(), tensor._version))
        count = tensor.numel()
        step = max(1, count // SAMPLES)
        flat = tensor if tensor.is_contiguous() else tensor.reshape(-1)
        spread = flat.as_strided((-(-count // step),), (step,))
        samples.setdefault((tensor.dtype, tensor.device), []).append(spread)
    digest = hashlib.blake2b()
    for some in samples.values():
        digest.update(torch.cat(some).cpu().view(torch.uint8).numpy().data)
    return (*layout, digest.digest())


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
