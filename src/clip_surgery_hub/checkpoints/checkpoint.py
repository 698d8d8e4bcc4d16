"""What a checkpoint gives, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from clip_surgery_hub.pictures import Normalisation


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The parts of a checkpoint.

    Attributes:
        model: in eval mode.
        tokenizer: its tokenizer as `transformers` has it, or None where there is none.
        normalisation: what it wants done to pictures, or None where nothing says so.
        known_words: the words it was trained on, in lower case, or None where no ``concepts.json`` says so.
    """

    model: nn.Module
    tokenizer: Any
    normalisation: Normalisation | None
    known_words: frozenset[str] | None
