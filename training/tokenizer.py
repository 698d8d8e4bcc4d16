"""The tokenizer of the bundled CLIP: a small byte-level BPE of CLIP's own kind, learnt from captions."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


def learn_tokenizer(texts: Iterable[str], *, vocabulary: int, context: int) -> CLIPTokenizer:
    """Learn merges from texts and give them to `transformers`' CLIP tokenizer.

    The alphabet holds every byte, alone and at a word's end, so that any text at all can be encoded.
    """
    rules = CLIPTokenizer()  # for its normalizer and its way to cut words
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.normalizer = rules.backend_tokenizer.normalizer
    learner.pre_tokenizer = rules.backend_tokenizer.pre_tokenizer
    letters = sorted(ByteLevel.alphabet())
    room = vocabulary - 2 - len(letters) * 2
    trainer = BpeTrainer(
        vocab_size=room + 2 * len(letters),
        end_of_word_suffix="</w>",
        initial_alphabet=letters,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    pieces = list(dict.fromkeys(pieces))[: vocabulary - 2]
    ids = {piece: index for index, piece in enumerate([*pieces, START, END])}
    merges = [merge for merge in merges if "".join(merge) in ids]
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=context)
