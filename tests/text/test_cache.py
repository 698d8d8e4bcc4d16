"""The embedding cache: what is found again, what is not, and what damage and other processes do to it."""

import copy
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clip_surgery_hub.text.cache import SAMPLES, EmbeddingCache, cache_folder, clear_text_cache
from clip_surgery_hub.text.embedding import embed_texts
from tests.support.tokenizers import letters_tokenizer


@pytest.fixture
def tokenizer():
    return letters_tokenizer()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIP_SURGERY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def embed(tiny_clip, tokenizer, folder):
    """Embed with a cache, and count the prompts that went through the text tower."""

    class Embed:
        model, words, prompts = tiny_clip, tokenizer, 0

        def __call__(self, texts, *, templates=None, cache, **options):
            before = self.prompts
            embeds = embed_texts(self.model, self.words, texts, templates=templates, cache=cache, **options)
            return embeds, self.prompts - before

    embedding, forward = Embed(), tiny_clip.get_text_features

    def counting(input_ids, attention_mask):
        embedding.prompts += len(input_ids)
        return forward(input_ids=input_ids, attention_mask=attention_mask)

    tiny_clip.get_text_features = counting
    return embedding


def entries(folder):
    return sorted(folder.rglob("*.safetensors"))


def test_a_text_is_embedded_once_and_found_in_memory_and_on_disk(embed, folder):
    cache = EmbeddingCache()
    first, prompts = embed(["cat", "dog", "cat"], cache=cache)
    assert prompts == 2 and len(entries(folder)) == 2
    for again in (cache, EmbeddingCache()):
        found, prompts = embed(["dog", "cat"], cache=again)
        assert prompts == 0 and torch.equal(found, first[[1, 0]])
    _, prompts = embed(["dog", "cow"], cache=EmbeddingCache())
    assert prompts == 1
    plain, prompts = embed(["cat", "dog", "cat"], cache=None)
    assert prompts == 2
    torch.testing.assert_close(first, plain, atol=3e-6, rtol=0)


def test_memory_alone_serves_when_the_files_are_gone_and_makes_room(embed, folder):
    cache = EmbeddingCache(memory_entries=2)
    embed(["cat", "dog", "cow"], cache=cache)
    for entry in entries(folder):
        entry.unlink()
    assert embed(["dog", "cow"], cache=cache)[1] == 0
    assert embed(["cat"], cache=cache)[1] == 1


def test_what_the_cache_gives_out_can_be_written_to(embed):
    cache = EmbeddingCache()
    first, _ = embed(["cat"], cache=cache)
    kept = first.clone()
    first.zero_()
    second, _ = embed(["cat"], cache=cache)
    assert torch.equal(second, kept)
    second.zero_()
    assert torch.equal(embed(["cat"], cache=cache)[0], kept)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.text_model.final_layer_norm.bias.data.add_(1e-3),
        lambda model: model.text_model.embeddings.token_embedding.weight.data[7].add_(1e-6),
        lambda model: model.text_projection.load_state_dict({"weight": model.text_projection.weight * 1.001}),
        lambda model: model.half(),
        lambda model: setattr(model.config.text_config, "hidden_act", "gelu"),
    ],
    ids=["data", "one row", "load_state_dict", "half", "config"],
)
def test_a_changed_text_tower_embeds_anew(embed, change):
    embed(["cat"], cache=EmbeddingCache())
    with torch.no_grad():
        change(embed.model)
    assert embed(["cat"], cache=EmbeddingCache())[1] == 1


def test_a_weight_changed_between_two_calls_is_noticed_and_changed_back_is_found(embed):
    cache, bias = EmbeddingCache(), embed.model.text_model.final_layer_norm.bias
    before, _ = embed(["cat"], cache=cache)
    original = bias.detach().clone()
    bias.data[0] += 1
    after, prompts = embed(["cat"], cache=cache)
    assert prompts == 1 and not torch.equal(before, after)
    bias.data.copy_(original)
    found, prompts = embed(["cat"], cache=cache)
    assert prompts == 0 and torch.equal(found, before)


