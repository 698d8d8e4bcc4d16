import dataclasses
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clip_surgery_hub.checkpoints import correct_activation
from clip_surgery_hub.factory import build_model, create_model
from clip_surgery_hub.hub import (
    MODELS,
    Entry,
    list_models,
    model_info,
    pinned_revision,
    register_model,
    resolve,
)
from clip_surgery_hub.hub import registry as registered
from clip_surgery_hub.model import CLIPSurgery
from tests.support.paths import ASSETS, GOLDEN

SMALL = {
    "vision_config": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 16,
    },
    "text_config": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 99,
    },
}
SMALL_OPEN_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
    "text_cfg": {"context_length": 9, "vocab_size": 99, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def registry() -> Iterator[dict[str, Entry]]:
    """The registry, which forgets at the end what the test registered."""
    before = dict(registered._ENTRIES)
    yield registered._ENTRIES
    registered._ENTRIES.clear()
    registered._ENTRIES.update(before)


def test_names_are_listed_in_order_and_filtered_by_globs() -> None:
    assert list_models() == sorted(MODELS)
    assert list_models("clip_vit_*.openai") == [
        "clip_vit_base_patch16.openai",
        "clip_vit_base_patch32.openai",
        "clip_vit_large_patch14.openai",
        "clip_vit_large_patch14_336.openai",
    ]
    assert list_models("clip_vit_tiny") == ["clip_vit_tiny.scenes"]
    assert list_models("clip_vit_tiny.*") == ["clip_vit_tiny.scenes"]
    assert list_models("resnet*") == []


def test_globs_know_short_names_of_architectures_too() -> None:
    b16 = list_models("*b16*", pretrained=True)
    assert {"clip_vit_base_patch16.openai", "siglip2_vit_base_patch16_224.webli"} <= set(b16)
    assert {(MODELS[name].patch, MODELS[name].width) for name in b16} == {(16, 768), (16, 896)}  # B and B+
    every_b16 = {name for name, entry in MODELS.items() if entry.patch == 16 and entry.width == 768}
    assert every_b16 <= set(b16)
    assert list_models("vit_b16") == list_models("clip_vit_base_patch16")
    assert list_models("vit_l14_336.openai") == ["clip_vit_large_patch14_336.openai"]
    assert set(list_models("rn50*")) == set(list_models("clip_resnet50*"))


def test_architectures_without_weights_are_left_out_where_weights_are_wanted(
    registry: dict[str, Entry],
) -> None:
    register_model(Entry(name="mine.none", config=SMALL))
    assert list_models("mine") == list_models("mine", pretrained=False) == ["mine.none"]
    assert list_models("mine", pretrained=True) == []
    with pytest.raises(ValueError, match="without weights: create_model.'mine.none', pretrained=False"):
        create_model("mine.none")
    assert create_model("mine.none", pretrained=False, device="cpu").name == "mine.none"
    with pytest.raises(ValueError, match="'mine.none' is taken by 'an architecture without weights'"):
        register_model(Entry(name="mine.none", source="a/b"))


def test_what_is_known_of_a_model_is_told_and_can_be_read() -> None:
    entry = model_info("clip_vit_large_patch14_336.openai")
    assert entry is MODELS[entry.name]
    assert (entry.native_size, entry.patch, entry.width, entry.embedding_width) == (336, 14, 1024, 768)
    assert (entry.source, entry.license, entry.family) == ("openai/clip-vit-large-patch14-336", "mit", "clip")
    facts = entry.facts()
    assert json.loads(json.dumps(facts)) == facts and "config" not in facts
    lines = repr(entry).splitlines()
    assert (lines[0], lines[-1]) == ("Entry(", ")")
    assert "  native_size = 336," in lines and max(map(len, lines)) < 160
    with pytest.raises(ValueError, match="did you mean 'clip_vit_large_patch14_336.openai'") as error:
        model_info("clip_vit_large_patch14_336.openia")
    assert "\n" not in str(error.value)


def test_a_registered_model_is_found_and_a_taken_name_is_refused(registry: dict[str, Entry]) -> None:
    entry = Entry(name="clip_mine.first", source="someone/clip-mine")
    register_model(entry)
    assert "clip_mine.first" in list_models("clip_mine")
    assert resolve("clip_mine.first") == "someone/clip-mine"
    with pytest.raises(ValueError, match="'clip_mine.first' is taken by 'someone/clip-mine'"):
        register_model(dataclasses.replace(entry, source="else/where"))
    assert registry["clip_mine.first"] is entry


def test_the_registry_and_its_entries_cannot_be_changed_in_passing() -> None:
    with pytest.raises(TypeError):
        MODELS["x.y"] = Entry(name="x.y", source="a/b")  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        MODELS["clip_vit_tiny.scenes"].source = "elsewhere"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["no_tag", "a/b.c", ".tag", "arch.", "two words.tag", ""])
