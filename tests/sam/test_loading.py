"""Loading SAM: the kind from the shapes, the masks of the SAM that was saved, nothing executed."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    SamImageProcessor,
)

from clip_surgery_hub.sam.backends import SamAndProcessor
from clip_surgery_hub.sam.loading import load_sam
from clip_surgery_hub.sam.masks import masks
from tests.support.tiny_sams import (
    BEFORE_5_20,
    FAMILIES,
    NAMES,
    SIDE,
    as_transformers,
    explained,
    random_image,
    sam2_parts,
    seeded,
    tiny_sam,
)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return tiny_sam().state_dict()


def refused(path: Path | str, *messages: str, kind: type[Exception] = ValueError) -> None:
    """Loading fails in one line that names the path and holds every message."""
    with pytest.raises(kind) as caught:
        load_sam(path)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    for message in messages:
        assert message in line
    assert "weights_only" not in line  # never the advice to execute it


# Files of segment-anything


def test_a_file_gives_the_sam_that_was_saved(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, tmp_path / "any name")
    loaded = load_sam(tmp_path / "any name")
    assert type(loaded) is SamPredictor and not loaded.model.training
    assert all(torch.equal(value, weights[name]) for name, value in loaded.model.state_dict().items())
    explanation = explained(random_image(40, 64), random_image(90, 50))
    before, after = masks(explanation, SamPredictor(tiny_sam())), masks(explanation, loaded)
    for one, other in zip(before.masks, after.masks, strict=True):
        assert one.any() and torch.equal(one, other)


@pytest.mark.parametrize("kind", ["vit_b", "vit_l", "vit_h"])
def test_the_published_kinds_are_told_by_their_shapes(tmp_path: Path, kind: str) -> None:
    with torch.device("meta"):
        published = sam_model_registry[kind]()
    # Zeros that share one number, so that the file is small; under another kind's name.
    zeros = {name: torch.zeros(()).expand(value.shape) for name, value in published.state_dict().items()}
    torch.save(zeros, tmp_path / "sam_vit_x.pth")
    sam = load_sam(tmp_path / "sam_vit_x.pth").model

    def described(model: Any) -> list[Any]:
        blocks = model.image_encoder.blocks
        return [
            str(model),  # every layer with its sizes
            [(block.window_size, block.attn.num_heads, block.attn.scale) for block in blocks],
            [layer.self_attn.num_heads for layer in model.mask_decoder.transformer.layers],
            (model.image_encoder.img_size, model.prompt_encoder.input_image_size),
            (model.prompt_encoder.image_embedding_size, model.mask_decoder.num_multimask_outputs),
        ]

    assert described(sam) == described(published)
    assert sam.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert sam.pixel_std.flatten().tolist() == pytest.approx([58.395, 57.12, 57.375])


def test_a_file_in_half_precision_is_computed_in_float32(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save({name: value.half() for name, value in weights.items()}, tmp_path / "half.pth")
    sam = load_sam(str(tmp_path / "half.pth")).model
    for name, value in sam.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, weights[name].half().float())


def test_the_device_is_the_one_asked_for(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, tmp_path / "sam.pth")
    as_transformers(tiny_sam()).save_pretrained(tmp_path / "folder")
    for model in (
        load_sam(tmp_path / "sam.pth", device="meta").model,
        load_sam(tmp_path / "folder", device="meta"),
    ):
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


class Executed:
    """What it makes when unpickled shows that a file was executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    torch.save({"weight": Executed(mark)}, tmp_path / "saved.pth")
    (tmp_path / "pickled.pth").write_bytes(pickle.dumps(Executed(mark), protocol=2))
    torch.save(tiny_sam(), tmp_path / "whole module.pth")
    for name in ("saved.pth", "pickled.pth", "whole module.pth"):
        refused(
            tmp_path / name, "damaged, of another kind, or holds more than tensors", "vit_b, vit_l or vit_h"
        )
    assert not mark.exists()
    pickle.loads(pickle.dumps(Executed(mark)))
    assert mark.exists()  # the trap works


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-30],
        lambda whole: b"<html>404: Not Found</html>",
        lambda whole: bytes(1000),
    ],
    ids=["empty", "half", "end missing", "web page", "zeros"],
)
def test_a_damaged_file_is_refused(
    tmp_path: Path, weights: dict[str, Tensor], damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "sam.pth"
    torch.save(weights, path)
    path.write_bytes(damage(path.read_bytes()))
    refused(path, "is no checkpoint of segment-anything", "damaged", "Download a vit_b")


def without(name: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def instead(name: str, *shape: int) -> Callable[[dict[str, Tensor]], Any]:
    return lambda weights: weights | {name: torch.zeros(shape)}


NECK, POSITION = "image_encoder.neck.1.bias", "image_encoder.pos_embed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(NECK), f"it lacks {NECK}."),
        (without(POSITION), f"it lacks {POSITION}."),
        (lambda weights: {}, f"it lacks {POSITION}."),
        (instead("mask_decoder.hf_token.weight", 1, 32), "it also holds mask_decoder.hf_token.weight."),
        (instead(NECK, 31), f"{NECK} has shape [31] in place of [32]"),
        (instead(POSITION, 1, 9, 9, 32), "in place of"),
        (instead(POSITION, 32), "shapes that make no SAM"),
        (instead("image_encoder.blocks.0.attn.rel_pos_h", 5, 0), "shapes that make no SAM"),
        (lambda weights: {"model": weights}, "it holds a dict of other things than tensors"),
        (lambda weights: list(weights.values()), "it holds a list of other things than tensors"),
        (
            lambda weights: {name.replace("image", "video"): value for name, value in weights.items()},
            "it lacks",
        ),
    ],
)
def test_weights_of_something_else_are_refused(
    tmp_path: Path, weights: dict[str, Tensor], change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    torch.save(change(dict(weights)), tmp_path / "sam.pth")
    refused(tmp_path / "sam.pth", message, "are given as folders of transformers")


# Folders of transformers


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_gives_the_model_that_was_saved(tmp_path: Path, name: str) -> None:
    model, explanation = FAMILIES[name](), explained(random_image(50, 30))
    model.save_pretrained(tmp_path)
    loaded = load_sam(tmp_path)
    assert type(loaded) is type(model) and not loaded.training
    saved = model.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())
    before, after = masks(explanation, model), masks(explanation, loaded)  # alike but for rounding
    assert (before.masks[0] != after.masks[0]).sum() <= 3
    torch.testing.assert_close(before.scores[0], after.scores[0], rtol=0, atol=1e-5)


