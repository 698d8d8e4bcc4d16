"""Tokenizers with small vocabularies: one per way in which text towers are fed."""

import string

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTokenizer, PreTrainedTokenizerFast


def letters_tokenizer(limit=77):
    """The tokenizer of CLIP with one token per letter: 98 starts, 99 ends a prompt and pads it."""
    letters = string.ascii_lowercase + string.digits + ".-"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    vocabulary |= {"<|startoftext|>": 98, "<|endoftext|>": 99}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=limit)


def words_tokenizer(start, end, padding, limit=40):
    """Whole words between a start and an end token, as the BERT and XLM-R families want it."""
    words = "a photo of there is the in large old scene cat potted plant tv monitor . [UNK]".split()
    vocabulary = {word: number for number, word in enumerate(words, start=4)}
    vocabulary |= {"[START]": start, "[END]": end, "[PAD]": padding}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[START] $A [END]", special_tokens=[("[START]", start), ("[END]", end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", eos_token="[END]", model_max_length=limit
    )


def siglip_tokenizer(*, end=True, limit=10**30, **options):
    """Lower-case words behind which an end token pads, as in SigLIP; or none, and padding of its own."""
    words = "a photo of there is the in large old scene cat potted plant tv monitor . <unk>".split()
    vocabulary = {word: number for number, word in enumerate(words, start=4)} | {"<pad>": 0, "</s>": 1}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if end:
        backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="</s>",
        pad_token="</s>" if end else "<pad>",
        unk_token="<unk>",
        model_max_length=limit,
        model_input_names=["input_ids"],
        **options,
    )
