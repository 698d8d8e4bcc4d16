"""What every family of towers promises: one table of cases times one class of contracts.

To add a family, add its models to `CASES`: every contract is then checked for each of them, and for every
method of the registry. A case is a small random model of a library, and how that library itself reads the
image-level embedding of it; nothing else about a family is known here.
"""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from clip_surgery_hub.methods import METHODS
from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.transform import SurgeryState, apply_surgery, remove_surgery, surgery_state
from tests.support import clip_families, siglip_models, timm_families
from tests.support.clip_families import random_model

Size = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """A model that the contracts are checked for.

    Attributes:
        make: builds it; `random_model` then makes every parameter random, in eval mode.
        image_embedding: the image-level embedding `[B, C]` of pixels as the library of the model gives it, of
            any length; at the native size.
        native: the size (height, width) the model is made for, in pixels.
        sizes: other sizes, which the tower takes although the model may not; one of them a rectangle, one
            that leaves a rest beside whole patches.
        patch: the side of a patch, in pixels.
    """

    make: Callable[[], nn.Module]
    image_embedding: Callable[[Any, Tensor], Tensor]
    native: Size
    sizes: tuple[Size, ...]
    patch: int


def _features(model: Any, pixels: Tensor) -> Tensor:
    features: Tensor = model.get_image_features(pixel_values=pixels).pooler_output
    return features


def _pooled(model: Any, pixels: Tensor) -> Tensor:
    pooled: Tensor = model(pixels).pooler_output
    return pooled


def _clip(name: str, image_embedding: Callable[[Any, Tensor], Tensor] = _features) -> Case:
    side, patch = clip_families.SIDE, clip_families.PATCH
    return Case(
        make=clip_families.SUPPORTED[name],
        image_embedding=image_embedding,
        native=(side, side),
        sizes=((24, 40), (8, 8), (48, 48), (37, 51)),
        patch=patch,
    )


def _siglip(name: str, image_embedding: Callable[[Any, Tensor], Tensor] = _features) -> Case:
    return replace(_clip("CLIPModel", image_embedding), make=siglip_models.SUPPORTED[name])


def _logits(model: Any, pixels: Tensor) -> Tensor:
    """The projection of a CLIP's tower is the classifier of timm."""
    logits: Tensor = model(pixels)
    return logits


def _timm(name: str) -> Case:
    return replace(_clip("CLIPModel", _logits), make=timm_families.SUPPORTED[name])


def _timm_resnet(name: str) -> Case:
    side = timm_families.RESNET_SIDE
    return Case(
        make=timm_families.SUPPORTED[name],
        image_embedding=_logits,
        native=(side, side),
        sizes=((96, 160), (32, 32), (75, 100)),
        patch=timm_families.RESNET_STRIDE,
    )


#: Every family, by the name of its model. Of CLIP's blocks in transformers a few stand for all of
#: `clip_families`, which `test_towers.py` goes through.
CASES: dict[str, Case] = {
    "CLIPModel": _clip("CLIPModel"),
    "CLIPVisionModel": _clip("CLIPVisionModel", _pooled),
    "AltCLIPModel": _clip("AltCLIPModel"),
    "Owlv2Model": _clip("Owlv2Model"),
    "SiglipModel": _siglip("SiglipModel"),
    "SiglipVisionModel": _siglip("SiglipVisionModel", _pooled),
    "ViT of CLIP": _timm("ViT of CLIP"),
    "ViT with everything": _timm("ViT with everything"),
    "EVA02 of CLIP": _timm("EVA02 of CLIP"),
    "EVA02 with registers": _timm("EVA02 with registers"),
    "EVA of CLIP": _timm("EVA of CLIP"),
    "EVA02-E of CLIP": _timm("EVA02-E of CLIP"),
    "ResNet of CLIP": _timm_resnet("ResNet of CLIP"),
}

#: One method of each kind, for contracts in which methods of a kind cannot differ: with residual, with MLP,
#: without residual and by the grid, and the one that modifies no block.
KINDS = ("clip_surgery", "sclip", "naclip", "none")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def model(case: Case) -> Any:
    return random_model(case.make)


