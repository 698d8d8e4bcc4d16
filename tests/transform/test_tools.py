"""What people do with models works under surgery: copying, pickling, precision, checkpointing, compiling."""

import copy
import io
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import CLIPModel, CLIPVisionModel

from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.transform import SurgeryState, apply_surgery, remove_surgery, surgery_state


def pixels(height: int = 32, width: int = 32, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(17))


def tokens(model: nn.Module, given: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return find_tower(model).encode(pixels() if given is None else given)


@pytest.fixture
def modified(tiny_clip: CLIPModel) -> CLIPModel:
    return apply_surgery(tiny_clip, depth=3)


def test_deepcopy_is_independent(modified: CLIPModel) -> None:
    expected = tokens(modified)
    twin = copy.deepcopy(modified)
    assert surgery_state(twin) == SurgeryState("clip_surgery", 3)
    assert torch.equal(tokens(twin), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    remove_surgery(twin)
    assert surgery_state(modified) == SurgeryState("clip_surgery", 3)
    assert torch.equal(tokens(modified), expected)


def test_pickle_and_torch_save(modified: CLIPModel) -> None:
    expected = tokens(modified)
    file = io.BytesIO()
    torch.save(modified, file)
    file.seek(0)
    for loaded in (
        pickle.loads(pickle.dumps(modified)),
        torch.load(file, weights_only=False),
    ):
        assert surgery_state(loaded) == SurgeryState("clip_surgery", 3)
        assert torch.equal(tokens(loaded), expected)
        assert type(remove_surgery(loaded).vision_model.encoder).__name__ == "CLIPEncoder"


@pytest.mark.slow
def test_pickle_is_read_by_a_process_that_never_applied_surgery(modified: CLIPModel, tmp_path: Path) -> None:
    (tmp_path / "model.pickle").write_bytes(pickle.dumps((modified, pixels(), tokens(modified))))
    reader = (
        "import pickle, torch\n"
        f"model, pixels, expected = pickle.load(open({str(tmp_path / 'model.pickle')!r}, 'rb'))\n"
        "from clip_surgery_hub.towers import find_tower\n"
        "with torch.no_grad():\n"
        "    print((find_tower(model).encode(pixels) - expected).abs().max().item())\n"
    )
    answer = subprocess.run([sys.executable, "-c", reader], capture_output=True, text=True, check=True)
    assert float(answer.stdout) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_half_precision_model(modified: CLIPModel, dtype: torch.dtype, implementation: str) -> None:
    modified.set_attn_implementation(implementation)
    expected = tokens(modified), tokens(modified, pixels(24, 40))
    modified.to(dtype)
    assert modified.vision_model(pixels().to(dtype)).last_hidden_state.dtype == dtype
    found = tokens(modified), tokens(modified, pixels(24, 40))
    for half, single in zip(found, expected, strict=True):
        assert half.dtype == torch.float32  # brought to unit length in it
        assert cosine_similarity(half.float(), single, dim=-1).min() > 0.999


def test_autocast(modified: CLIPModel) -> None:
    expected = tokens(modified)
    with torch.autocast("cpu", torch.bfloat16):
        found = tokens(modified)
    assert not torch.equal(found.float(), expected)
    assert cosine_similarity(found.float(), expected, dim=-1).min() > 0.999


def gradients(model: CLIPVisionModel, given: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    given.grad = None
    out = model(given).last_hidden_state
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"pixels": given.grad.clone(), "tokens": out.detach()}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing(modified: CLIPModel, use_reentrant: bool) -> None:
    """The same tokens and gradients; a block is forgotten and run again on the way back."""
    vision = modified.vision_model.train()
    expected = gradients(vision, pixels().requires_grad_())
    vision.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    runs = []
    for block in vision.encoder.layers:
        block.layer_norm2.register_forward_hook(lambda norm, *_: runs.append(norm))
    found = gradients(vision, pixels().requires_grad_())
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4, msg=name)
    assert len(runs) == 8
    runs.clear()
    vision.gradient_checkpointing_disable()
    gradients(vision, pixels().requires_grad_())
    assert len(runs) == 4


def test_gradient_checkpointing_changes_nothing_in_eval_mode(modified: CLIPModel) -> None:
    expected = tokens(modified)
    modified.gradient_checkpointing_enable()
    assert torch.equal(tokens(modified), expected)


BACKENDS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=pytest.mark.skipif(
            shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler"
        ),
    ),
]


def shortened(model: CLIPModel) -> CLIPModel:
    """Its last two vision blocks, where the new path begins and ends: a compiler takes its time for each."""
    encoder = model.vision_model.encoder
    encoder.layers = encoder.layers[-2:]
    return model


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_compile(tiny_clip: CLIPModel, backend: str) -> None:
    modified = apply_surgery(shortened(tiny_clip))
    expected = tokens(modified)
    torch.compiler.reset()
    tower = find_tower(modified)
    compiled = torch.compile(modified.vision_model, backend=backend, fullgraph=True)
    with torch.no_grad():
        found = compiled(pixels()).last_hidden_state
    torch.testing.assert_close(tower.embed(found), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_compiled_model_follows_surgery_and_its_removal(tiny_clip: CLIPModel) -> None:
    torch.compiler.reset()
    compiled = torch.compile(shortened(tiny_clip).vision_model, backend="aot_eager")
    plain, recorded = [], []
    with torch.no_grad():
        for wanted in (False, True):
            options = {"output_hidden_states": True} if wanted else {}
            before = compiled(pixels(), **options).last_hidden_state
            apply_surgery(compiled)
            assert surgery_state(tiny_clip) == SurgeryState("clip_surgery", 2)
            modified = compiled(pixels(), **options).last_hidden_state
            eager = tiny_clip.vision_model(pixels(), **options).last_hidden_state
            remove_surgery(tiny_clip)
            after = compiled(pixels(), **options).last_hidden_state
            torch.testing.assert_close(modified, eager, rtol=0, atol=1e-5)
            assert (modified - before).abs().max() > 0.1
            assert torch.equal(after, before)
            plain.append(before)
            recorded.append(modified)
    torch.testing.assert_close(plain[0], plain[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(recorded[0], recorded[1], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_export(tiny_clip: CLIPModel, strict: bool) -> None:
    modified = apply_surgery(shortened(tiny_clip) if strict else tiny_clip, depth=None if strict else 3)
    expected = tokens(modified)
    torch.compiler.reset()
    program = torch.export.export(modified.vision_model, (pixels(),), strict=strict)
    with torch.no_grad():
        found = program.module()(pixels()).last_hidden_state
    torch.testing.assert_close(find_tower(modified).embed(found), expected, rtol=0, atol=1e-5)


def test_export_with_any_batch(tiny_clip: CLIPModel) -> None:
    modified = apply_surgery(shortened(tiny_clip))
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(modified.vision_model, (pixels(),), dynamic_shapes=({0: batch},))
    five = pixels(batch=5)
    with torch.no_grad():
        found = program.module()(five).last_hidden_state
    torch.testing.assert_close(find_tower(modified).embed(found), tokens(modified, five), rtol=0, atol=1e-5)
