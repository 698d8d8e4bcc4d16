import json
import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import canonicalize_text
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import normalize
from transformers import CLIPModel, MetaClip2Model, PreTrainedTokenizerFast, SiglipModel

from clip_surgery_hub import CLIPSurgery, apply_surgery
from clip_surgery_hub.checkpoints import build_open_clip, load_checkpoint
from clip_surgery_hub.checkpoints.building import _tensors
from clip_surgery_hub.checkpoints.load_state import without_initialization
from clip_surgery_hub.checkpoints.open_clip_config import read_architecture
from clip_surgery_hub.checkpoints.timm_clip import TimmCLIP
from clip_surgery_hub.checkpoints.weight_names import without_prefixes
from clip_surgery_hub.towers import find_tower
from tests.support.open_clip_models import (
    CASES,
    END,
    EVA,
    SIGLIP_MODEL,
    SIGLIP_TEXT,
    TEXT,
    TOKENS,
    VIT,
    open_clip_model,
    pixels_for,
    surgery_tokens,
    token_ids,
    write_folder,
)
from tests.support.paths import DOCS

PLAIN = CASES["ViT-B-16"]
MODEL_CLASSES = {
    "ViT-H-14-worldwide": MetaClip2Model,
    **dict.fromkeys(("RN50", "RN50x4-quickgelu", "EVA02-B-16", "EVA02-E-14"), TimmCLIP),
    **dict.fromkeys((name for name in CASES if "SigLIP" in name), SiglipModel),
}


def close(found: torch.Tensor, expected: torch.Tensor, within: float = 1e-5) -> bool:
    assert found.shape == expected.shape
    return float((found - expected).abs().max()) <= within


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """A name, OpenCLIP's own model, and a folder with its weights."""
    model = open_clip_model(CASES[request.param])
    folder = tmp_path_factory.mktemp("open-clip") / request.param
    return request.param, model, write_folder(folder, CASES[request.param], model.state_dict())


@torch.no_grad()
def test_features_are_those_of_open_clip(case: tuple[str, Any, Path]) -> None:
    name, theirs, folder = case
    ours = load_checkpoint(str(folder)).model
    assert type(ours) is MODEL_CLASSES.get(name, CLIPModel) and not ours.training
    pixels, ids = pixels_for(CASES[name]), token_ids(CASES[name])
    assert close(ours.get_image_features(pixel_values=pixels).pooler_output, theirs.encode_image(pixels))
    assert close(ours.get_text_features(input_ids=ids).pooler_output, theirs.encode_text(ids))
    assert ours.logit_scale.item() == pytest.approx(theirs.logit_scale.item())
    logits = ours(input_ids=ids, pixel_values=pixels).logits_per_image
    assert close(logits, theirs.get_logits(pixels, ids)[0], 1e-4)


@torch.no_grad()
def test_surgery_is_that_of_open_clips_modules_written_out(case: tuple[str, Any, Path]) -> None:
    name, theirs, folder = case
    ours = apply_surgery(load_checkpoint(str(folder)).model)
    tower = find_tower(ours)
    tokens = tower.encode(pixels_for(CASES[name]))
    expected = surgery_tokens(theirs, pixels_for(CASES[name]), depth=len(tower.blocks))
    assert close(tokens, normalize(expected, dim=-1))
    plain = find_tower(load_checkpoint(str(folder)).model).encode(pixels_for(CASES[name]))
    assert close(tokens[:, 0], plain[:, 0]) and not close(tokens[:, 1:], plain[:, 1:], 1e-2)


def test_loading_draws_no_random_numbers(case: tuple[str, Any, Path]) -> None:
    before = torch.get_rng_state()
    load_checkpoint(str(case[2]))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_is_built_again_from_its_configuration(case: tuple[str, Any, Path]) -> None:
    model = load_checkpoint(str(case[2])).model
    again = type(model)(model.config)
    shapes = {name: tensor.shape for name, tensor in again.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in model.state_dict().items()}


def supported(name: str) -> bool:
    model_cfg = open_clip.get_model_config(name)
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    if text.get("hf_model_name") or "multimodal_cfg" in model_cfg:
        return False
    if timm_name := vision.get("timm_model_name"):
        return timm_name.startswith("eva") or "_siglip_" in timm_name
    return not vision.keys() & {"no_ln_pre", "ls_init_value"}


def without_size_and_activation(name: str) -> str:
    """What two models share that differ in their images, activation or tokenizer alone."""
    model_cfg = open_clip.get_model_config(name)
    vision = {key: value for key, value in model_cfg["vision_cfg"].items() if key != "image_size"}
    vision["timm_model_name"] = re.sub(r"_\d+$", "", vision.get("timm_model_name", ""))
    text = {key: value for key, value in model_cfg["text_cfg"].items() if key in TEXT or key == "pool_type"}
    return json.dumps([model_cfg["embed_dim"], vision, text], sort_keys=True)