def test_a_few_numbers_of_every_weight_are_looked_at_and_clearing_sees_to_the_rest(embed, folder):
    """A number written past autograd, between those that are looked at, is not seen, as the docs say."""
    cache, weight = EmbeddingCache(), embed.model.text_model.encoder.layers[0].mlp.fc1.weight
    before, _ = embed(["cat"], cache=cache)
    assert weight.numel() // SAMPLES > 1
    weight.data.view(-1)[1] += 1
    assert embed(["cat"], cache=cache)[1] == 0
    clear_text_cache()
    assert not entries(folder)
    after, prompts = embed(["cat"], cache=cache)
    assert prompts == 1 and not torch.equal(before, after)
    clear_text_cache(disk=False)
    assert len(entries(folder)) == 1 and embed(["cat"], cache=cache)[1] == 0  # read from its file


def test_numpy_that_shares_the_memory_is_seen(embed):
    cache = EmbeddingCache()
    embed(["cat"], cache=cache)
    embed.model.text_projection.weight.detach().numpy()[:] *= 2
    assert embed(["cat"], cache=cache)[1] == 1


def test_the_vision_tower_does_not_matter(embed):
    embed(["cat"], cache=EmbeddingCache())
    with torch.no_grad():
        embed.model.vision_model.post_layernorm.bias.add_(1)
        embed.model.visual_projection.weight.add_(1)
        embed.model.logit_scale.add_(1)
    assert embed(["cat"], cache=EmbeddingCache())[1] == 0


def test_other_words_templates_and_truncation_embed_anew(embed):
    cache = EmbeddingCache()
    assert embed(["cat"], cache=cache)[1] == 1
    assert embed(["cat"], cache=cache, templates=["a {}"])[1] == 1
    assert embed(["cat"], cache=cache, templates=["a {}", "{}"])[1] == 2
    assert embed(["cat"], cache=cache, truncate=True)[1] == 1
    embed.words = letters_tokenizer()
    embed.words.backend_tokenizer.normalizer = None
    assert embed(["cat"], cache=cache)[1] == 1


def test_a_token_added_to_the_tokenizer_changes_the_keys(tiny_clip, tokenizer):
    cache, asked = EmbeddingCache(), {"templates": ["{}"], "truncate": False, "texts": ["cat"]}
    before = cache.keys(tiny_clip, tokenizer, **asked)
    assert cache.keys(tiny_clip, tokenizer, **asked) == before
    tokenizer.add_tokens(["cat"])
    assert cache.keys(tiny_clip, tokenizer, **asked) != before


def test_texts_and_templates_cannot_be_confused(embed):
    cache = EmbeddingCache()
    keys = {
        key
        for templates in (["a {}", "b {}"], ["a {}b {}"], ["a {}"])
        for key in cache.keys(
            embed.model, embed.words, templates=templates, truncate=False, texts=["", "a", "b", '", "']
        )
    }
    assert len(keys) == 12


def test_padding_and_truncation_left_by_another_call_do_not_matter(embed):
    embed(["cat"], cache=EmbeddingCache())
    embed.words(["cat"], padding="max_length", max_length=50, truncation=True)
    assert embed(["cat"], cache=EmbeddingCache())[1] == 0


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-3])


def emptied(path):
    path.write_bytes(b"")


def one_bit_flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def another_file(path):
    save_file({"embedding": torch.ones(32)}, path)


def other_names(path):
    save_file({"weight": torch.ones(32)}, path)


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut_short, emptied, one_bit_flipped, another_file, other_names])
def test_a_damaged_entry_is_computed_again_and_mended(embed, folder, damage):
    before, _ = embed(["cat"], cache=EmbeddingCache())
    damage(entries(folder)[0])
    again, prompts = embed(["cat"], cache=EmbeddingCache())
    assert prompts == 1 and torch.equal(again, before)
    assert embed(["cat"], cache=EmbeddingCache())[1] == 0
    assert torch.equal(load_file(entries(folder)[0])["embedding"], before[0])


