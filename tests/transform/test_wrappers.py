"""What people wrap around models or hang into them works under surgery: LoRA, hooks, DDP, other wrappers."""

import copy
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import CLIPModel

from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.transform import SurgeryState, apply_surgery, remove_surgery, surgery_state


def pixels(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(23))


def tokens(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return find_tower(model).encode(pixels())


def with_lora(model: CLIPModel) -> PeftModel:
    """Adapters that are not zero on q and v of the vision tower."""
    torch.manual_seed(4)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=r"vision_model.*\.(q|v)_proj", init_lora_weights=False
    )
    return get_peft_model(model, config).eval()


@pytest.mark.parametrize("first", ["LoRA", "surgery"])
def test_lora_acts_on_both_paths(tiny_clip: CLIPModel, first: str) -> None:
    """A model with adapters gives the tokens of the model that has the adapters merged into its weights."""
    without = tokens(apply_surgery(copy.deepcopy(tiny_clip), depth=3))
    merged = with_lora(copy.deepcopy(tiny_clip)).merge_and_unload()
    expected = tokens(apply_surgery(merged, depth=3))
    if first == "LoRA":
        model = apply_surgery(with_lora(tiny_clip), depth=3)
    else:
        model = with_lora(apply_surgery(tiny_clip, depth=3))
    assert surgery_state(model) == SurgeryState("clip_surgery", 3)
    torch.testing.assert_close(tokens(model), expected, rtol=0, atol=1e-5)
    assert (expected - without).abs().max() > 0.01
    plain = remove_surgery(model).merge_and_unload()
    torch.testing.assert_close(tokens(apply_surgery(plain, depth=3)), expected, rtol=0, atol=1e-5)


def test_lora_is_trained_by_a_loss_on_the_patches(tiny_clip: CLIPModel) -> None:
    model = apply_surgery(with_lora(tiny_clip), depth=3).train()
    find_tower(model).encode(pixels())[:, 1:].std().backward()
    norms = {
        name: parameter.grad.norm() if parameter.grad is not None else torch.zeros(())
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert len(norms) == 16
    # The last block's query only makes CLS, which this loss does not see.
    silent = {name for name, norm in norms.items() if norm == 0}
    assert all("layers.3.self_attn.q_proj" in name for name in silent)
    assert len(silent) == 2


def test_adapters_are_saved_as_without_surgery(tiny_clip: CLIPModel, tmp_path: Path) -> None:
    model = with_lora(tiny_clip)
    model.save_pretrained(tmp_path / "plain")
    apply_surgery(model).save_pretrained(tmp_path / "modified")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "modified" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def record(model: CLIPModel) -> dict[str, list[Any]]:
    """What forward hooks on every module of the vision tower saw, in the order of the calls."""
    seen: dict[str, list[Any]] = defaultdict(list)

    def watch(path: str) -> None:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            seen[path].append(first.last_hidden_state if hasattr(first, "last_hidden_state") else first)

        model.vision_model.get_submodule(path).register_forward_hook(hook)

    for path, _ in model.vision_model.named_modules():
        watch(path)
    return seen


@torch.no_grad()
def test_hooks_see_the_original_path(tiny_clip: CLIPModel) -> None:
    """Every module is called as often as before, with the same values, in every block.

    Only the output projection of a modified block has a second call, that of the new path, which comes
    first; and the encoder and the tower around it give the new patches.
    """
    plain = copy.deepcopy(tiny_clip)
    apply_surgery(tiny_clip, depth=3)
    before, after = record(plain), record(tiny_clip)
    plain.vision_model(pixels())
    out = tiny_clip.vision_model(pixels())
    assert after.keys() == before.keys()
    whole = {"", "encoder"}
    twice = {f"encoder.layers.{index}.self_attn.out_proj" for index in (1, 2, 3)}
    for path in before.keys() - whole:
        assert len(after[path]) == (2 if path in twice else 1), path
        assert torch.equal(after[path][-1], before[path][-1]), path
    for path in whole:
        assert torch.equal(after[path][0][:, 0], before[path][0][:, 0])
        assert torch.equal(after[path][0], out.last_hidden_state)


@torch.no_grad()
def test_a_hook_that_changes_values_changes_both_paths(tiny_clip: CLIPModel) -> None:
    """Silencing half of the values by a hook equals silencing them in the weights."""
    edited = copy.deepcopy(tiny_clip)
    projection = edited.vision_model.encoder.layers[2].self_attn.v_proj
    projection.weight[:32] = 0
    projection.bias[:32] = 0
    without = tokens(apply_surgery(copy.deepcopy(tiny_clip), depth=3))
    expected = tokens(apply_surgery(edited, depth=3))
    assert (expected - without).abs().max() > 0.01

    def silence(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output * (torch.arange(64) >= 32)

    apply_surgery(tiny_clip, depth=3)
    handle = tiny_clip.vision_model.encoder.layers[2].self_attn.v_proj.register_forward_hook(silence)
    torch.testing.assert_close(tokens(tiny_clip), expected, rtol=0, atol=1e-6)
    handle.remove()
    assert torch.equal(tokens(tiny_clip), without)


LAST = "vision_model.encoder.layers.3"


@pytest.mark.parametrize("part", ["", ".mlp.fc2", ".self_attn.q_proj", ".layer_norm2"])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "replaced", "global"])
def test_whoever_looks_into_the_last_block_sees_it_whole(tiny_clip: CLIPModel, part: str, kind: str) -> None:
    apply_surgery(tiny_clip, depth=3)
    module = tiny_clip.get_submodule(LAST + part)
    shapes = []

    def look(*values: Any) -> None:
        watched, first = values[0], values[1]
        if watched is module:
            shapes.append(tuple((first[0] if isinstance(first, tuple) else first).shape[:2]))

    handle = None
    if kind == "replaced":
        forward = module.forward

        def replaced(*args: Any, **kwargs: Any) -> Any:
            look(module, args)
            return forward(*args, **kwargs)

        module.forward = replaced  # type: ignore[method-assign]
    elif kind == "global":
        handle = nn.modules.module.register_module_forward_hook(look)
    else:
        handle = getattr(module, f"register_{kind}_hook")(look)
    out = tiny_clip.vision_model(pixels().requires_grad_()).last_hidden_state
    out.sum().backward()
    if handle is not None:
        handle.remove()
    assert shapes == [(2, 17)]


