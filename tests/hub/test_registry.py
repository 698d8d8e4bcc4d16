"""Every registered checkpoint, built on the meta device: nothing is listed that was not checked here."""

import json
import re
import runpy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from open_clip import get_model_config
from open_clip.pretrained import get_pretrained_cfg
from transformers import AutoConfig

from clip_surgery_hub.checkpoints.load_state import without_initialization
from clip_surgery_hub.factory import build_model
from clip_surgery_hub.hub import MODELS, Entry
from clip_surgery_hub.methods import METHODS
from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.transform import surgery
from tests.support.paths import DOCS

# Parameters as published: in millions in OpenCLIP's docs/model_profile.csv, by OpenCLIP's names of models ...
PUBLISHED_MILLIONS = {
    "ViT-B-32": 151.28,
    "ViT-B-32-256": 151.29,
    "ViT-B-16": 149.62,
    "ViT-B-16-plus-240": 208.38,
    "ViT-L-14": 427.62,
    "ViT-L-14-336": 427.94,
    "ViT-H-14": 986.11,
    "ViT-g-14": 1366.68,
    "ViT-bigG-14": 2539.57,
    "RN50": 102.01,
    "RN101": 119.69,
    "RN50x4": 178.3,
    "RN50x16": 290.98,
    "RN50x64": 623.26,
    "EVA02-B-16": 149.69,
    "EVA02-L-14": 427.76,
    "EVA02-L-14-336": 428.08,
    "EVA02-E-14": 4704.59,
    "EVA02-E-14-plus": 5044.89,
    "ViT-B-16-SigLIP": 203.16,
    "ViT-B-16-SigLIP-256": 203.2,
    "ViT-B-16-SigLIP-i18n-256": 370.63,
    "ViT-B-16-SigLIP-384": 203.45,
    "ViT-B-16-SigLIP-512": 203.79,
    "ViT-L-16-SigLIP-256": 652.15,
    "ViT-L-16-SigLIP-384": 652.48,
    "ViT-SO400M-14-SigLIP": 877.36,
    "ViT-SO400M-14-SigLIP-384": 877.96,
}
# ... and from the sizes of the float32 files on the hub, in gigabytes of 10^9 bytes.
PUBLISHED_GIGABYTES = {
    "altclip_vit_large_patch14.m2": 3.46,
    "chinese_clip_vit_base_patch16.ofa": 0.753,
    "chinese_clip_vit_large_patch14_336.ofa": 1.63,
    "chinese_clip_vit_huge_patch14.ofa": 3.83,
    "siglip2_vit_so400m_patch14_384.webli": 4.54,
}


SHIPPED = sorted(MODELS)


@dataclass(frozen=True)
class Measured:
    """What the modules of a configuration turn out to be, on the meta device."""

    native_size: int
    patch: int
    width: int
    tokens: tuple[int, ...]
    methods: tuple[str, ...]
    parameters: int
    activation: str


def measured(entry: Entry) -> Measured:
    """Entries of one architecture and activation share their modules."""
    if entry.config is None:  # the bundled one
        config = AutoConfig.from_pretrained(entry.source).to_diff_dict()
        return _measured(json.dumps(config, sort_keys=True))
    return _measured(json.dumps(dict(entry.config), sort_keys=True))


@cache
def _measured(config: str) -> Measured:
    with torch.device("meta"), without_initialization():
        model = build_model(Entry(name="any.one", config=json.loads(config))).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    classes = [type(module) for module in model.modules()]
    tower = find_tower(model)
    with surgery(model):
        assert tower.surgery is not None
    assert [type(module) for module in model.modules()] == classes and tower.surgery is None
    while len(tower.blocks) > 2:  # two of them show the methods, the grid and the widths as well as 64 do
        del tower.blocks[0]
    applied = []
    for method in METHODS:
        with surgery(tower.vision, method):  # alone: looking through the text tower takes its time
            applied.append(tower.surgery.method.name)
    pixels = torch.zeros(1, 3, tower.native_size, tower.native_size, device="meta")
    with torch.no_grad(), surgery(model):
        tokens = find_tower(model).encode(pixels)
    towers = (getattr(model.config, "vision_config", None), model.config.text_config)
    return Measured(
        native_size=tower.native_size,
        patch=tower.patch_size,
        width=next(tower.blocks[-1].parameters()).shape[-1],
        tokens=tuple(tokens.shape),
        methods=tuple(applied),
        parameters=parameters,
        activation=next(tower for tower in towers if tower is not None).hidden_act,
    )