def test_a_folder_with_a_processor_is_read_with_it(tmp_path: Path) -> None:
    model = as_transformers(tiny_sam())
    model.save_pretrained(tmp_path)
    mean = [0.1, 0.2, 0.3]
    processor = SamImageProcessor(
        size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE}, image_mean=mean
    )
    processor.save_pretrained(tmp_path)
    loaded = load_sam(tmp_path)
    assert isinstance(loaded, SamAndProcessor)
    assert list(loaded.processor.image_mean) == mean
    explanation = explained(random_image(50, 30))
    expected, found = masks(explanation, (model, processor)), masks(explanation, loaded)
    torch.testing.assert_close(expected.scores[0], found.scores[0], rtol=0, atol=1e-5)
    assert (masks(explanation, model).scores[0] - found.scores[0]).abs().max() > 1e-3


def test_a_folder_in_half_precision_is_computed_in_float32(tmp_path: Path) -> None:
    as_transformers(tiny_sam()).half().save_pretrained(tmp_path)
    assert load_sam(tmp_path).dtype == torch.float32


@BEFORE_5_20
def test_the_video_models_of_sam_2_hold_a_model_of_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = ("attention_hidden", "attention_feed_forward_hidden", "encoder_hidden")
    memory = {f"memory_{part}_size": 32 for part in small} | {
        "memory_attention_rope_feat_sizes": [4, 4],
        "memory_encoder_output_channels": 16,
        "memory_fuser_embed_dim": 32,
        "memory_fuser_intermediate_dim": 32,
    }
    video = seeded(Sam2VideoModel(Sam2VideoConfig(**sam2_parts(), **memory, image_size=SIDE)))
    video.save_pretrained(tmp_path)
    loaded = load_sam(tmp_path)
    assert type(loaded) is Sam2Model and not caplog.records
    kept = video.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in loaded.state_dict().items())
    assert masks(explained(random_image(50, 30)), loaded).masks[0].shape == (3, 50, 30)