def test_an_entry_must_be_named_architecture_dot_tag(name: str) -> None:
    with pytest.raises(ValueError, match="architecture.tag"):
        Entry(name=name, source="owner/name")


def test_an_entry_needs_a_source() -> None:
    with pytest.raises(ValueError, match="needs a source"):
        Entry(name="a.b", source="")
    with pytest.raises(ValueError, match="needs a source"):
        Entry(name="a.b")


def test_an_entry_names_a_format_that_is_known() -> None:
    with pytest.raises(ValueError, match="format 'onnx'; it is one of 'transformers', 'open_clip'"):
        Entry(name="a.b", source="c/d", format="onnx")  # type: ignore[arg-type]


def test_resolve_knows_folders_hub_ids_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(tmp_path)) == str(tmp_path)
    assert resolve("openai/clip-vit-base-patch16") == "openai/clip-vit-base-patch16"
    assert resolve("clip_vit_base_patch16.openai") == "openai/clip-vit-base-patch16"
    assert Path(resolve("clip_vit_tiny.scenes")).parent == ASSETS
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/name") == "owner/name"  # the folder, under the same words
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/owner") == str(tmp_path / "owner")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("clip_vit_tiny", "did you mean 'clip_vit_tiny.scenes'"),
        ("clip_vit_base_patch16.openia", "did you mean 'clip_vit_base_patch16.openai'"),
        ("vit_b16.openai", "did you mean 'clip_vit_base_patch16.openai'"),
        ("xyz", "list_models() and `clip-surgery models` give the known names"),
        ("/no/such/folder", "no folder"),
        ("./nowhere/near", "no folder"),
        ("a/b/c", "no folder"),
        ("", "list_models()"),
    ],
)
def test_unknown_names_get_one_line_of_advice(name: str, advice: str) -> None:
    with pytest.raises(ValueError, match="no model is called") as error:
        resolve(name)
    message = str(error.value)
    assert advice in message and repr(name) in message
    assert "\n" not in message and len(message) < 300


def test_a_folder_is_a_model_with_its_own_weights_or_random_ones(
    golden: dict[str, torch.Tensor], registry: dict[str, Entry]
) -> None:
    register_model(Entry(name="golden.random", source=str(GOLDEN / "checkpoint")))
    published = golden["surgery_tokens_64"]
    trained = create_model("golden.random", device="cpu").encode_image(golden["pixel_values_64"])
    torch.testing.assert_close(trained, published, atol=1e-5, rtol=0)
    torch.manual_seed(1)
    random = create_model("golden.random", pretrained=False, depth=2, device="cpu", dtype=torch.bfloat16)
    assert (random.name, random.method, random.depth) == ("golden.random", "clip_surgery", 2)
    assert random.dtype == torch.bfloat16
    tokens = random.encode_image(golden["pixel_values_64"])
    assert tokens.shape == published.shape
    assert (tokens - published).abs().max() > 0.1
    torch.manual_seed(1)
    again = create_model(str(GOLDEN / "checkpoint"), pretrained=False, depth=2, device="cpu")
    torch.testing.assert_close(again.encode_image(golden["pixel_values_64"]), tokens, atol=0.02, rtol=0)


def test_an_architecture_in_code_needs_no_files(registry: dict[str, Entry]) -> None:
    register_model(Entry(name="small.random", source="nobody/nothing", config=SMALL))
    clip = create_model("small.random", pretrained=False, method="none", device="cpu")
    image = np.full((32, 48, 3), 255, np.uint8)
    encoded = clip.encode(image, size=32)
    # White is (1 - mean) / std of OpenAI's image processor, in every pixel.
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    white = ((1 - torch.tensor(mean)) / torch.tensor(std)).view(1, 3, 1, 1).expand(1, 3, 32, 48)
    torch.testing.assert_close(encoded.tokens[0], clip.encode_image(white)[0], atol=1e-6, rtol=0)
    with pytest.raises(OSError, match="nobody/nothing"):
        create_model("small.random")