def counterpart(entry: Entry) -> tuple[str, str] | None:
    """OpenCLIP's model and tag that an entry names as the source of its figures."""
    found = re.search(r"(?:^|; )open_clip (\S+):(\S+)$", entry.reference)
    return None if found is None else (found[1], found[2])


IN_OPEN_CLIP = [name for name in SHIPPED if counterpart(MODELS[name])]


def test_there_are_as_many_as_promised_and_of_every_family() -> None:
    assert len(SHIPPED) >= 80
    assert {entry.family for entry in MODELS.values()} == {
        "clip", "resnet", "metaclip_2", "eva", "siglip", "siglip2", "altclip", "chinese_clip",
    }  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_modules_are_what_the_entry_declares_and_every_method_attaches(name: str) -> None:
    entry = MODELS[name]
    found = measured(entry)
    assert (found.native_size, found.patch, found.width) == (entry.native_size, entry.patch, entry.width)
    cells = (entry.native_size // entry.patch) ** 2
    assert found.tokens == (1, 1 + cells, entry.embedding_width)
    assert entry.methods == () and sorted(found.methods) == sorted(METHODS)  # (): every one there is
    assert found.activation == entry.activation


@pytest.mark.parametrize("name", SHIPPED)
def test_facts_are_complete_and_their_source_is_cited(name: str) -> None:
    entry = MODELS[name]
    assert entry.about and entry.license and entry.short
    if entry.source and not Path(entry.source).is_dir():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.source)
    assert entry.revision is None or re.fullmatch(r"[0-9a-f]{40}", entry.revision)
    if name != "clip_vit_tiny.scenes":
        assert re.search(r"arXiv \d{4}\.\d{5}|open_clip \S+:\S+", entry.reference)
    assert (
        counterpart(entry)
        or name == "clip_vit_tiny.scenes"
        or re.search(r"github\.com/|huggingface\.co/|vision: open_clip ", entry.reference)
    )


def test_no_checkpoint_is_listed_twice() -> None:
    sources = [entry.source for entry in MODELS.values()]
    assert len(set(sources)) == len(sources)
    shorts = {(entry.short, entry.architecture) for entry in MODELS.values()}
    assert len({short for short, _ in shorts}) == len(shorts)


@pytest.mark.parametrize("name", IN_OPEN_CLIP)
def test_figures_are_those_of_open_clip(name: str) -> None:
    entry = MODELS[name]
    model, tag = counterpart(entry)
    published, weights = get_model_config(model), get_pretrained_cfg(model, tag)
    assert published and weights, f"open_clip knows no {model}:{tag}"
    if entry.format == "open_clip":
        assert weights["hf_hub"].rstrip("/") == entry.source
    vision, text = published["vision_cfg"], published["text_cfg"]
    assert entry.embedding_width == published["embed_dim"]
    assert entry.native_size == vision["image_size"]
    assert tuple(entry.mean) == tuple(weights["mean"]) and tuple(entry.std) == tuple(weights["std"])
    if not entry.family.startswith("siglip"):
        assert (entry.activation == "quick_gelu") == weights.get("quick_gelu", False)
    if "vision_cfg" in entry.config:
        assert dict(entry.config) | {"quick_gelu": None} == published | {"quick_gelu": None}
        return
    check_vision(entry.config["vision_config"], vision)
    ours = entry.config["text_config"]
    assert ours["hidden_size"] == text["width"]
    assert ours["num_hidden_layers"] == text["layers"] and ours["num_attention_heads"] == text["heads"]
    assert ours["intermediate_size"] == int(text["width"] * text.get("mlp_ratio", 4))
    assert ours["max_position_embeddings"] == text["context_length"]
    assert ours["vocab_size"] == text["vocab_size"]
    assert ours.get("eos_token_id") == text.get("eos_id")


