"""What surgery leaves behind on a model: nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPModel
from transformers.models.clip import modeling_clip
from transformers.models.clip.modeling_clip import CLIPAttention

from clip_surgery_hub.methods import Method, register_method
from clip_surgery_hub.transform import apply_surgery, remove_surgery, surgery_state
from tests.support.model_state import walk


def needs_the_grid(value: Tensor, grid: tuple[int, int]) -> Tensor:
    flipped = value[:, :, 1:].unflatten(2, grid).flip(2).flatten(2, 3)
    return torch.cat([value[:, :, :1], flipped], dim=2)


@pytest.fixture(params=["clip_surgery", "none", "needs_the_grid"])
def method(request: pytest.FixtureRequest, restored_methods: None) -> str:
    register_method(Method("needs_the_grid", needs_the_grid, 3))
    return str(request.param)


def family_classes() -> dict[str, dict[str, Any]]:
    classes = {name: value for name, value in vars(modeling_clip).items() if isinstance(value, type)}
    return {name: dict(vars(value)) for name, value in classes.items()} | {
        "module": dict(vars(modeling_clip))
    }


@pytest.fixture
def model(tiny_clip: CLIPModel) -> CLIPModel:
    """With marks that surgery must not lose: frozen weights, a hook of someone else."""
    for parameter in tiny_clip.vision_model.encoder.layers[1].parameters():
        parameter.requires_grad_(False)
    tiny_clip.vision_model.encoder.layers[3].register_forward_hook(print_nothing)
    return tiny_clip


def print_nothing(module: nn.Module, args: Any, output: Any) -> None: ...


def test_the_walk_sees_what_could_be_left_behind(model: CLIPModel) -> None:
    before = walk(model)
    apply_surgery(model, depth=2)
    changed = {key for key, value in walk(model).items() if before.get(key) != value}
    assert changed == {
        "vision_model.encoder: module",
        "vision_model.encoder: surgery",
        "vision_model.encoder.layers.2.self_attn: module",
        "vision_model.encoder.layers.3.self_attn: module",
    }


def test_nothing_is_left_after_apply_and_remove(model: CLIPModel, method: str) -> None:
    before, classes = walk(model), family_classes()
    apply_surgery(model, method)
    with torch.no_grad():
        model.vision_model(torch.zeros(1, 3, 32, 32))
        model.vision_model(torch.zeros(1, 3, 48, 32), interpolate_pos_encoding=True)
    remove_surgery(model)
    assert walk(model) == before
    assert family_classes() == classes


def test_a_call_leaves_nothing_on_the_model(model: CLIPModel, method: str) -> None:
    apply_surgery(model, method)
    before = walk(model)
    with torch.no_grad():
        model.vision_model(torch.zeros(1, 3, 32, 32))
        model.vision_model(torch.zeros(1, 3, 48, 32), interpolate_pos_encoding=True)
    assert walk(model) == before


@pytest.mark.parametrize(
    ("method", "failing"),
    [("clip_surgery", 1), ("clip_surgery", 3), ("clip_surgery", 5), ("none", 1), ("needs_the_grid", 4)],
    indirect=["method"],
)
def test_nothing_is_left_after_an_apply_that_fails_half_way(
    model: CLIPModel, method: str, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class of the n-th module cannot be changed: the n-1 modules before it get theirs back."""
    assigned: list[type] = []

    def refuse(self: nn.Module, name: str, value: Any) -> None:
        if name == "__class__" and value.__name__.endswith("WithSurgery"):
            assigned.append(value)
            if len(assigned) == failing:
                raise MemoryError("no room for another class")
        nn.Module.__setattr__(self, name, value)

    before = walk(model)
    with monkeypatch.context() as patch:
        patch.setattr(CLIPAttention, "__setattr__", refuse, raising=False)
        patch.setattr(type(model.vision_model.encoder), "__setattr__", refuse, raising=False)
        with pytest.raises(MemoryError):
            apply_surgery(model, method)
    assert len(assigned) == failing
    assert walk(model) == before
    assert surgery_state(apply_surgery(model, method)) is not None


@pytest.mark.parametrize("options", [{"method": "clip_surgey"}, {"depth": 99}, {"depth": 0}])
def test_nothing_is_left_after_a_refusal(model: CLIPModel, options: dict[str, Any]) -> None:
    before = walk(model)
    with pytest.raises(ValueError):
        apply_surgery(model, **options)
    assert walk(model) == before


def test_keys_parameters_and_gradient_flags_stay_the_same_objects(model: CLIPModel) -> None:
    keys = list(model.state_dict())
    parameters = [(id(p), p.requires_grad) for p in model.parameters()]
    apply_surgery(model)
    assert list(model.state_dict()) == keys
    assert [(id(p), p.requires_grad) for p in model.parameters()] == parameters


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_saved_files_are_those_of_the_plain_model(model: CLIPModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "plain")
    apply_surgery(model)
    model.save_pretrained(tmp_path / "modified")
    plain = files_of(tmp_path / "plain")
    assert files_of(tmp_path / "modified") == plain
    assert json.loads(plain["config.json"])["architectures"] == ["CLIPModel"]
    loaded = CLIPModel.from_pretrained(tmp_path / "modified")
    assert surgery_state(loaded) is None


def test_weights_can_be_loaded_into_a_model_under_surgery(model: CLIPModel) -> None:
    other = CLIPModel(model.config).eval()
    apply_surgery(other).load_state_dict(model.state_dict())
    pixels = torch.ones(1, 3, 32, 32)
    with torch.no_grad():
        expected = apply_surgery(model).vision_model(pixels).last_hidden_state
        torch.testing.assert_close(other.vision_model(pixels).last_hidden_state, expected)