def test_the_names_are_known_without_loading_torch() -> None:
    code = (
        "import sys; from clip_surgery_hub.hub import list_models, resolve; print(len(list_models()));"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split("\n")[:2] == [str(len(MODELS)), "[]"]


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (SMALL, "CLIPModel"),
        (SMALL | {"model_type": "metaclip_2"}, "MetaClip2Model"),
        (SMALL | {"model_type": "siglip"}, "SiglipModel"),
        (SMALL_OPEN_CLIP, "TimmCLIP"),
    ],
)
def test_random_weights_of_any_family_are_drawn_from_torch(
    config: dict[str, object], kind: str, registry: dict[str, Entry]
) -> None:
    register_model(Entry(name="small.random", config=config, mean=(0.5,) * 3, std=(0.25,) * 3))

    def tokens(seed: int) -> Tensor:
        torch.manual_seed(seed)
        clip = create_model("small.random", pretrained=False, depth=1, device="cpu")
        assert type(clip.model).__name__.startswith(kind) and not clip.model.training
        assert (clip.normalization.mean, clip.normalization.std) == ((0.5,) * 3, (0.25,) * 3)
        assert clip.method == "clip_surgery" and clip.tokenizer is None
        return clip.encode_image(torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64))

    first = tokens(0)
    assert torch.equal(first, tokens(0)) and not torch.equal(first, tokens(1))


def test_the_commit_of_an_entry_is_loaded_where_no_other_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, registry: dict[str, Entry]
) -> None:
    asked = []

    def ask(source: str, *, dtype: torch.dtype, revision: str | None) -> None:
        asked.append((source, revision))
        raise OSError("no network here")

    monkeypatch.setattr("clip_surgery_hub.model.load_checkpoint", ask)
    register_model(Entry(name="pinned.here", source="owner/name", revision="c0ffee"))
    for load in (create_model, CLIPSurgery.from_pretrained):
        for options in ({}, {"revision": "v2"}):
            with pytest.raises(OSError, match="no network here"):
                load("pinned.here", **options)
    with pytest.raises(OSError, match="no network here"):
        create_model("owner/name")  # a hub id is the newest
    assert asked == [("owner/name", revision) for revision in ("c0ffee", "v2", "c0ffee", "v2", None)]
    assert pinned_revision("pinned.here") == "c0ffee" and pinned_revision("owner/name") is None


def test_files_with_a_wrong_activation_are_read_with_the_right_one(
    golden: dict[str, Tensor], registry: dict[str, Entry], tmp_path: Path
) -> None:
    right, wrong = GOLDEN / "checkpoint", tmp_path / "wrong"
    shutil.copytree(right, wrong)
    config = json.loads((wrong / "config.json").read_text())
    assert config["vision_config"]["hidden_act"] == "quick_gelu"
    config["vision_config"]["hidden_act"] = "gelu"
    (wrong / "config.json").write_text(json.dumps(config))
    pixels = golden["pixel_values_64"]
    published = golden["surgery_tokens_64"]
    as_said = CLIPSurgery.from_pretrained(str(wrong), device="cpu").encode_image(pixels)
    assert (as_said - published).abs().max() > 1e-4  # wrong, and nothing tells
    register_model(Entry(name="golden.wrong", source=str(wrong), activation="quick_gelu"))
    for name in ("golden.wrong", str(wrong)):
        with pytest.warns(UserWarning, match="say gelu, but its weights were trained with quick_gelu"):
            clip = CLIPSurgery.from_pretrained(name, device="cpu")
        torch.testing.assert_close(clip.encode_image(pixels), published, atol=1e-5, rtol=0)
        assert clip.model.config.vision_config.hidden_act == "quick_gelu"
    register_model(Entry(name="golden.right", source=str(right), activation="quick_gelu"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CLIPSurgery.from_pretrained("golden.right", device="cpu")


@pytest.mark.parametrize("config", [SMALL, SMALL | {"model_type": "siglip"}, SMALL_OPEN_CLIP])
def test_every_mlp_gets_the_right_activation(config: dict[str, object], registry: dict[str, Entry]) -> None:
    entry = Entry(name="small.random", config=config)
    model = build_model(entry)
    with pytest.warns(UserWarning, match="the files of here say .*, but its weights were trained with relu"):
        correct_activation(model, "relu", source="here")
    kinds = {type(module.activation_fn) for module in model.modules() if hasattr(module, "activation_fn")}
    assert kinds == {nn.ReLU}
