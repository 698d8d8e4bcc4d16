"""Templates, ensembles and trimmed batches, against one prompt at a time padded to the full context."""

import hashlib

import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
)

from clip_surgery_hub.functional import unit_length
from clip_surgery_hub.text.embedding import (
    class_names,
    context_length,
    embed_texts,
    resolve_templates,
)
from tests.support.text_families import OWN, TEXTS, family, one_by_one
from tests.support.tokenizers import letters_tokenizer, siglip_tokenizer

TEMPLATES_DIGEST = "f87d863dc7a96d46812438cf13a8a071e340f7be26222d17a0b61d41d28c0984"
NAMES_DIGEST = "ab420cdb1d0bae0b3ff1ac2c9a52023027d482f2be8588c4d8bf48b0b7d47f54"


@pytest.fixture(scope="module")
def tokenizer():
    return letters_tokenizer()


def test_the_paper_has_its_85_templates_and_59_class_names():
    templates, names = resolve_templates("paper"), class_names("pascal_context_59")
    assert (len(templates), len(set(templates)), len(names), len(set(names))) == (85, 85, 59, 59)
    assert templates[0] == "a bad photo of a {}." and templates[-1] == "this is one {} in the scene."
    assert all(template.count("{}") == 1 for template in templates)
    # The digests of the published lists, one entry per line.
    assert hashlib.sha256("\n".join(templates).encode()).hexdigest() == TEMPLATES_DIGEST
    assert hashlib.sha256("\n".join(names).encode()).hexdigest() == NAMES_DIGEST


def test_templates_may_be_none_or_your_own():
    assert resolve_templates(None) == ("{}",)
    assert resolve_templates(["a {}", "{}!"]) == ("a {}", "{}!")


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ("imagenet", r"no set of templates is called 'imagenet', there is 'paper'"),
        ("a photo of a {}.", r"for templates of your own give a list: \['a photo of a \{\}\.'\]"),
        (["a {}", "a photo"], r"needs \{\} where the text goes.*got 'a photo'"),
        ([], "templates is empty"),
    ],
)
def test_wrong_templates_are_named(templates, message):
    with pytest.raises(ValueError, match=message):
        resolve_templates(templates)


def test_unknown_class_names_are_refused():
    with pytest.raises(ValueError, match="no class names are known for 'coco'.*pascal_context_59"):
        class_names("coco")


