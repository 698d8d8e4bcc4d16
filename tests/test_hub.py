import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from clip_surgery_hub import hub
from clip_surgery_hub.hub import MODELS, Entry, create_model, list_models, register_model, resolve

GOLDEN = Path(__file__).parent / "golden" / "clip_vit"

# Parameters of the checkpoints as published, for example in open_clip's model profile.
PUBLISHED_PARAMETERS = {
    "clip_vit_base_patch32.openai": 151_277_313,
    "clip_vit_base_patch16.openai": 149_620_737,
    "clip_vit_large_patch14.openai": 427_616_513,
    "clip_vit_large_patch14_336.openai": 427_944_193,
}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Entry]]:
    """A registry that forgets at the end what the test registered."""
    entries = dict(MODELS)
    monkeypatch.setattr(hub, "_ENTRIES", entries)
    yield entries


@pytest.mark.parametrize("name", sorted(PUBLISHED_PARAMETERS))
def test_the_architectures_in_code_have_the_published_number_of_parameters(name: str) -> None:
    config = CLIPConfig(**MODELS[name].config)
    with torch.device("meta"):
        model = CLIPModel(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED_PARAMETERS[name]
    for tower in (config.vision_config, config.text_config):
        assert tower.hidden_size == 64 * tower.num_attention_heads  # OpenAI: 64 channels a head
        assert tower.hidden_act == "quick_gelu"


def test_names_are_listed_in_order_and_filtered_by_globs() -> None:
    assert list_models() == sorted(MODELS)
    assert list_models("*.openai") == sorted(PUBLISHED_PARAMETERS)
    assert list_models("*large*") == ["clip_vit_large_patch14.openai", "clip_vit_large_patch14_336.openai"]
    assert list_models("clip_vit_tiny") == ["clip_vit_tiny.scenes"]
    assert list_models("clip_vit_tiny.*") == ["clip_vit_tiny.scenes"]
    assert list_models("resnet*") == []


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


def test_resolve_knows_folders_hub_ids_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(tmp_path)) == str(tmp_path)
    assert resolve("openai/clip-vit-base-patch16") == "openai/clip-vit-base-patch16"
    assert resolve("clip_vit_base_patch16.openai") == "openai/clip-vit-base-patch16"
    assert Path(resolve("clip_vit_tiny.scenes")).parent == Path(hub.__file__).parent / "assets"
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
        ("xyz", "list_models() gives the known names"),
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
    config = {
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
    register_model(Entry(name="small.random", source="nobody/nothing", config=config))
    clip = create_model("small.random", pretrained=False, method="none", device="cpu")
    picture = np.full((32, 48, 3), 255, np.uint8)
    encoded = clip.encode(picture, size=32)
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