@pytest.mark.parametrize("part", ["encoder", "encoder.layers.2.self_attn"])
def test_a_forward_that_hides_the_class_is_refused(tiny_clip: CLIPModel, part: str) -> None:
    """Surgery would have no effect, or no way back: better an error than plain patches."""
    module = tiny_clip.vision_model.get_submodule(part)
    module.forward = module.forward  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"was replaced on the module itself.*remove_hook_from_submod"):
        apply_surgery(tiny_clip, depth=3)
    assert surgery_state(tiny_clip) is None
    del module.forward
    apply_surgery(tiny_clip, depth=3)
    module.forward = module.forward  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="was replaced on the module itself"):
        remove_surgery(tiny_clip)
    assert surgery_state(tiny_clip) == SurgeryState("clip_surgery", 3)


def test_weights_that_are_loaded_when_needed(tiny_clip: CLIPModel) -> None:
    """accelerate keeps the weights elsewhere and puts them into each module as it is called."""
    expected = tokens(apply_surgery(tiny_clip, depth=3))
    accelerate = pytest.importorskip("accelerate")
    accelerate.cpu_offload(tiny_clip, execution_device="cpu")
    assert {parameter.device.type for parameter in tiny_clip.vision_model.encoder.parameters()} == {"meta"}
    with torch.no_grad():
        found = tiny_clip.vision_model(pixels()).last_hidden_state
    accelerate.hooks.remove_hook_from_submodules(tiny_clip)
    torch.testing.assert_close(find_tower(tiny_clip).embed(found), expected, rtol=0, atol=1e-6)
    remove_surgery(tiny_clip)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("first", ["DDP", "surgery"])
def test_ddp(tiny_clip: CLIPModel, first: str) -> None:
    vision = tiny_clip.vision_model
    reference = apply_surgery(copy.deepcopy(vision), depth=3)
    if first == "DDP":
        model = apply_surgery(DistributedDataParallel(vision), depth=3)
    else:
        model = DistributedDataParallel(apply_surgery(vision, depth=3))
    assert surgery_state(model) == SurgeryState("clip_surgery", 3)
    losses = []
    for network in (model, reference):
        out = network(pixels())
        losses.append(out.last_hidden_state.square().mean() + out.pooler_output.sum())
        losses[-1].backward()
    assert torch.equal(*losses)
    for new, old in zip(model.module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(new.grad, old.grad)
    remove_surgery(model)
    assert surgery_state(vision) is None
