"""Texts become embeddings: prompt templates, their ensembles, and batches without needless padding."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from clip_surgery_hub.functional import unit_length
from clip_surgery_hub.text.cache import EmbeddingCache

__all__ = ["class_names", "context_length", "embed_texts", "resolve_templates"]

# Families whose text tower gives the same embedding however far a prompt is padded: causal attention reads
# nothing behind the end token (the first four), or the padding is masked (the others).
_PADDING_IS_IRRELEVANT = frozenset({"clip", "metaclip_2", "clipseg", "xclip", "altclip", "chinese_clip"})
# Families whose text tower reads the padding like words, and pools the last position, where it mostly is:
# prompts are padded behind their end to the whole context, as in training, and no mask is given.
_PADDING_IS_READ = frozenset({"siglip"})


def resolve_templates(templates: str | Sequence[str] | None) -> tuple[str, ...]:
    """The prompt templates that are meant.

    Args:
        templates: the name of a set in assets/prompts.json ("paper": the 85 of the paper), None for the bare
            text, or templates of your own, each with ``{}`` where the text goes.

    Raises:
        ValueError: for an unknown name, no template at all, or a template without ``{}``.
    """
    if templates is None:
        return ("{}",)
    if isinstance(templates, str):
        named = _prompts()["templates"]
        if templates not in named:
            advice = f"for templates of your own give a list: [{templates!r}]" if "{}" in templates else ""
            raise ValueError(
                f"no set of templates is called {templates!r}, there is {', '.join(map(repr, named))}"
                f"{advice and '; '}{advice}."
            )
        return tuple(named[templates])
    for template in templates:
        if not isinstance(template, str) or "{}" not in template:
            raise ValueError(
                f"a template needs {{}} where the text goes, as in 'a photo of a {{}}.'; got {template!r}."
            )
    if not templates:
        raise ValueError('templates is empty; give None for the bare text, or "paper".')
    return tuple(templates)


def class_names(name: str) -> tuple[str, ...]:
    """The class names of a data set, from assets/prompts.json, such as ``"pascal_context_59"``.

    Raises:
        ValueError: for an unknown name.
    """
    named = _prompts()["class_names"]
    if name not in named:
        raise ValueError(f"no class names are known for {name!r}, there is {', '.join(map(repr, named))}.")
    return tuple(named[name])


def reference_words() -> tuple[str, ...]:
    """Common things of many kinds: what a text is compared with to tell whether an image shows it at all."""
    return tuple(_prompts()["reference_words"])


def embed_texts(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    templates: str | Sequence[str] | None = "paper",
    truncate: bool = False,
    batch_size: int = 64,
    cache: EmbeddingCache | None = None,
) -> Tensor:
    """Embed texts: the unit length mean of the unit length embeddings of their prompts.

    Args:
        model: a CLIP of `transformers` with a text tower, in eval mode.
        tokenizer: its tokenizer.
        texts: T texts; the empty text is one too.
        templates: see :func:`resolve_templates`.
        truncate: cut prompts that are longer than the model's context instead of refusing them.
        batch_size: prompts per forward of the text tower.
        cache: looked up first and filled afterwards; None embeds anew.

    Returns:
        ``[T, C]``, unit length, float32 on the CPU.

    Raises:
        ValueError: for no text, a prompt longer than the context, or a model without text tower or in
            training mode.
        TypeError: for a text that is not a string.
    """
    prompts = resolve_templates(templates)
    _check(model, texts)
    if _lower_cases(model, tokenizer):
        texts, prompts = _lowered(texts), _lowered(prompts)
    distinct = list(dict.fromkeys(texts))
    if cache is None:
        found = dict(
            zip(distinct, _ensembles(model, tokenizer, distinct, prompts, truncate, batch_size), strict=True)
        )
    else:
        keys = cache.keys(model, tokenizer, templates=prompts, truncate=truncate, texts=distinct)
        read = {text: cache.read(key) for text, key in zip(distinct, keys, strict=True)}
        found = {text: embedding for text, embedding in read.items() if embedding is not None}
        missing = [text for text in distinct if text not in found]
        if missing:
            found |= zip(
                missing, _ensembles(model, tokenizer, missing, prompts, truncate, batch_size), strict=True
            )
        for text, key in zip(distinct, keys, strict=True):
            if read[text] is None:
                cache.write(key, found[text])
    return torch.stack([found[text] for text in texts])


def check_texts(
    model: nn.Module, tokenizer: Any, texts: Sequence[str], *, templates: str | Sequence[str] | None = "paper"
) -> None:
    """Raise what :func:`embed_texts` would, without the work of embedding.

    Raises:
        ValueError: see :func:`embed_texts`.
        TypeError: for a text that is not a string.
    """
    prompts = resolve_templates(templates)
    _check(model, texts)
    if _lower_cases(model, tokenizer):
        texts, prompts = _lowered(texts), _lowered(prompts)
    _prompt_ids(model, tokenizer, texts, prompts, truncate=False)


def context_length(model: nn.Module, tokenizer: Any) -> int:
    """The most tokens that a prompt may take, start and end tokens included."""
    config = cast(Any, model.config).text_config
    positions = int(config.max_position_embeddings)
    if _family(model) == "altclip":  # RoBERTa counts its positions from behind the padding's
        positions -= int(config.pad_token_id) + 1
    return min(positions, int(tokenizer.model_max_length))


def reads_padding(model: nn.Module) -> bool:
    """Whether the text tower pools the last position of the padded prompt, so that no token stands for it."""
    return _family(model) in _PADDING_IS_READ


def _lower_cases(model: nn.Module, tokenizer: Any) -> bool:
    """Whether the texts were lower-case in training, by a setting that not every tokenizer class obeys.

    The fixed resolutions of SigLIP 2 say so in the settings of a tokenizer of Gemma, whose class does not.
    """
    return reads_padding(model) and bool(tokenizer.init_kwargs.get("do_lower_case"))


def _lowered(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(text.lower() for text in texts)


def _ensembles(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    templates: Sequence[str],
    truncate: bool,
    batch_size: int,
) -> Tensor:
    """T texts -> ``[T, C]``: every prompt once, the longest first, so that a batch holds equal lengths."""
    ids = _prompt_ids(model, tokenizer, texts, templates, truncate=truncate)
    width = None if _family(model) in _PADDING_IS_IRRELEVANT else context_length(model, tokenizer)
    sums: Tensor | None = None
    for owners, batch, mask in _batches(ids, len(templates), batch_size, width, tokenizer.pad_token_id or 0):
        unit = _forward(model, batch, None if reads_padding(model) else mask)
        sums = torch.zeros(len(texts), unit.shape[1]) if sums is None else sums
        sums.index_add_(0, owners, unit)
    assert sums is not None  # there is a text and a template
    return unit_length(sums)


def _prompt_ids(
    model: nn.Module, tokenizer: Any, texts: Sequence[str], templates: Sequence[str], *, truncate: bool
) -> list[list[int]]:
    """Token ids of every text in every template, texts outermost, each within the context."""
    limit = context_length(model, tokenizer)
    ids = _tokenize(tokenizer, [template.replace("{}", text) for text in texts for template in templates])
    longest = max(range(len(ids)), key=lambda number: len(ids[number]))
    if len(ids[longest]) > limit and not truncate:
        text, template = texts[longest // len(templates)], templates[longest % len(templates)]
        raise ValueError(
            f"the text {_shortened(text)!r} takes {len(ids[longest])} tokens in the prompt {template!r}, but "
            f"the model reads at most {limit}; shorten it, or, in Python, embed it with truncate=True to cut "
            "its end off."
        )
    return [prompt if len(prompt) <= limit else _cut(prompt, limit, tokenizer) for prompt in ids]


def _tokenize(tokenizer: Any, prompts: list[str]) -> list[list[int]]:
    encoded = tokenizer(prompts, padding=False, truncation=False, return_attention_mask=False, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


def _cut(ids: list[int], limit: int, tokenizer: Any) -> list[int]:
    """The first tokens of a prompt and its end token, which CLIP pools at, where the tokenizer adds one."""
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
    return [*ids[: limit - 1], ids[-1]] if ids[-1] in ends else ids[:limit]


def _batches(
    ids: Sequence[list[int]], templates: int, batch_size: int, width: int | None, padding: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """In batches: number of each prompt's text ``[P]``, padded ids ``[P, L]`` and their mask ``[P, L]``."""
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]), reverse=True)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        rows = [torch.tensor(ids[number], dtype=torch.long) for number in chosen]  # none for an empty text
        batch = pad_sequence(rows, batch_first=True, padding_value=padding)
        lengths = torch.tensor([len(row) for row in rows])
        if width is not None:
            batch = nn.functional.pad(batch, (0, width - batch.shape[1]), value=padding)
        mask = (torch.arange(batch.shape[1]) < lengths[:, None]).long()
        yield torch.tensor(chosen) // templates, batch, mask


