"""What a checkpoint gives, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from clip_surgery_hub.checkpoints.saved_surgery import SavedSurgery
from clip_surgery_hub.pictures import Normalisation


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The parts of a checkpoint.

    Attributes:
        model: in eval mode.
        tokenizer: its tokenizer as `transformers` has it, or None where there is none.
        normalisation: what it wants done to pictures, or None where nothing says so.
        known_words: the words it was trained on, in lower case, or None where no ``concepts.json`` says so.
        surgery: how it wants to be read, as its ``clip_surgery.json`` says.
        companions: the content of small files that are kept as they are when the model is saved, by name.
    """

    model: nn.Module
    tokenizer: Any
    normalisation: Normalisation | None
    known_words: frozenset[str] | None
    surgery: SavedSurgery = SavedSurgery()
    companions: Mapping[str, bytes] = field(default_factory=dict)
