"""Which checkpoints can be named, and the way from a name to a `CLIPSurgery`.

Names are ``architecture.tag`` as in timm: ``clip_vit_base_patch16.openai``. A new checkpoint is one `Entry`,
registered with `register_model`. This module loads neither torch nor transformers until a model is created.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from clip_surgery_hub.checkpoints import Checkpoint
    from clip_surgery_hub.model import CLIPSurgery


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One checkpoint that can be named.

    Attributes:
        name: ``architecture.tag``, letters, digits, ``_`` and ``-``.
        source: where the files are: a hub id ``owner/name``, or a folder.
        about: one line for people.
        config: arguments of `transformers.CLIPConfig` for a model with random weights, whose pictures are
            normalised as OpenAI's are; None: whatever the files at `source` say.

    Raises:
        ValueError: the name is not of the form ``architecture.tag``, or the source is empty.
    """

    name: str
    source: str
    about: str = ""
    config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+\.[\w.-]+", self.name):
            raise ValueError(
                f"a model's name is 'architecture.tag', such as 'clip_vit_tiny.scenes', not {self.name!r}"
            )
        if not self.source:
            raise ValueError(f"the entry {self.name!r} needs a source: a hub id 'owner/name' or a folder")


def _openai_clip(*, patch: int, pixels: int, width: int, layers: int, text_width: int) -> dict[str, Any]:
    """Configuration of a CLIP by OpenAI: heads of 64 channels, an MLP of four widths, 77 tokens of 49408."""
    projection = text_width  # equal in every ViT that OpenAI published
    return {
        "projection_dim": projection,
        "vision_config": {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 64,
            "patch_size": patch,
            "image_size": pixels,
            "projection_dim": projection,
            "hidden_act": "quick_gelu",
        },
        "text_config": {
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "num_hidden_layers": 12,
            "num_attention_heads": text_width // 64,
            "max_position_embeddings": 77,
            "vocab_size": 49408,
            "projection_dim": projection,
            "hidden_act": "quick_gelu",
        },
    }


_ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            name="clip_vit_tiny.scenes",
            source=str(Path(__file__).with_name("assets") / "clip_vit_tiny.scenes"),
            about="trained on drawn scenes, comes with the package and needs no network",
        ),
        Entry(
            name="clip_vit_base_patch32.openai",
            source="openai/clip-vit-base-patch32",
            about="OpenAI's ViT-B/32, 224 px",
            config=_openai_clip(patch=32, pixels=224, width=768, layers=12, text_width=512),
        ),
        Entry(
            name="clip_vit_base_patch16.openai",
            source="openai/clip-vit-base-patch16",
            about="OpenAI's ViT-B/16, 224 px: the one of the paper",
            config=_openai_clip(patch=16, pixels=224, width=768, layers=12, text_width=512),
        ),
        Entry(
            name="clip_vit_large_patch14.openai",
            source="openai/clip-vit-large-patch14",
            about="OpenAI's ViT-L/14, 224 px",
            config=_openai_clip(patch=14, pixels=224, width=1024, layers=24, text_width=768),
        ),
        Entry(
            name="clip_vit_large_patch14_336.openai",
            source="openai/clip-vit-large-patch14-336",
            about="OpenAI's ViT-L/14, 336 px",
            config=_openai_clip(patch=14, pixels=336, width=1024, layers=24, text_width=768),
        ),
    )
}

MODELS: Mapping[str, Entry] = MappingProxyType(_ENTRIES)
"""The registered entries by name, read-only; `register_model` adds to it."""


def register_model(entry: Entry) -> None:
    """Make a checkpoint available by name.

    Raises:
        ValueError: an entry of that name is registered already.
    """
    if entry.name in _ENTRIES:
        raise ValueError(
            f"the name {entry.name!r} is taken by {_ENTRIES[entry.name].source!r}; choose another tag, "
            f"such as '{entry.name}-2'"
        )
    _ENTRIES[entry.name] = entry


def list_models(filter: str = "") -> list[str]:
    """Names of the registered models, sorted.

    Args:
        filter: a glob pattern such as ``"*patch16*"`` or ``"*.openai"``; a bare architecture gives all its
            tags. Empty: every name.
    """
    patterns = (filter or "*", f"{filter}.*")
    return sorted(
        name for name in _ENTRIES if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    )


def resolve(name: str) -> str:
    """Where the files of a model are: a folder on this machine, or a hub id.

    Args:
        name: a registered name, an existing folder, or a hub id ``owner/name``.

    Raises:
        ValueError: none of the three; near names are suggested.
    """
    if name in _ENTRIES:
        return _ENTRIES[name].source
    if name and Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return name
    near = difflib.get_close_matches(name, _ENTRIES, n=3, cutoff=0.5)
    advice = (
        f"did you mean {' or '.join(map(repr, near))}?" if near else "list_models() gives the known names"
    )
    raise ValueError(f"no model is called {name!r}, and no folder; {advice} (a hub id is 'owner/name')")


def create_model(
    name: str,
    *,
    pretrained: bool = True,
    method: str = "clip_surgery",
    depth: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> CLIPSurgery:
    """Create a model by its name.

    Args:
        name: a registered name (see `list_models`), a folder, or a hub id.
        pretrained: False gives the architecture with random weights, drawn from torch's generator. OpenAI's
            architectures need no network then, but have no tokenizer: give embeddings in place of texts.
        method: how the vision tower is read, see `clip_surgery_hub.methods.METHODS`.
        depth: how many of the last blocks are operated; None: the method's own depth.
        device: None: where `CLIPSurgery.from_pretrained` would put it.
        dtype: None: float32.

    Raises:
        ValueError: unknown name, unknown method or a depth out of range.
        OSError: the files cannot be reached.
    """
    import torch

    from clip_surgery_hub.model import CLIPSurgery

    dtype = dtype or torch.float32
    if pretrained:
        return CLIPSurgery.from_pretrained(name, method=method, depth=depth, device=device, dtype=dtype)
    parts = _untrained(name)
    parts.model.to(dtype)
    return CLIPSurgery(
        parts.model,
        name=name,
        tokenizer=parts.tokenizer,
        normalisation=parts.normalisation,
        method=method,
        depth=depth,
        device=device,
    )


def _untrained(name: str) -> Checkpoint:
    """The checkpoint with random weights: from the configuration in code, else from its files."""
    from clip_surgery_hub.checkpoints import Checkpoint, load_checkpoint

    source = resolve(name)
    config = _ENTRIES[name].config if name in _ENTRIES else None
    if config is None:
        found = load_checkpoint(source)
        return replace(found, model=type(found.model)(found.model.config), known_words=None)
    from transformers import CLIPConfig, CLIPModel
    from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    from clip_surgery_hub.pictures import Normalisation

    normalisation = Normalisation(tuple(OPENAI_CLIP_MEAN), tuple(OPENAI_CLIP_STD))
    return Checkpoint(CLIPModel(CLIPConfig(**config)), None, normalisation, None)
