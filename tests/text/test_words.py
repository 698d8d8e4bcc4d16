"""Captions cut into tokens and merged to words again, by each kind of tokenizer that text towers have."""

import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers, processors
from transformers import BertTokenizer, CLIPTokenizer, XLMRobertaTokenizer

from clip_surgery_hub.text.words import END, tokens_of, words_of


def bytes_tokenizer() -> Any:
    """The tokenizer of CLIP, a token per byte but for "an", "the" and "wh"."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "n</w>"), ("t", "h"), ("th", "e</w>"), ("w", "h")]
    pieces = [*alphabet, *(f"{sign}</w>" for sign in alphabet), *map("".join, merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=merges)


def word_pieces_tokenizer() -> Any:
    """The tokenizer of BERT: "dog" in two pieces, Chinese signs one by one, anything else unknown."""
    pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] 猫 和 狗 a do ##g ##s on grass , . cafe".split()
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})


def sentence_pieces_tokenizer() -> Any:
    """The tokenizer of XLM-R: pieces that begin with their space, one of two Chinese signs."""
    pieces = [*string.ascii_letters, *"ßéह", *".,'’-", "▁", "▁an", "▁do", "猫", "狗和", "狗"]
    scores = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return XLMRobertaTokenizer(vocab=[*scores, *((piece, -1.0) for piece in pieces)])


TOKENIZERS = {"clip": bytes_tokenizer, "bert": word_pieces_tokenizer, "xlm-r": sentence_pieces_tokenizer}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        (
            "A ferris wheel, an owl and two\n dogs  on grass.",
            "A|ferris|wheel|,|an|owl|and|two|dogs|on|grass|.",
        ),
        (" the well-known dog's 'bone' isn’t - there ", "the|well-known|dog's|'|bone|'|isn’t|-|there"),
        ("Straße, café, cafe\u0301 हिन्दी 개", "Straße|,|café|,|cafe\u0301|हिन्दी|개"),
        ("🐶 🐶🏽 👨\u200d👩\u200d👧 ❤\ufe0f", "🐶|🐶🏽|👨\u200d👩\u200d👧|❤\ufe0f"),
        ("dog 🇫🇷 dog", "dog|🇫🇷|dog"),
    ],
    ids=["English", "apostrophes and hyphens", "marks", "emoji", "flag"],
)
def test_tokens_merge_to_the_words_of_the_caption(tokenizer: Any, caption: str, words: str) -> None:
    tokens = tokens_of(caption, tokenizer, limit=500)
    *merged, end = words_of(caption, tokens)
    assert [word.text for word in merged] == words.split("|")
    assert all(word.text == caption[slice(*word.span)] and not word.is_end for word in merged)
    assert end.text == END and end.is_end and list(end.tokens) == [len(tokens) - 1]


def test_scripts_without_spaces_have_a_word_per_token() -> None:
    caption = "猫狗和a狗."
    found = {}
    for name, make in TOKENIZERS.items():
        words = words_of(caption, tokens_of(caption, make(), limit=500))
        found[name] = [word.text for word in words[:-1]]
    assert found["clip"] == found["bert"] == ["猫", "狗", "和", "a", "狗", "."]
    assert found["xlm-r"] == ["猫", "狗和", "a", "狗", "."]


def test_a_word_has_the_tokens_that_stand_for_its_characters() -> None:
    caption = "the whale 狗"
    tokens = tokens_of(caption, bytes_tokenizer(), limit=500)
    texts = [token.text for token in tokens]
    assert texts[:7] == ["<|startoftext|>", "the</w>", "wh", "a", "l", "e</w>", texts[6]] and len(texts) == 10
    spans = [token.span for token in tokens]
    assert spans == [(0, 0), (0, 3), (4, 6), (6, 7), (7, 8), (8, 9), *[(10, 11)] * 3, (11, 11)]
    assert [word.tokens for word in words_of(caption, tokens)] == [
        range(1, 2),
        range(2, 6),
        range(6, 9),
        range(9, 10),
    ]
    assert tokens[1].id == bytes_tokenizer().convert_tokens_to_ids("the</w>")


BYTES = bytes_tokenizer()
SIGNS = "ab'-., 3é\u0301\u200d🐶🏽🇫🇷猫の한ह\u093f\ufe0f\n"


@settings(deadline=None)  # the machine may be busy
@given(st.text(st.sampled_from(SIGNS), min_size=1, max_size=20).filter(str.strip))
def test_words_hold_every_character_and_every_token_once(caption: str) -> None:
    tokens = tokens_of(caption, BYTES, limit=500)
    words = words_of(caption, tokens)
    held = [place for word in words for place in range(*word.span)]
    assert held == sorted(set(held))
    assert {place for place, sign in enumerate(caption) if not sign.isspace()} == set(held)
    assert [number for word in words for number in word.tokens] == list(range(1, len(tokens)))
    for word in words:
        for number in word.tokens:
            start, stop = tokens[number].span
            assert word.span[0] <= start and stop <= word.span[1]


def test_what_cannot_be_read_is_refused() -> None:
    clip = bytes_tokenizer()
    with pytest.raises(TypeError, match=r"^the caption must be one string, got list\.$"):
        tokens_of(["a dog"], clip, limit=77)  # type: ignore[arg-type]
    for empty in ("", " \n\t"):
        with pytest.raises(ValueError, match=r"^the caption is empty; give a sentence\.$"):
            tokens_of(empty, clip, limit=77)
    assert len(tokens_of("dog " * 25, clip, limit=77)) == 77
    with pytest.raises(
        ValueError, match=r"^the caption takes 80 tokens, the model reads at most 77; shorten"
    ):
        tokens_of("dog " * 26, clip, limit=77)
    with pytest.raises(
        ValueError, match=r"^'<\|endoftext\|>' in the caption is read as '<\|endoftext\|>', .* take it out\.$"
    ):
        tokens_of("a <|endoftext|> b", clip, limit=77)
    with pytest.raises(ValueError, match=r"finds nothing to read in the caption '\\x00'"):
        tokens_of("\x00", word_pieces_tokenizer(), limit=77)


def test_tokenizers_that_do_not_tell_what_is_needed_are_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match=r"^Slow does not tell which characters .* a fast tokenizer"):
        tokens_of("a dog", Slow(), limit=77)
    bare = bytes_tokenizer()
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    with pytest.raises(ValueError, match=r"must set one start and one end token .* got 0 special tokens"):
        tokens_of("a dog", bare, limit=77)