def pixels(size: Size, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(size[0] * 1000 + size[1])
    return torch.randn(batch, 3, *size, generator=generator)


def encode(model: nn.Module, given: Tensor, interpolation: Any = "bilinear") -> Tensor:
    with torch.no_grad():
        return find_tower(model).encode(given, interpolation=interpolation)


def every_size(case: Case) -> tuple[Size, ...]:
    return (case.native, *case.sizes)


def state_of(model: nn.Module) -> dict[str, Any]:
    """All state of a model: of each module its identity, class and attributes, of each tensor its bits."""
    state: dict[str, Any] = {}
    for path, module in model.named_modules():
        state[f"{path}: module"] = (id(module), type(module))
        for key, value in vars(module).items():
            if isinstance(value, dict):
                value = [(name, id(part)) for name, part in value.items()]
            elif not isinstance(value, int | float | str | bool | None):
                value = (id(value), repr(value))
            state[f"{path}: {key}"] = value
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        bits = tensor.detach().numpy().tobytes()
        state[f"{name}: tensor"] = (id(tensor), tensor.data_ptr(), bits, tensor.requires_grad)
    return state


class TestEveryFamily:
    @pytest.mark.parametrize("method", METHODS)
    @torch.no_grad()
    def test_image_level_embeddings_are_unchanged(self, case: Case, model: Any, method: str) -> None:
        """By the library's own reading, and as token 0 of the tower, which is the same at the native size."""
        given = pixels(case.native)
        before = normalize(case.image_embedding(model, given), dim=-1)
        plain = {size: encode(model, pixels(size)) for size in every_size(case)}
        apply_surgery(model, method)
        after = normalize(case.image_embedding(model, given), dim=-1)
        torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
        torch.testing.assert_close(encode(model, given)[:, 0], before, rtol=0, atol=1e-6)
        for size, tokens in plain.items():
            modified = encode(model, pixels(size))
            torch.testing.assert_close(modified[:, 0], tokens[:, 0], rtol=0, atol=1e-6)
            changed = (modified[:, 1:] - tokens[:, 1:]).abs().max()
            assert changed == 0 if method == "none" else changed > 1e-3

    @pytest.mark.parametrize("method", KINDS)
    def test_tokens_are_of_unit_length_one_per_patch(self, case: Case, model: Any, method: str) -> None:
        tower = find_tower(apply_surgery(model, method))
        assert (tower.patch_size, tower.native_size) == (case.patch, min(case.native))
        for height, width in every_size(case):
            rows, columns = tower.grid(height, width)
            assert (rows, columns) == (height // case.patch, width // case.patch)
            for interpolation in ("bilinear", "bicubic"):
                tokens = encode(model, pixels((height, width), batch=3), interpolation)
                assert tokens.shape == (3, 1 + rows * columns, tower.embedding_width)
                torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(tokens.shape[:2]))

    def test_a_rest_beside_whole_patches_is_cut_off(self, case: Case, model: Any) -> None:
        apply_surgery(model)
        height, width = case.native[0] + case.patch // 2, case.native[1] + 1
        given = pixels((height, width))
        cut = given[:, :, : case.native[0], : case.native[1]]
        torch.testing.assert_close(encode(model, given), encode(model, cut), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("method", KINDS)
    @torch.no_grad()
    def test_removal_is_exact(self, case: Case, model: Any, method: str) -> None:
        given = pixels(case.native)
        embedding, tokens = case.image_embedding(model, given), encode(model, given)
        before = state_of(model)
        apply_surgery(model, method)
        assert surgery_state(model) is not None
        for size in every_size(case):
            encode(model, pixels(size))
        case.image_embedding(model, given)
        remove_surgery(model)
        assert surgery_state(model) is None
        assert state_of(model) == before
        assert torch.equal(case.image_embedding(model, given), embedding)
        assert torch.equal(encode(model, given), tokens)

    @pytest.mark.parametrize("method", KINDS)
    def test_a_call_leaves_nothing_on_the_model(self, case: Case, model: Any, method: str) -> None:
        apply_surgery(model, method)
        before = state_of(model)
        for size in every_size(case):
            encode(model, pixels(size))
        assert state_of(model) == before

    def test_keys_and_parameters_stay_the_same_objects(self, model: Any) -> None:
        keys, parameters = list(model.state_dict()), [id(one) for one in model.parameters()]
        apply_surgery(model)
        assert list(model.state_dict()) == keys
        assert [id(one) for one in model.parameters()] == parameters

    def test_an_apply_that_fails_half_way_leaves_nothing(
        self, model: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The n-th change of a class fails, for every n: those before it are taken back."""
        plain_setattr, before = nn.Module.__setattr__, state_of(model)

        def fail_at(number: int) -> None:
            changes: list[type] = []

            def refuse(self: nn.Module, name: str, value: Any) -> None:
                if name == "__class__" and value.__name__.endswith("WithSurgery"):
                    changes.append(value)
                    if len(changes) == number:
                        raise MemoryError("no room for another class")
                plain_setattr(self, name, value)

            monkeypatch.setattr(nn.Module, "__setattr__", refuse)

        for number in count(1):
            fail_at(number)
            try:
                apply_surgery(model)
            except MemoryError:
                assert state_of(model) == before
            else:
                break
        remove_surgery(model)
        assert state_of(model) == before
        assert surgery_state(model) is None

    def test_refusals_leave_the_model_as_it_is(self, model: Any) -> None:
        before = state_of(model)
        for refused in ({"method": "clip_surgey"}, {"depth": 99}, {"depth": 0}):
            with pytest.raises(ValueError):
                apply_surgery(model, **refused)
        assert state_of(model) == before
        apply_surgery(model, depth=1)
        modified = state_of(model)
        with pytest.raises(RuntimeError, match="under surgery already"):
            apply_surgery(model)
        assert state_of(model) == modified
        assert surgery_state(model) == SurgeryState("clip_surgery", 1)

    @pytest.mark.parametrize("method", METHODS)
    def test_gradients_flow_to_pixels_and_weights(self, case: Case, model: Any, method: str) -> None:
        """From either path to the pixels, and to each weight that the plain tower has them for."""

        def gradients(chosen: slice) -> tuple[Tensor, set[str]]:
            model.zero_grad(set_to_none=True)
            given = pixels(case.native).requires_grad_()
            tokens = find_tower(model).encode(given)[:, chosen]
            (tokens * torch.linspace(-1, 1, tokens.numel()).view_as(tokens)).sum().backward()
            reached = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
            assert all(torch.isfinite(gradient).all() for gradient in reached.values())
            assert given.grad is not None
            return given.grad, set(reached)

        _, of_plain = gradients(slice(None))
        apply_surgery(model, method)
        of_both, reached = gradients(slice(None))
        assert reached == of_plain
        for chosen in (slice(0, 1), slice(1, None)):
            of_pixels, _ = gradients(chosen)
            assert torch.isfinite(of_pixels).all()
            assert (of_pixels != 0).float().mean() > 0.9
            assert not torch.equal(of_pixels, of_both)

    @pytest.mark.parametrize("method", METHODS)
    def test_a_batch_gives_what_its_images_give(self, case: Case, model: Any, method: str) -> None:
        apply_surgery(model, method)
        for size in every_size(case):
            given = pixels(size, batch=4)
            one_by_one = torch.cat([encode(model, image[None]) for image in given])
            torch.testing.assert_close(encode(model, given), one_by_one, rtol=0, atol=2e-6)

    def test_order_of_sizes_does_not_matter(self, case: Case, model: Any) -> None:
        apply_surgery(model)
        alone = {size: encode(copy.deepcopy(model), pixels(size)) for size in every_size(case)}
        for size in (*alone, *reversed(alone)):
            assert torch.equal(encode(model, pixels(size)), alone[size])

    def test_threads_do_not_meet(self, case: Case, model: Any) -> None:
        apply_surgery(model)
        sizes = every_size(case) * 3
        alone = [encode(model, pixels(size)) for size in sizes]
        with ThreadPoolExecutor(2) as threads:
            assert all(map(torch.equal, threads.map(lambda size: encode(model, pixels(size)), sizes), alone))

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
    def test_copies_are_under_surgery_too(self, case: Case, model: Any, copied: Any) -> None:
        given = pixels(case.native)
        plain = encode(model, given)
        apply_surgery(model)
        other = copied(model)
        assert surgery_state(other) == surgery_state(model)
        expected = encode(model, given)
        assert torch.equal(encode(other, given), expected)
        remove_surgery(other)
        assert torch.equal(encode(other, given), plain)
        assert torch.equal(encode(model, given), expected)

    def test_half_precision_is_close(self, case: Case, model: Any) -> None:
        apply_surgery(model)
        given = [pixels(size) for size in every_size(case)]
        expected = [encode(model, one) for one in given]
        model.to(torch.bfloat16)
        for one, single in zip(given, expected, strict=True):
            half = encode(model, one.to(torch.bfloat16))
            assert half.dtype == torch.float32
            assert cosine_similarity(half.float(), single, dim=-1).min() > 0.99

    def test_an_image_without_a_patch_is_refused(self, case: Case, model: Any) -> None:
        with pytest.raises(ValueError, match=f"holds no patch: .* at least {case.patch} pixels"):
            find_tower(model).encode(pixels((case.patch - 1, case.native[1])))