def test_code_in_a_folder_is_not_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    as_transformers(tiny_sam()).save_pretrained(tmp_path)
    SamImageProcessor(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE}).save_pretrained(
        tmp_path
    )
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass Evil: pass\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    processor["auto_map"] = {"AutoImageProcessor": "evil.Evil"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    load_sam(tmp_path)
    assert not mark.exists()
    processor["image_processor_type"] = "Evil"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    refused(tmp_path, "image processor")
    assert not mark.exists()


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "config.json is not there", "the .pth file itself")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "is damaged; copy it again")
    (tmp_path / "config.json").write_text("[1]")
    refused(tmp_path, "is damaged; copy it again")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "a model of type 'None', no SAM that takes points")
    CLIPVisionModel(
        CLIPVisionConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
    ).save_pretrained(tmp_path)
    refused(tmp_path, "a model of type 'clip_vision_model'", "sam, sam_hq, sam2, sam2_video, edgetam")


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    as_transformers(tiny_sam()).save_pretrained(tmp_path)
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    # Copies, for the file that they were read from, and may still be mapped from, is written over.
    whole, settings = {name: value.clone() for name, value in load_file(file).items()}, config.read_text()
    (tmp_path / "preprocessor_config.json").write_text("{")
    refused(
        tmp_path, "The image processor in", "copy preprocessor_config.json or processor_config.json again"
    )
    (tmp_path / "preprocessor_config.json").unlink()
    config.write_text(json.dumps(json.loads(settings) | {"vision_config": 7}))
    refused(tmp_path, "The SamModel in", "copy them again")
    config.write_text(settings)
    some = {name: value for name, value in whole.items() if "neck" not in name}
    save_file(some, file, metadata={"format": "pt"})
    refused(
        tmp_path, "lack vision_encoder.neck.conv1.weight and 5 more of SamModel", "give a complete checkpoint"
    )
    save_file(
        whole | {NECK.replace("image", "vision").replace("1.bias", "layer_norm1.bias"): torch.zeros(7)}, file
    )
    refused(tmp_path, "The SamModel in", "copy them again")
    file.write_bytes(file.read_bytes()[:2000])
    refused(tmp_path, "The SamModel in", "copy them again")
    file.unlink()
    refused(tmp_path, "The SamModel in", "copy them again")


# Names


def test_a_sam_that_comes_with_the_package_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clip_surgery_hub.sam.loading._BUNDLED", tmp_path)
    as_transformers(tiny_sam()).save_pretrained(tmp_path / "sam_small.scenes")
    assert type(load_sam("sam_small.scenes")).__name__ == "SamModel"


@pytest.mark.parametrize("name", ["no_such_sam", "folder/no_such_sam.pth", "/no/such/sam.pth", ""])
def test_what_is_not_there_is_refused(name: str) -> None:
    refused(name, "There is no SAM", "Check the path", kind=FileNotFoundError)


@pytest.mark.parametrize("name", ["owner/no-such-sam", "owner/no--such-name"])
def test_a_hub_id_that_cannot_be_reached_is_refused(name: str) -> None:
    refused(name, "not in the cache", "check the name and the network", kind=OSError)