def test_golden_text_embeddings_do_not_depend_on_the_padding(golden, golden_clip):
    """The published embeddings came from 77 tokens, padded with 0; here each prompt ends at its end token."""

    class Recorded:
        """A tokenizer that knows five texts only."""

        model_max_length, pad_token_id = 77, 0

        def __call__(self, prompts, **options):
            rows = golden["input_ids"][[int(prompt) for prompt in prompts]].tolist()
            return {"input_ids": [row[: row.index(599) + 1] for row in rows]}

    embeds = embed_texts(golden_clip, Recorded(), list("01234"), templates=None, batch_size=2)
    torch.testing.assert_close(embeds, unit_length(golden["text_embeds"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("templates", ["paper", None, OWN])
def test_ensembles_are_those_of_one_padded_prompt_at_a_time(tiny_clip, tokenizer, templates):
    embeds = embed_texts(tiny_clip, tokenizer, TEXTS, templates=templates, batch_size=7)
    slow = one_by_one(tiny_clip, tokenizer, TEXTS, resolve_templates(templates))
    assert embeds.dtype == torch.float32 and embeds.device.type == "cpu" and embeds.shape == (5, 32)
    torch.testing.assert_close(embeds, slow, atol=3e-6, rtol=0)
    torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(5))
    assert torch.equal(embeds[0], embeds[4])


@pytest.mark.parametrize("name", ["metaclip_2", "clipseg", "xclip", "altclip", "chinese_clip", "siglip"])
def test_every_family_gives_what_its_full_padding_gives(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, tokenizer = family(name)
    model.eval()
    embeds = embed_texts(model, tokenizer, TEXTS, templates=OWN, batch_size=4)
    torch.testing.assert_close(embeds, one_by_one(model, tokenizer, TEXTS, OWN), atol=3e-6, rtol=0)
    assert (embeds[0] - embeds[1]).norm() > 1e-3  # the texts do matter


def test_a_family_that_is_not_known_is_padded_to_its_context(tiny_clip, tokenizer, monkeypatch):
    lengths = []
    forward = tiny_clip.get_text_features

    def recording(input_ids, attention_mask):
        lengths.append(input_ids.shape[1])
        return forward(input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(tiny_clip, "get_text_features", recording)
    trimmed = embed_texts(tiny_clip, tokenizer, ["cat", "dog"], templates=None)
    monkeypatch.setattr(tiny_clip.config, "model_type", "another")
    padded = embed_texts(tiny_clip, tokenizer, ["cat", "dog"], templates=None)
    assert lengths == [5, 77]
    torch.testing.assert_close(trimmed, padded, atol=3e-6, rtol=0)


@pytest.fixture(scope="module")
def siglip():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return family("siglip")[0].eval()


@pytest.mark.parametrize("end", [True, False])
def test_texts_of_siglip_are_what_its_own_processor_gives(siglip, end):
    """Padded to the context, without mask: far from what the prompt alone, or a mask, would give."""
    tokenizer = siglip_tokenizer(end=end)
    tokens = tokenizer(TEXTS, padding="max_length", max_length=24, return_tensors="pt")
    assert set(tokens) == {"input_ids"} and tokens["input_ids"].shape == (5, 24)
    with torch.no_grad():
        theirs = unit_length(siglip.get_text_features(**tokens).pooler_output)
        ids = tokens["input_ids"][1:2]
        alone = siglip.get_text_features(ids[:, : 2 + end]).pooler_output
        mask = (torch.arange(24) < 2 + end)[None].long()
        masked = siglip.get_text_features(ids, attention_mask=mask).pooler_output
    ours = embed_texts(siglip, tokenizer, TEXTS, templates=None, batch_size=2)
    torch.testing.assert_close(ours, theirs, atol=3e-6, rtol=0)
    for other in (alone, masked):
        assert (unit_length(other)[0] - ours[1]).norm() > 0.05


def test_texts_of_siglip_are_padded_as_in_training_whatever_the_tokenizer_says(siglip):
    """A tokenizer of transformers without the published settings would pad on the left, or give a mask."""
    expected = embed_texts(siglip, siglip_tokenizer(), TEXTS, templates=OWN)
    other = siglip_tokenizer(padding_side="left")
    other.model_input_names = ["input_ids", "attention_mask"]
    assert torch.equal(embed_texts(siglip, other, TEXTS, templates=OWN), expected)


def test_texts_of_siglip_are_lower_case_where_the_tokenizer_is_set_so_but_does_not_do_it(siglip):
    """As for the fixed resolutions of SigLIP 2, whose tokenizer has a class of transformers that does not."""
    backend = Tokenizer.from_str(siglip_tokenizer().backend_tokenizer.to_str())
    backend.normalizer = None
    own = ["a Photo of a {}.", "{}"]
    embeds = []
    for options in ({"do_lower_case": True}, {}):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="</s>", **options)
        assert tokenizer("CAT")["input_ids"] != tokenizer("cat")["input_ids"]
        embeds += [embed_texts(siglip, tokenizer, ["CAT", "cat"], templates=own)]
    lower = embed_texts(siglip, tokenizer, ["cat"], templates=["a photo of a {}.", "{}"])
    torch.testing.assert_close(embeds[0], lower.expand(2, -1), atol=3e-6, rtol=0)
    assert (embeds[1][0] - embeds[1][1]).norm() > 1e-2


@pytest.mark.parametrize("end", [True, False])
def test_texts_of_siglip_are_cut_as_its_tokenizer_cuts(siglip, end):
    tokenizer, long = siglip_tokenizer(end=end), "a photo of the large old Cat " * 5
    assert context_length(siglip, tokenizer) == 24
    tokens = tokenizer([long], padding="max_length", max_length=24, truncation=True, return_tensors="pt")
    assert (tokens["input_ids"][0, -1] == 1) == end
    with pytest.raises(ValueError, match=rf"takes {35 + end} tokens .* at most 24"):
        embed_texts(siglip, tokenizer, [long], templates=None)
    cut = embed_texts(siglip, tokenizer, [long], templates=None, truncate=True)
    with torch.no_grad():
        features = siglip.get_text_features(**tokens).pooler_output
    torch.testing.assert_close(cut, unit_length(features), atol=3e-6, rtol=0)


def test_prompts_are_tokenized_once_and_embedded_longest_first(tiny_clip, tokenizer, monkeypatch):
    shapes = []
    forward = tiny_clip.get_text_features

    def recording(input_ids, attention_mask):
        assert torch.is_inference_mode_enabled()
        shapes.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(tiny_clip, "get_text_features", recording)
    embed_texts(tiny_clip, tokenizer, ["aaaa", "b", "ccc", "dd", "b"], templates=None, batch_size=2)
    assert shapes == [(2, 6), (2, 4)]


def test_embeddings_can_take_part_in_training(tiny_clip, tokenizer):
    """Made under inference_mode, but not inference tensors."""
    embeds = embed_texts(tiny_clip, tokenizer, ["cat"], templates=None)
    weight = torch.ones(32, requires_grad=True)
    (embeds @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, embeds[0])


def test_a_half_precision_model_gives_float32_near_the_exact_ones(tiny_clip, tokenizer):
    exact = embed_texts(tiny_clip, tokenizer, ["cat", "dog"], templates=OWN)
    rounded = embed_texts(tiny_clip.bfloat16(), tokenizer, ["cat", "dog"], templates=OWN)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=2e-2, rtol=0)


def test_a_text_longer_than_the_context_is_named_with_its_length(tiny_clip, tokenizer):
    long = "abcdefghij " * 8
    with pytest.raises(
        ValueError, match=r"'abcdefghij.*…' takes 82 tokens in the prompt '\{\}'.*at most 77.*truncate"
    ):
        embed_texts(tiny_clip, tokenizer, ["cat", long], templates=None)
    cut = embed_texts(tiny_clip, tokenizer, ["cat", long], templates=None, truncate=True)
    ids = tokenizer(long, truncation=True, max_length=77, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        features = tiny_clip.get_text_features(input_ids=ids).pooler_output
    assert ids.shape[1] == 77 and ids[0, -1] == 99
    torch.testing.assert_close(cut[1:], features / features.norm(), atol=3e-6, rtol=0)


def test_contexts_follow_the_tower_and_the_tokenizer(tiny_clip):
    assert context_length(tiny_clip, letters_tokenizer()) == 77
    assert context_length(tiny_clip, letters_tokenizer(limit=20)) == 20
    assert context_length(*family("altclip")) == 48 - 2  # RoBERTa's first position is the padding's, plus one
    assert context_length(*family("chinese_clip")) == 48


def test_what_cannot_be_embedded_is_refused(tiny_clip, tokenizer):
    with pytest.raises(ValueError, match="no text was given"):
        embed_texts(tiny_clip, tokenizer, [])
    with pytest.raises(TypeError, match="list of strings, got 'cat'"):
        embed_texts(tiny_clip, tokenizer, "cat")
    with pytest.raises(TypeError, match=r"list of strings, got \['cat', 3\]"):
        embed_texts(tiny_clip, tokenizer, ["cat", 3])
    with pytest.raises(ValueError, match="CLIPVisionModel has no text tower"):
        embed_texts(tiny_clip.vision_model, tokenizer, ["cat"])
    with pytest.raises(ValueError, match=r"training mode.*model.eval\(\)"):
        embed_texts(tiny_clip.train(), tokenizer, ["cat"])


def test_the_published_clip_pools_at_the_highest_id(tokenizer):
    """Checkpoints of OpenAI name 2 as their end token; `transformers` then pools at the highest id."""
    config = AutoConfig.for_model("clip", projection_dim=16)
    config.text_config.update({"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2})
    config.text_config.update({"vocab_size": 100, "eos_token_id": 2, "pad_token_id": 1})
    config.vision_config.update({"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config).eval()
    embeds = embed_texts(model, tokenizer, TEXTS, templates=OWN, batch_size=4)
    torch.testing.assert_close(embeds, one_by_one(model, tokenizer, TEXTS, OWN), atol=3e-6, rtol=0)