@torch.inference_mode()
def _forward(model: nn.Module, ids: Tensor, mask: Tensor | None) -> Tensor:
    """Unit length embeddings ``[P, C]`` of token ids ``[P, L]``, float32 on the CPU."""
    device = next(model.parameters()).device
    mask = None if mask is None else mask.to(device)
    features = model.get_text_features(input_ids=ids.to(device), attention_mask=mask)  # type: ignore[operator]
    return unit_length(features.pooler_output.float()).cpu()


def _family(model: nn.Module) -> str:
    return str(cast(Any, model.config).model_type)


def _check(model: nn.Module, texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"texts must be a list of strings, got {_shortened(repr(texts))}.")
    if not texts:
        raise ValueError("no text was given; give one or more.")
    if not hasattr(model, "get_text_features"):
        raise ValueError(
            f"{type(model).__name__} has no text tower; load the full CLIP, or give embeddings for the texts."
        )
    if model.training:
        raise ValueError(
            "the model is in training mode, where dropout changes embeddings; call model.eval() first."
        )


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"


@cache
def _prompts() -> dict[str, dict[str, list[str]]]:
    text = files("clip_surgery_hub").joinpath("assets", "prompts.json").read_text(encoding="utf-8")
    prompts: dict[str, dict[str, list[str]]] = json.loads(text)
    return prompts
