"""Prompt ensembles in trimmed, sorted batches, and from disk, against one padded text at a time."""

import os
import re
import tempfile
from collections.abc import Iterator

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from benchmarks.measure import Comparison, compare, seconds
from clip_surgery_hub.functional import unit_length
from clip_surgery_hub.hub import MODELS
from clip_surgery_hub.text.cache import EmbeddingCache
from clip_surgery_hub.text.embedding import class_names, embed_texts, resolve_templates

TEXTS = class_names("pascal_context_59")
TEMPLATES = resolve_templates("paper")
START, END, PADDING = 49406, 49407, 49407


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word and sign, as CLIP's own tokenizer has for nearly every common word."""
    words = sorted({word for line in (*TEMPLATES, *TEXTS) for word in re.findall(r"\w+|[^\w\s]+", line)})
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel({**vocabulary, "<start>": START, "<end>": END}, unk_token="<end>"))
    tokenizer.pre_tokenizer = Whitespace()
    ends = [("<start>", START), ("<end>", END)]
    tokenizer.post_processor = TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<end>", eos_token="<end>", model_max_length=77
    )


def full_clip() -> CLIPModel:
    """ViT-B/16 with random weights, with its text tower of 12 blocks, width 512."""
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(**MODELS["clip_vit_base_patch16.openai"].config)).eval()


@torch.inference_mode()
def one_padded_text(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, text: str) -> torch.Tensor:
    """The 85 prompts of a text, padded to 77 tokens: ``[C]``."""
    prompts = [template.replace("{}", text) for template in TEMPLATES]
    ids = tokenizer(prompts, padding="max_length", return_tensors="pt")
    features = model.get_text_features(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"])
    return unit_length(unit_length(features.pooler_output).mean(dim=0))


def rows() -> Iterator[Comparison]:
    """The rows of the table about texts."""
    model, tokenizer = full_clip(), word_tokenizer()
    slow = torch.stack([one_padded_text(model, tokenizer, text) for text in TEXTS[:2]])
    torch.testing.assert_close(embed_texts(model, tokenizer, TEXTS[:2]), slow, atol=1e-5, rtol=0)

    # All 59 in one go against one at a time: the padded way takes minutes, and each of its texts the same
    # time, so that it is measured on one text per pair and multiplied.
    cold = compare(
        f"{len(TEXTS)} texts x {len(TEMPLATES)} prompts, cold",
        lambda: embed_texts(model, tokenizer, TEXTS),
        "padded to 77 tokens, one text at a time",
        lambda: one_padded_text(model, tokenizer, TEXTS[0]),
        1 / 6,
        pairs=3,
    )
    yield Comparison(
        cold.what, cold.against, cold.ours, cold.baseline * len(TEXTS), cold.ratio / len(TEXTS), cold.goal
    )

    with tempfile.TemporaryDirectory() as folder:
        os.environ["CLIP_SURGERY_CACHE"] = folder
        embed_texts(model, tokenizer, TEXTS, cache=EmbeddingCache())
        fresh = EmbeddingCache()
        first = 1000 * seconds(lambda: embed_texts(model, tokenizer, TEXTS, cache=fresh))
        times = []
        for _ in range(9):
            fresh._memory.clear()  # so that every text is read from disk
            times.append(1000 * seconds(lambda: embed_texts(model, tokenizer, TEXTS, cache=fresh)))
        warm = sorted(times)[4]
    yield Comparison("the same, warm from disk", "50 ms", warm, 50, warm / 50, 1)
    what = "the same, first call on a model, whose weights are hashed once"
    yield Comparison(what, "cold", first, cold.ours, first / cold.ours, 1)