NAMES = open_clip.list_models()
REAL = {without_size_and_activation(name): name for name in NAMES if supported(name)}


@pytest.mark.parametrize("name", REAL.values())
def test_real_models_have_the_parameters_of_open_clip(name: str) -> None:
    model_cfg = open_clip.get_model_config(name)
    custom = model_cfg.pop("custom_text", False)
    with torch.device("meta"), without_initialization():
        theirs = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**model_cfg)
        ours = build_open_clip(model_cfg, source=name)
    architecture = read_architecture(model_cfg, name)
    tensors = _tensors(architecture, without_prefixes(theirs.state_dict()))
    found = {key: tensor.shape for key, tensor in tensors.items()}
    assert found == {key: tensor.shape for key, tensor in ours.state_dict().items()}
    side = model_cfg["vision_cfg"]["image_size"]
    assert find_tower(ours).native_size // find_tower(ours).patch_size == side // find_tower(ours).patch_size


@pytest.mark.parametrize("name", [name for name in NAMES if not supported(name)])
def test_all_others_are_refused_in_one_line(name: str) -> None:
    refusal = pytest.raises(ValueError, match="; supported are OpenCLIP's ViT")
    with torch.device("meta"), without_initialization(), refusal as caught:
        build_open_clip(open_clip.get_model_config(name), source=name)
    assert "\n" not in str(caught.value)


def with_vision(**changes: Any) -> dict[str, Any]:
    return PLAIN | {"vision_cfg": VIT | changes}


def with_text(**changes: Any) -> dict[str, Any]:
    return PLAIN | {"text_cfg": TEXT | changes}


