"""The tokens of a caption, where each stands in it, and the words that they make up."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["END", "Token", "Word", "tokens_of", "words_of"]

END = "[end]"  # what the end token is called among the words

# Scripts without spaces between words: Thai to Myanmar, Khmer, kana and CJK ideographs. What a token holds of
# them is a word of its own.
_UNSPACED: tuple[tuple[int, int], ...] = (
    (0x0E00, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9D),
    (0x20000, 0x3FFFF),
)

# Over one code per sign, see `_kind`: a flag; letters, also with apostrophe or hyphen between them; any other
# sign with its marks and what is joined to it.
_UNIT = re.compile(r"RR|L[LM]*(?:QL[LM]*)*|[^S](?:J[^S]|M)*")


@dataclass(frozen=True)
class Token:
    """A token of a caption.

    Attributes:
        text: as the tokenizer's vocabulary writes it, such as ``"wheel</w>"``, ``"▁wheel"`` or ``"##eel"``.
        id: its number in the vocabulary.
        span: the characters of the caption that it stands for, ``(first, behind the last)``; several tokens
            may share a character of several bytes. Empty for the start and the end token.
    """

    text: str
    id: int
    span: tuple[int, int]


@dataclass(frozen=True)
class Word:
    """A word of a caption, or a sign of its own such as a comma or an emoji, or its end token.

    Attributes:
        text: as the caption has it; `END` for the end token.
        span: its characters in the caption, ``(first, behind the last)``; empty for the end token.
        tokens: the numbers of the tokens that make it up, one after another.
        is_end: whether it is the end token.
    """

    text: str
    span: tuple[int, int]
    tokens: range
    is_end: bool = False


def tokens_of(caption: str, tokenizer: Any, *, limit: int) -> tuple[Token, ...]:
    """The tokens of a caption, the start token first and the end token last.

    Args:
        caption: a sentence or more.
        tokenizer: of `transformers`, one that knows the characters behind its tokens.
        limit: the most tokens that the text tower reads, start and end token included.

    Raises:
        TypeError: for a caption that is not a string.
        ValueError: for a caption that is empty, too long, or holds a start or end token itself, or a
            tokenizer that does not know the characters or sets no start and end token.
    """
    if not isinstance(caption, str):
        raise TypeError(f"the caption must be one string, got {type(caption).__name__}.")
    if not caption.strip():
        raise ValueError("the caption is empty; give a sentence.")
    kind = type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{kind} does not tell which characters a token stands for; give a fast tokenizer of "
            "transformers."
        )
    encoded = tokenizer(
        caption, truncation=False, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
    )
    ids, special = list(encoded["input_ids"]), list(encoded["special_tokens_mask"])
    if special[:1] != [1] or special[-1:] != [1] or sum(special) != 2:
        raise ValueError(
            f"{kind} must set one start and one end token around a caption, got {sum(special)} special "
            "tokens."
        )
    if len(ids) > limit:
        raise ValueError(f"the caption takes {len(ids)} tokens, the model reads at most {limit}; shorten it.")
    if len(ids) == 2:
        raise ValueError(f"the tokenizer finds nothing to read in the caption {caption!r}; give a sentence.")
    texts = tokenizer.convert_ids_to_tokens(ids)
    inner = [_trimmed(caption, *span) for span in encoded["offset_mapping"][1:-1]]
    for number, (start, stop) in enumerate(inner, start=1):
        if ids[number] in (ids[0], ids[-1]):
            raise ValueError(
                f"{caption[start:stop]!r} in the caption is read as {texts[number]!r}, which starts or ends "
                "a sentence; take it out."
            )
    spans = [(0, 0), *inner, (len(caption), len(caption))]
    return tuple(map(Token, texts, ids, spans))


def words_of(caption: str, tokens: Sequence[Token]) -> tuple[Word, ...]:
    """Merge tokens to words, in the order of the caption, the end token last.

    Tokens belong to one word if they share a character, or a run of letters (also with an apostrophe or a
    hyphen inside), or a sign and its marks. A word covers these whole, also where the tokenizer dropped a
    part. In scripts without spaces, what a token holds is a word.

    Args:
        caption: what was tokenized.
        tokens: of `tokens_of`.
    """
    units = [match.span() for match in _UNIT.finditer("".join(map(_kind, caption)))]
    words: list[tuple[list[int], int, int]] = []  # tokens, first unit, last unit
    for number, token in enumerate(tokens[1:-1], start=1):
        start, stop = token.span
        first = next((index for index, unit in enumerate(units) if unit[1] > start), len(units) - 1)
        last = max(first, sum(unit[0] < stop for unit in units) - 1)
        if words and first <= words[-1][2]:
            words[-1][0].append(number)
            words[-1] = (words[-1][0], words[-1][1], max(last, words[-1][2]))
        else:
            words.append(([number], first, last))
    merged = [
        Word(caption[units[first][0] : units[last][1]], (units[first][0], units[last][1]), _range(numbers))
        for numbers, first, last in words
    ]
    end = Word(END, (len(caption), len(caption)), range(len(tokens) - 1, len(tokens)), is_end=True)
    return (*merged, end)


def _range(numbers: Sequence[int]) -> range:
    return range(numbers[0], numbers[-1] + 1)


def _trimmed(caption: str, start: int, stop: int) -> tuple[int, int]:
    """A span without white space at its ends: some tokenizers count the space to the word after it."""
    while start < stop and caption[start].isspace():
        start += 1
    while start < stop and caption[stop - 1].isspace():
        stop -= 1
    return start, stop


def _kind(sign: str) -> str:
    """The code of a sign in `_UNIT`.

    S space, L letter or digit, U one of a script without spaces, M mark, J joiner, Q apostrophe or hyphen,
    R half a flag, P any other.
    """
    number = ord(sign)
    if sign.isspace():
        return "S"
    if sign == "\N{ZERO WIDTH JOINER}":
        return "J"
    if unicodedata.category(sign).startswith("M") or 0x1F3FB <= number <= 0x1F3FF:  # skin colors of emoji
        return "M"
    if 0x1F1E6 <= number <= 0x1F1FF:  # two of them make a flag
        return "R"
    if sign in "'-\N{RIGHT SINGLE QUOTATION MARK}":
        return "Q"
    if sign.isalnum() or sign == "_":
        return "U" if any(first <= number <= last for first, last in _UNSPACED) else "L"
    return "P"