def test_a_folder_that_cannot_be_written_to_is_said_and_memory_serves(embed, folder):
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file where the folder should be")
    cache = EmbeddingCache()
    with pytest.warns(UserWarning, match="not kept on disk.*CLIP_SURGERY_CACHE"):
        embeds, _ = embed(["cat"], cache=cache)
    found, prompts = embed(["cat"], cache=cache)
    assert prompts == 0 and torch.equal(found, embeds)


def test_an_entry_that_cannot_be_replaced_leaves_no_temporary_file(embed, folder):
    embed(["cat"], cache=EmbeddingCache())
    a_folder(entries(folder)[0])
    with pytest.warns(UserWarning, match="not kept on disk"):
        assert embed(["cat"], cache=EmbeddingCache())[1] == 1
    assert [path.name for path in folder.rglob("*") if path.is_file()] == []


def test_the_folder_is_read_at_each_use(embed, tmp_path, monkeypatch):
    cache = EmbeddingCache()
    monkeypatch.setenv("CLIP_SURGERY_CACHE", str(tmp_path / "one"))
    embed(["cat"], cache=cache)
    monkeypatch.setenv("CLIP_SURGERY_CACHE", str(tmp_path / "two"))
    embed(["dog"], cache=cache)
    assert len(entries(tmp_path / "one")) == len(entries(tmp_path / "two")) == 1


@pytest.mark.parametrize(
    ("platform", "variable", "value", "wanted"),
    [
        ("linux", "XDG_CACHE_HOME", "/some/cache", Path("/some/cache/clip_surgery_hub")),
        ("linux", None, None, Path.home() / ".cache" / "clip_surgery_hub"),
        ("darwin", None, None, Path.home() / "Library" / "Caches" / "clip_surgery_hub"),
        ("win32", "LOCALAPPDATA", "/users/me/local", Path("/users/me/local/clip_surgery_hub")),
    ],
)
def test_without_the_variable_it_is_the_platforms_cache(monkeypatch, platform, variable, value, wanted):
    for name in ("CLIP_SURGERY_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder() == wanted


def test_copies_and_pickles_start_with_an_empty_memory(embed, folder):
    cache = EmbeddingCache(memory_entries=5)
    embed(["cat"], cache=cache)
    for entry in entries(folder):
        entry.unlink()
    for copied in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert copied.memory_entries == 5 and copied.read("0" * 64) is None
    assert embed(["cat"], cache=copy.deepcopy(cache))[1] == 1


def test_many_threads_share_a_cache(embed):
    cache, texts = EmbeddingCache(memory_entries=3), ["cat", "dog", "cow", "hen", "owl"]
    wanted, _ = embed(texts, cache=None)
    results = [None] * 6

    def work(number):
        order = torch.randperm(5, generator=torch.Generator().manual_seed(number)).tolist()
        for _ in range(3):
            embeds, _ = embed([texts[i] for i in order], cache=cache)
        results[number] = (order, embeds)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for order, embeds in results:
        torch.testing.assert_close(embeds, wanted[order], atol=3e-6, rtol=0)


WRITER = """
import sys, torch
from clip_surgery_hub.text.cache import SAMPLES, EmbeddingCache, cache_folder, clear_text_cache
value = float(sys.argv[1])
cache = EmbeddingCache(memory_entries=0)
for turn in range(60):
    cache.write("ab" * 32, torch.full((4096,), value))
    found = cache.read("ab" * 32)
    assert found is not None and found[0] in (1.0, 2.0) and (found == found[0]).all(), found
"""


@pytest.mark.slow
def test_many_processes_write_one_entry_and_never_read_a_torn_one(folder):
    environment = os.environ | {"CLIP_SURGERY_CACHE": str(folder), "OMP_NUM_THREADS": "1"}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, value], env=environment, stderr=subprocess.PIPE)
        for value in ("1", "2")
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=300)
        assert writer.returncode == 0, errors.decode()
    assert [path.suffix for path in folder.rglob("*") if path.is_file()] == [".safetensors"]