@pytest.mark.parametrize(
    ("model_cfg", "message"),
    [
        (PLAIN | {"multimodal_cfg": {}}, "CoCa"),
        (PLAIN | {"new_trick": 1}, "in model_cfg, new_trick is nothing"),
        (PLAIN | {"quick_gelu": "false"}, "quick_gelu is 'false', true or false"),
        (PLAIN | {"embed_dim": 0}, "embed_dim is 0"),
        (PLAIN | {"init_logit_bias": -10}, "logits with bias: True"),
        ({"embed_dim": 24, "text_cfg": TEXT}, "has no vision_cfg"),
        (with_vision(qk_norm=True), "qk_norm is True, but only False"),
        (with_vision(ls_init_value=0.1), "ls_init_value is 0.1, but only None"),
        (with_vision(no_ln_pre=True), "no_ln_pre is True"),
        (with_vision(pool_type="avg"), "pool_type is 'avg'"),
        (with_vision(attentional_pool=True), "attentional_pool is True"),
        (with_vision(new_trick=1), "in vision_cfg, new_trick is nothing"),
        (with_vision(image_size=[32, 64]), r"image_size is \[32, 64\]"),
        (with_vision(head_width=48), "width 128 does not divide into heads of 48"),
        (with_vision(norm_kwargs={"eps": 1e-6, "bias": False}), "norm_kwargs is"),
        (with_vision(act_kwargs={"slope": 1}), "act_kwargs is"),
        (with_text(act_kwargs={"approximate": "tanh"}) | {"quick_gelu": True}, "contradict each other"),
        (with_text(hf_model_name="roberta-base"), "its text tower is 'roberta-base' of transformers"),
        (with_text(embed_cls=True), "embed_cls is True"),
        (with_text(pool_type="first"), "pool_type is 'first'"),
        (with_text(no_causal_mask=True), r"text tower \(causal: False"),
        (with_text(proj_bias=True), "projection 'linear'"),
        (with_text(heads=5), "width 32 does not divide into 5 heads"),
        (PLAIN | {"vision_cfg": EVA | {"timm_model_name": "no_such_tower"}}, "has no such tower"),
        (PLAIN | {"vision_cfg": EVA | {"timm_model_name": "hf-hub:some/where"}}, "has no such tower"),
        (
            PLAIN | {"vision_cfg": EVA | {"timm_model_name": "resnet18"}},
            "'resnet18' of timm is not supported",
        ),
        (
            PLAIN | {"vision_cfg": EVA | {"timm_model_name": "eva02_tiny_patch8_clip_32", "image_size": 64}},
            r"it reads 32 px, but image_size is 64",
        ),
        (SIGLIP_MODEL | {"text_cfg": SIGLIP_TEXT | {"no_causal_mask": False}}, "is not SigLIP's"),
        (SIGLIP_MODEL | {"text_cfg": SIGLIP_TEXT, "embed_dim": 32}, "gives 64 channels, but embed_dim is 32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_be_computed_otherwise_is_refused_by_name(model_cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build_open_clip(model_cfg, source="the checkpoint")
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_the_activation_is_that_of_the_configuration(tmp_path: Path) -> None:
    theirs = open_clip_model(PLAIN)
    folders = {
        quick: write_folder(tmp_path / str(quick), PLAIN | {"quick_gelu": quick}, theirs.state_dict())
        for quick in (True, False)
    }
    pixels = pixels_for(PLAIN)
    exact, quick = (
        load_checkpoint(str(folders[quick])).model.get_image_features(pixels).pooler_output
        for quick in (False, True)
    )
    assert close(exact, theirs.encode_image(pixels)) and not close(quick, exact, 1e-3)


@pytest.mark.parametrize(
    ("folder", "more"),
    [("ViT-B-16-quickgelu", {}), ("plain", {"pretrained_cfg": {"quick_gelu": True}})],
)
def test_a_contradiction_about_the_activation_is_refused(tmp_path: Path, folder: str, more: Any) -> None:
    write_folder(tmp_path / folder, PLAIN, open_clip_model(PLAIN).state_dict(), **more)
    with pytest.raises(ValueError, match="contradicts .*: quick_gelu of its model_cfg is False"):
        load_checkpoint(str(tmp_path / folder))


def changed(name: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights with one fault."""
    bias = "visual.transformer.resblocks.1.ln_1.bias"
    if name == "missing":
        return {key: tensor for key, tensor in tensors.items() if key != bias}
    if name == "left over":
        return tensors | {"visual.prompt": torch.zeros(3)}
    if name == "another shape":
        return tensors | {bias: torch.zeros(7)}
    if name == "one block more":
        more = {key.replace("blocks.2.", "blocks.3."): value for key, value in tensors.items()}
        return tensors | more
    if name == "of another width":
        return open_clip_model(with_vision(width=64)).state_dict()
    assert name == "not a number"
    return tensors | {bias: torch.full((128,), torch.nan)}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "lacks 1 weight of CLIPModel .*encoder.layers.1.layer_norm1.bias"),
        (
            "left over",
            r"holds 1 weight that CLIPModel of its configuration has no place for \(visual.prompt\)",
        ),
        ("another shape", r"layer_norm1.bias of .* has shape \[7\], but \[128\]"),
        ("one block more", "have 4 blocks visual.transformer.resblocks, but 3"),
        ("of another width", r"class_embedding of .* has shape \[64\], but \[128\] is what .* \(and 55 more"),
        ("not a number", "layer_norm1.bias' of .* NaN"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path: Path, fault: str, message: str) -> None:
    write_folder(tmp_path, PLAIN, changed(fault, open_clip_model(PLAIN).state_dict()))
    with pytest.raises(ValueError, match=message):
        load_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    "model_cfg",
    [
        with_text(vocab_size=2**30),
        with_vision(layers=2**20),
        with_vision(image_size=2**30),
        with_text(width=2**25),
    ],
    ids=["vocabulary", "layers", "pixels", "width"],
)
def test_absurd_sizes_are_refused_before_anything_is_built(tmp_path: Path, model_cfg: dict[str, Any]) -> None:
    write_folder(tmp_path, model_cfg, open_clip_model(PLAIN).state_dict())
    with pytest.raises(ValueError, match="is what its configuration says|; is its configuration right"):
        load_checkpoint(str(tmp_path))


@torch.no_grad()
def test_other_files_of_weights_give_the_same(tmp_path: Path) -> None:
    theirs = open_clip_model(PLAIN)
    folder = write_folder(tmp_path, PLAIN, theirs.state_dict())
    expected = load_checkpoint(str(folder)).model.state_dict()
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights; one of open_clip_model.safetensors, "):
        load_checkpoint(str(folder))
    parallel = {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}
    as_custom_text = {
        f"text.{name}" if not name.startswith(("visual", "logit")) else name: tensor
        for name, tensor in theirs.state_dict().items()
    }
    vector_of_one = theirs.state_dict() | {"logit_scale": theirs.logit_scale.detach()[None]}
    for stored in (theirs.state_dict(), {"state_dict": parallel}, as_custom_text, vector_of_one):
        torch.save(stored, folder / "open_clip_pytorch_model.bin")
        found = load_checkpoint(str(folder)).model.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert load_checkpoint(str(folder), dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_transformers_files_come_first_where_both_are(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, PLAIN, open_clip_model(PLAIN).state_dict())
    (folder / "config.json").write_text('{"architecture": "vit_base_patch16_clip_224"}')  # timm's
    checkpoint = load_checkpoint(str(folder))
    checkpoint.model.logit_scale.data.fill_(1.5)
    checkpoint.model.save_pretrained(folder)
    assert load_checkpoint(str(folder)).model.logit_scale.item() == 1.5


@pytest.mark.parametrize(
    ("preprocess_cfg", "expected"),
    [
        (None, ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), 3)),
        (
            {
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.25, 1],
                "interpolation": "bilinear",
                "resize_mode": "squash",
            },
            ((0.5, 0.5, 0.5), (0.5, 0.25, 1.0), 2),
        ),
    ],
)
def test_images_are_normalized_as_the_configuration_says(
    tmp_path: Path, preprocess_cfg: Any, expected: Any
) -> None:
    more = {} if preprocess_cfg is None else {"preprocess_cfg": preprocess_cfg}
    write_folder(tmp_path, PLAIN, open_clip_model(PLAIN).state_dict(), **more)
    found = load_checkpoint(str(tmp_path)).normalization
    assert found is not None and (found.mean, found.std, found.resample) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": [0.5]},
        {"std": [0, 1, 1]},
        {"mean": ["a", 0, 0]},
        {"interpolation": "nearest"},
        {"mode": "L"},
        [],
    ],
)
def test_wrong_normalizations_are_refused(tmp_path: Path, wrong: Any) -> None:
    write_folder(tmp_path, PLAIN, {}, preprocess_cfg=wrong)
    with pytest.raises(ValueError, match=r"preprocess_cfg of .* must "):
        load_checkpoint(str(tmp_path))


def save_tokenizer(folder: Path, *, end: int = END) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that ends a text with the token `end`."""
    words = ["a", "photo", "of", "dog", "cat", "big", "the", "."]
    vocabulary = {"<pad>": 0, "<start>": 40, "<unk>": 41, "<end>": end}
    vocabulary |= {word: 3 + number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 40), ("<end>", end)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", model_max_length=TOKENS
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-H-14-worldwide", "EVA02-B-16", "RN50", "ViT-B-16-SigLIP"])
@torch.no_grad()
def test_texts_and_images_go_all_the_way(tmp_path: Path, name: str) -> None:
    model_cfg = CASES[name]
    theirs = open_clip_model(model_cfg)
    write_folder(tmp_path, model_cfg, theirs.state_dict())
    end = 2 if name == "ViT-H-14-worldwide" else END
    tokenizer = save_tokenizer(tmp_path, end=end)
    clip = CLIPSurgery.from_pretrained(str(tmp_path), device="cpu")
    texts = ["a photo of a dog", "cat"]
    ids = torch.tensor(tokenizer(texts, padding="max_length", max_length=TOKENS)["input_ids"])
    for _ in ("computed", "from the cache"):
        found = clip.encode_text(texts, templates=None)
        assert close(found, theirs.encode_text(ids, normalize=True))
    side = pixels_for(model_cfg).shape[-1]
    image = torch.randint(
        0, 256, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(4)
    )
    result = clip.explain(image, dict(zip(texts, found, strict=True)))
    assert result.heatmaps()[0].shape == (2, side, side)


def test_texts_are_cleaned_as_open_clip_cleans_them(tmp_path: Path) -> None:
    model_cfg = with_text(tokenizer_kwargs={"clean": "canonicalize"})
    write_folder(tmp_path, model_cfg, open_clip_model(PLAIN).state_dict())
    plain = save_tokenizer(tmp_path)
    cleaned = load_checkpoint(str(tmp_path)).tokenizer
    for text in ("A big_Dog.", "  the  CAT! (of) a\tphoto?", 'photo-of "a" dog\\cat', "[dog]^cat"):
        assert cleaned(text)["input_ids"] == plain(canonicalize_text(text))["input_ids"]
        assert cleaned(text)["input_ids"] != plain(text)["input_ids"]


@pytest.mark.parametrize(
    ("text", "end", "message"),
    [
        ({}, 39, "reads a text at its highest id"),
        ({"pool_type": "eos", "eos_id": 5}, END, "reads a text at the id 5"),
        (
            {"tokenizer_kwargs": {"strip_sep_token": True}},
            END,
            "prepares texts in a way that is not supported",
        ),
        ({"tokenizer_mode": "clips"}, END, "prepares texts in a way that is not supported"),
    ],
)
def test_a_tokenizer_that_would_mislead_the_model_is_refused(
    tmp_path: Path, text: dict[str, Any], end: int, message: str
) -> None:
    write_folder(tmp_path, with_text(**text), open_clip_model(PLAIN).state_dict())
    assert load_checkpoint(str(tmp_path)).tokenizer is None
    save_tokenizer(tmp_path, end=end)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(str(tmp_path))


def test_the_description_in_the_documents_is_one() -> None:
    text = (DOCS / "formats.md").read_text()
    model_cfg = json.loads(text.split("```json")[1].split("```")[0])["model_cfg"]
    expected = open_clip.get_model_config("ViT-B-16-quickgelu")
    assert read_architecture(model_cfg, "docs") == read_architecture(expected, "OpenCLIP")


def test_a_configuration_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": {}}))
    with pytest.raises(ValueError, match="open_clip_config.json has no model_cfg"):
        load_checkpoint(str(tmp_path))
