"""The tokenizer of an OpenCLIP checkpoint, made to do what OpenCLIP does around it."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from clip_surgery_hub.checkpoints.json_files import shortened
from clip_surgery_hub.checkpoints.preprocessing import load_tokenizer

_TRIAL = "a photo of a dog"


def load_open_clip_tokenizer(
    source: str, revision: str | None, model: nn.Module, text_cfg: Mapping[str, Any]
) -> Any:
    """The tokenizer whose files lie beside the weights, or None where there are none.

    Args:
        source: a folder or a hub id.
        revision: of a hub id.
        model: the model, as it was built.
        text_cfg: OpenCLIP's description of the text side.

    Raises:
        ValueError: for damaged files, an end token that the model does not pool at, or rules for texts that
            are not supported.
    """
    tokenizer = load_tokenizer(source, revision, cast(Any, model.config).text_config)
    if tokenizer is None:
        return None
    rules = text_cfg.get("tokenizer_kwargs") or {}
    mode = text_cfg.get("tokenizer_mode")
    if mode or not isinstance(rules, Mapping) or any(rules[key] != "canonicalize" for key in rules):
        raise _refused(source, text_cfg)
    if set(rules) - {"clean"}:
        raise _refused(source, text_cfg)
    if rules:
        _clean(tokenizer, source)
    ids = list(tokenizer(_TRIAL)["input_ids"])
    pool, end = text_cfg.get("pool_type", "argmax"), text_cfg.get("eos_id", 2)
    if (pool == "argmax" and ids.index(max(ids)) != len(ids) - 1) or (pool == "eos" and ids[-1] != end):
        where = "its highest id" if pool == "argmax" else f"the id {end}"
        raise ValueError(
            f"the tokenizer of {source} does not belong to its model, which reads a text at {where}, but "
            f"{_TRIAL!r} becomes {shortened(ids)}; copy the files of the tokenizer again."
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


def _refused(source: str, text_cfg: Mapping[str, Any]) -> ValueError:
    given = {key: text_cfg.get(key) for key in ("tokenizer_mode", "tokenizer_kwargs")}
    return ValueError(
        f"{source} prepares texts in a way that is not supported: {shortened(given)}; only "
        "{'clean': 'canonicalize'} is. Without its tokenizer files it loads, for texts given as embeddings."
    )