def check_vision(ours: dict[str, Any], published: dict[str, Any]) -> None:
    """The blocks of a vision tower against OpenCLIP's description, or against timm's tower of that name."""
    if "timm_model_name" not in published:
        assert ours["patch_size"] == published["patch_size"]
        assert ours["hidden_size"] == published["width"]
        assert ours["num_hidden_layers"] == published["layers"]
        assert ours["num_attention_heads"] == published["width"] // published.get("head_width", 64)
        assert ours["intermediate_size"] == int(published["width"] * published.get("mlp_ratio", 4))
        return
    with torch.device("meta"), without_initialization():
        tower = timm.create_model(published["timm_model_name"])
    assert ours["patch_size"] == tower.patch_embed.patch_size[0]
    assert ours["hidden_size"] == tower.embed_dim
    assert ours["num_hidden_layers"] == len(tower.blocks)
    assert ours["num_attention_heads"] == tower.blocks[0].attn.num_heads
    assert ours["intermediate_size"] == tower.blocks[0].mlp.fc1.out_features


def in_timm(entry: Entry) -> str | None:
    """A tower of timm with the same weights or others of the same publication, with a license of its own.

    timm says apache-2.0 where nothing else is known, which is no statement.
    """
    tag = entry.name.partition(".")[2]
    if entry.family == "resnet":
        return f"{entry.architecture.removeprefix('clip_')}_clip.{tag}"
    if entry.family == "metaclip_2":
        return "vit_huge_patch14_clip_224.metaclip2_worldwide"
    if tag.startswith("metaclip_"):
        return "vit_base_patch16_clip_224.metaclip_2pt5b"
    if tag.startswith("laion400m_"):
        return "vit_base_patch16_clip_224.laion400m_e32"
    return "eva02_base_patch16_clip_224.merged2b" if entry.family == "eva" else None


@pytest.mark.parametrize("name", [name for name in SHIPPED if in_timm(MODELS[name])])
def test_licenses_are_those_that_timm_states(name: str) -> None:
    tower = in_timm(MODELS[name])
    assert timm.models.get_pretrained_cfg(tower).license == MODELS[name].license


@pytest.mark.parametrize(
    "name", [name for name in IN_OPEN_CLIP if counterpart(MODELS[name])[0] in PUBLISHED_MILLIONS]
)
def test_the_number_of_parameters_is_the_published_one(name: str) -> None:
    published = PUBLISHED_MILLIONS[counterpart(MODELS[name])[0]]
    assert measured(MODELS[name]).parameters / 1e6 == pytest.approx(published, abs=0.0051)


@pytest.mark.parametrize("name", sorted(PUBLISHED_GIGABYTES))
def test_as_many_parameters_as_the_published_file_holds(name: str) -> None:
    gigabytes = measured(MODELS[name]).parameters * 4 / 1e9
    assert gigabytes == pytest.approx(PUBLISHED_GIGABYTES[name], rel=0.003)


def test_the_tables_of_the_documents_are_those_of_the_registry() -> None:
    make = runpy.run_path(str(DOCS / "make_models.py"))
    written = (DOCS / "models.md").read_text()
    assert written == make["page"](), "python docs/make_models.py writes them anew"
    assert set(re.findall(r"^\| `(\S+)` \|", written, re.MULTILINE)) == set(MODELS)
    for page in (DOCS.parent / "README.md", DOCS.parent / "CHANGELOG.md"):
        assert f" {len(MODELS)} " in page.read_text()
