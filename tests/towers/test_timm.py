"""The towers of timm: their numbers against slow transcriptions, what timm offers under surgery, every name.

What every family promises is in `test_every_family.py`.
"""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from math import cos, sin
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from clip_surgery_hub.checkpoints.load_state import without_initialization
from clip_surgery_hub.methods import METHODS
from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.transform import SurgeryState, apply_surgery, remove_surgery, surgery_state
from tests.support import timm_families
from tests.support.clip_families import random_model
from tests.support.timm_families import HEADS, PATCH, REFUSED, SIDE, SUPPORTED, eva, vit
from tests.support.transcription import Weights, layer_norm, linear, method_weights

Size = tuple[int, int]

TRANSFORMERS = [name for name in SUPPORTED if "ResNet" not in name]
RESNETS = [name for name in SUPPORTED if "ResNet" in name]
#: Sizes and how positions are resized: the native one, rectangles, a smaller one, one that leaves a rest.
READINGS = [
    ((32, 32), "bilinear"),
    ((24, 40), "bilinear"),
    ((24, 40), "bicubic"),
    ((16, 16), "bicubic"),
    ((51, 37), "bilinear"),
]
LAST_BLOCK_ALONE = ("maskclip", "clearclip", "naclip")


def pixels(height: int = SIDE, width: int = SIDE, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height * 7 + width))


def tokens_of(model: nn.Module, given: Tensor, interpolation: Any = "bilinear") -> Tensor:
    with torch.no_grad():
        return find_tower(model).encode(given, interpolation=interpolation)


def resized(positions: Tensor, native: Size, grid: Size, interpolation: str, before: int) -> Tensor:
    """Position embeddings [before + N, C] on another grid; the first `before` stay."""
    on_grid = positions[before:].reshape(1, *native, -1).permute(0, 3, 1, 2)
    options = {"antialias": True} if interpolation == "bicubic" else {}
    new = interpolate(on_grid, size=grid, mode=interpolation, align_corners=False, **options)
    return torch.cat([positions[:before], new[0].permute(1, 2, 0).reshape(grid[0] * grid[1], -1)])


# The numbers of vision transformers.


def made_for(model: Any, size: Size, interpolation: str) -> Any:
    """The plain model as timm makes it for another size, which resizes positions bicubic by itself."""
    other = copy.deepcopy(model)
    other.set_input_size(img_size=size)
    if interpolation == "bilinear" and model.pos_embed is not None:
        before = 0 if model.no_embed_class else model.num_prefix_tokens
        grid = (size[0] // PATCH, size[1] // PATCH)
        bilinear = resized(model.pos_embed[0], model.patch_embed.grid_size, grid, "bilinear", before)
        other.pos_embed = nn.Parameter(bilinear[None])
    return other


def block_inputs(model: Any, given: Tensor) -> list[Tensor]:
    """What each block of a plain model gets, and last what the last one gives, [B, tokens, width]."""
    states: list[Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, args: states.append(args[0])) for block in model.blocks
    ]
    hooks.append(model.blocks[-1].register_forward_hook(lambda _, args, output: states.append(output)))
    model.forward_features(given)
    for hook in hooks:
        hook.remove()
    return states


def rotated(head: Tensor, grid: Size, before: int) -> Tensor:
    """Channel pairs of each patch turned by its row (first half of them) and by its column (second half).

    The angles are place / size * 2, of a grid that was 2 x 2 in pretraining, times 10000^(-pair / pairs).
    """
    turned, pairs = head.clone(), head.shape[-1] // 4
    for patch in range(grid[0] * grid[1]):
        row, column = divmod(patch, grid[1])
        places = [row / grid[0] * 2] * pairs + [column / grid[1] * 2] * pairs
        for pair, place in enumerate(places):
            angle = place * 10000.0 ** (-(pair % pairs) / pairs)
            x, y = head[:, before + patch, 2 * pair], head[:, before + patch, 2 * pair + 1]
            turned[:, before + patch, 2 * pair] = x * cos(angle) - y * sin(angle)
            turned[:, before + patch, 2 * pair + 1] = y * cos(angle) + x * sin(angle)
    return turned


def heads_of(model: Any, attention: Any, read: Tensor, grid: Size) -> list[list[Tensor]]:
    """q, k, v [B, tokens, head_dim] of each head, rotated where the model rotates them."""
    width = model.embed_dim
    if attention.qkv is None:
        biases = [attention.q_proj.bias, torch.zeros(width), attention.v_proj.bias]
        weights = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    else:
        weights = list(attention.qkv.weight.split(width))
        of_keys_too = attention.qkv.bias is not None
        given = attention.qkv.bias.split(width) if of_keys_too else (attention.q_bias, 0, attention.v_bias)
        biases = list(given)
    of_all = [read @ weight.T + bias for weight, bias in zip(weights, biases, strict=True)]
    heads = []
    for each in zip(*(part.split(width // HEADS, dim=-1) for part in of_all), strict=True):
        q, k, v = each
        if not isinstance(attention.q_norm, nn.Identity):
            q, k = layer_norm(attention.q_norm, q), layer_norm(attention.k_norm, k)
        if getattr(model, "rope", None) is not None:
            q, k = (rotated(part, grid, model.num_prefix_tokens) for part in (q, k))
        heads.append([q, k, v])
    return heads


def update_of(model: Any, block: Any, x: Tensor, weights: Callable[[Tensor], Weights], grid: Size) -> Tensor:
    """What a block adds to every token by a method, from its input x on the original path."""
    attention, post_norm = block.attn, type(block).__name__ == "EvaBlockPostNorm"
    read = x if post_norm else layer_norm(block.norm1, x)
    scale = (model.embed_dim // HEADS) ** -0.5
    mixed = [weights(read)(q, k, v, scale) @ v for q, k, v in heads_of(model, attention, read, grid)]
    mixed = torch.cat(mixed, dim=-1)
    if not isinstance(attention.norm, nn.Identity):
        mixed = layer_norm(attention.norm, mixed)
    update = linear(attention.proj, mixed)
    if post_norm:
        return layer_norm(block.norm1, update)
    gamma = getattr(block, "gamma_1", None)
    if hasattr(block, "ls1") and not isinstance(block.ls1, nn.Identity):
        gamma = block.ls1.gamma
    return update if gamma is None else gamma * update


def expected_tokens(model: Any, given: Tensor, method: str, depth: int, grid: Size) -> Tensor:
    """Unit tokens [B, 1+N, C] by a method, from a plain model made for the size of the pixels."""
    states = block_inputs(model, given)
    y = states[-1 - depth]
    for block, x in list(zip(model.blocks, states, strict=False))[len(model.blocks) - depth :]:
        update = update_of(model, block, x, lambda read: method_weights(method, read, grid), grid)
        y = update if method in LAST_BLOCK_ALONE else y + update
        if method == "sclip":
            if type(block).__name__ == "EvaBlockPostNorm":
                y = y + layer_norm(block.norm2, block.mlp(y))
            else:
                fed = block.mlp(layer_norm(block.norm2, y))
                gamma = getattr(block, "gamma_2", getattr(getattr(block, "ls2", None), "gamma", None))
                y = y + (fed if gamma is None else gamma * fed)
    tokens = torch.cat([states[-1][:, :1], y[:, model.num_prefix_tokens :]], dim=1)
    for norm in (model.norm, model.fc_norm):
        tokens = tokens if isinstance(norm, nn.Identity) else layer_norm(norm, tokens)
    return normalize(tokens if model.num_classes == 0 else linear(model.head, tokens), dim=-1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TRANSFORMERS)
@torch.no_grad()
def test_transformer_has_the_numbers_of_the_transcription(name: str, method: str) -> None:
    model = random_model(SUPPORTED[name])
    for size, interpolation in READINGS:
        given = pixels(*size)
        grid = (size[0] // PATCH, size[1] // PATCH)
        whole = (grid[0] * PATCH, grid[1] * PATCH)
        plain = made_for(model, whole, interpolation)
        apply_surgery(model, method)
        found = tokens_of(model, given, interpolation)
        depth = surgery_state(model).depth
        remove_surgery(model)
        assert depth == min(METHODS[method].default_depth, len(model.blocks))
        expected = expected_tokens(plain, given[:, :, : whole[0], : whole[1]], method, depth, grid)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, msg=f"{size} {interpolation}")


@pytest.mark.parametrize("name", ["ViT of CLIP", "EVA02 of CLIP"])
@torch.no_grad()
def test_depth_counts_from_the_last_block(name: str) -> None:
    model = random_model(SUPPORTED[name])
    for depth in (1, 2):
        apply_surgery(model, "clip_surgery", depth)
        found = tokens_of(model, pixels())
        remove_surgery(model)
        expected = expected_tokens(model, pixels(), "clip_surgery", depth, (4, 4))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_bicubic_is_what_timm_makes_of_any_size() -> None:
    """A model with dynamic_img_size takes every size by itself: its plain reading of it is the tower's."""
    for make in (vit(pre_norm=True, dynamic_img_size=True), SUPPORTED["EVA02 with registers"]):
        model = random_model(make)
        for size in ((24, 40), (48, 48)):
            hidden = model.forward_features(pixels(*size))
            hidden = torch.cat([hidden[:, :1], hidden[:, model.num_prefix_tokens :]], dim=1)
            expected = normalize(model.head(model.fc_norm(hidden)), dim=-1)
            found = tokens_of(model, pixels(*size), "bicubic")
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


# The numbers of CLIP's ResNets.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", RESNETS)
@torch.no_grad()
def test_resnet_has_the_numbers_of_the_transcription(name: str, method: str) -> None:
    """W_o weights(q, k, v) v + b_o of x = [mean of patches; patches] + positions, head by head."""
    model = random_model(SUPPORTED[name])
    pool = model.head
    for size, interpolation in (
        ((64, 64), "bilinear"),
        ((96, 160), "bilinear"),
        ((96, 160), "bicubic"),
        ((32, 32), "bicubic"),
        ((75, 100), "bilinear"),
    ):
        given, grid = pixels(*size), (size[0] // 32, size[1] // 32)
        patches = model.forward_features(given[:, :, : grid[0] * 32, : grid[1] * 32]).flatten(2).mT
        assert patches.shape[1] == grid[0] * grid[1]
        x = torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)
        x = x + resized(pool.pos_embed, (2, 2), grid, interpolation, before=1)
        width = pool.embed_dim // pool.num_heads
        pooled, mixed = [], []
        for q, k, v in zip(
            *(linear(each, x).split(width, -1) for each in (pool.q, pool.k, pool.v)), strict=True
        ):
            own = torch.softmax(q @ k.mT * width**-0.5, dim=-1)
            weights = method_weights(method, x, grid)(q, k, v, width**-0.5) if method != "none" else own
            pooled.append(own[:, :1] @ v)
            mixed.append(weights[:, 1:] @ v)
        tokens = torch.cat([torch.cat(pooled, dim=-1), torch.cat(mixed, dim=-1)], dim=1)
        expected = normalize(
            tokens if isinstance(pool.proj, nn.Identity) else linear(pool.proj, tokens), dim=-1
        )
        apply_surgery(model, method)
        found = tokens_of(model, given, interpolation)
        remove_surgery(model)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, msg=f"{size} {interpolation}")


@torch.no_grad()
def test_plain_reading_of_a_resnet_is_timms_pool_without_pooling() -> None:
    """timm gives all patches with global_pool='', and resizes positions bicubic."""
    model = random_model(SUPPORTED["ResNet of CLIP"])
    whole = copy.deepcopy(model)
    whole.head.pool_type = ""
    apply_surgery(model, "none")
    for size in ((64, 64), (96, 160)):
        found = tokens_of(model, pixels(*size), "bicubic")
        patches = normalize(whole(pixels(*size)).flatten(2).mT, dim=-1)
        torch.testing.assert_close(found[:, 1:], patches, rtol=0, atol=1e-6)
        torch.testing.assert_close(found[:, 0], normalize(model(pixels(*size)), dim=-1), rtol=0, atol=1e-6)


def test_depth_of_a_resnet_is_one() -> None:
    model = random_model(SUPPORTED["ResNet of CLIP"])
    assert surgery_state(apply_surgery(model, "clip_surgery")) == SurgeryState("clip_surgery", 1)
    remove_surgery(model)
    with pytest.raises(ValueError, match="an integer from 1 to 1 on this tower of 1 blocks"):
        apply_surgery(model, depth=2)


# What timm offers, under surgery.


@pytest.mark.parametrize("name", TRANSFORMERS)
@torch.no_grad()
def test_features_have_the_new_patches_behind_what_was_before_them(name: str) -> None:
    model = random_model(SUPPORTED[name])
    before = model.num_prefix_tokens
    plain, logits = model.forward_features(pixels()), model(pixels())
    apply_surgery(model)
    features = model.forward_features(pixels())
    assert features.shape == plain.shape
    torch.testing.assert_close(features[:, :before], plain[:, :before], rtol=0, atol=1e-6)
    torch.testing.assert_close(model.forward_head(features), logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(model(pixels()), logits, rtol=0, atol=1e-5)
    read = model.head(model.fc_norm(torch.cat([features[:, :1], features[:, before:]], dim=1)))
    torch.testing.assert_close(normalize(read, dim=-1), tokens_of(model, pixels()), rtol=0, atol=1e-6)
    remove_surgery(model)
    assert torch.equal(model.forward_features(pixels()), plain)


@pytest.mark.parametrize("name", TRANSFORMERS)
@torch.no_grad()
def test_intermediates_are_the_original_paths(name: str) -> None:
    model = random_model(SUPPORTED[name])
    final, states = model.forward_intermediates(pixels())
    apply_surgery(model)
    new_final, new_states = model.forward_intermediates(pixels())
    assert torch.equal(new_final, final)
    assert len(new_states) == len(model.blocks)
    assert all(map(torch.equal, new_states, states))


@pytest.mark.parametrize("name", ["ViT of CLIP", "EVA02 of CLIP"])
@torch.no_grad()
def test_hooks_on_blocks_see_the_original_path(name: str) -> None:
    model = random_model(SUPPORTED[name])
    seen: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, args, output: seen.append(output))
    model(pixels())
    plain = list(seen)
    seen.clear()
    apply_surgery(model)
    tokens_of(model, pixels())
    assert len(seen) == len(plain)
    for new, old in zip(seen, plain, strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["ViT of CLIP", "EVA02 of CLIP"])
@torch.no_grad()
def test_attention_in_steps_gives_its_weights(name: str) -> None:
    """Who wants the attention weights of timm turns the fused kernel off and listens to attn_drop."""
    model = random_model(SUPPORTED[name])
    fused = tokens_of(apply_surgery(copy.deepcopy(model)), pixels())
    maps: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, args, output: maps.append(output))
    model(pixels())
    plain = list(maps)
    maps.clear()
    apply_surgery(model)
    torch.testing.assert_close(tokens_of(model, pixels()), fused, rtol=0, atol=1e-5)
    assert [one.shape for one in maps] == [(2, HEADS, 17, 17)] * len(model.blocks)
    for new, old in zip(maps, plain, strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["ViT of CLIP", "EVA02 of CLIP", "ResNet of CLIP"])
@pytest.mark.parametrize("training", [False, True])
def test_gradient_checkpointing(name: str, training: bool) -> None:
    """The same tokens and gradients; a block is forgotten and run again on the way back."""
    model = apply_surgery(random_model(SUPPORTED[name]), depth=1).train(training)
    side = timm_families.RESNET_SIDE if "ResNet" in name else SIDE
    runs: list[int] = []
    first = model.stages[0][0] if "ResNet" in name else model.blocks[-1]
    next(first.children()).register_forward_pre_hook(lambda *_: runs.append(1))

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        runs.clear()
        out = find_tower(model).encode(pixels(side, side))
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        return {name: one.grad.clone() for name, one in model.named_parameters()} | {"": out.detach()}

    expected = gradients()
    once = len(runs)
    model.set_grad_checkpointing()
    found = gradients()
    assert len(runs) == 2 * once
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=1e-5, msg=key)


def test_patches_dropped_in_training_leave_no_grid() -> None:
    model = apply_surgery(random_model(vit(pre_norm=True, patch_drop_rate=0.5)), "naclip")
    assert model(pixels()).shape == (2, 24)
    with pytest.raises(
        ValueError, match=r"'naclip' needs the whole patch grid of 4 x 4, but 8 patches are left"
    ):
        model.train()(pixels())
    assert find_tower(model).encode(pixels()).shape == (2, 17, 24)
    remove_surgery(model)
    assert apply_surgery(model).forward_features(pixels()).shape == (2, 9, 32)


@pytest.mark.parametrize("options", [{"attn_mask": torch.ones(17, 17)}, {"is_causal": True}])
def test_masks_are_refused(options: dict[str, Any]) -> None:
    model = random_model(SUPPORTED["ViT of CLIP"])
    if "is_causal" in options and "is_causal" not in type(model).forward_features.__code__.co_varnames:
        pytest.skip("this timm has no causal vision transformer")
    apply_surgery(model, "none")
    model.forward_features(pixels(), **options)
    remove_surgery(model)
    apply_surgery(model)
    with pytest.raises(ValueError, match="takes no attention mask"):
        model.forward_features(pixels(), **options)


@pytest.mark.slow
def test_pickles_are_read_by_a_process_that_never_applied_surgery(tmp_path: Path) -> None:
    names = ("ViT with everything", "EVA02 with registers", "EVA02-E of CLIP", "ResNet of CLIP")
    written = []
    for name in names:
        model = apply_surgery(random_model(SUPPORTED[name]))
        given = pixels(*(2 * (timm_families.RESNET_SIDE if "ResNet" in name else SIDE,)))
        written.append((pickle.dumps(model), given, tokens_of(model, given)))
    (tmp_path / "models.pickle").write_bytes(pickle.dumps(written))
    reader = (
        "import pickle, torch\n"
        f"written = pickle.load(open({str(tmp_path / 'models.pickle')!r}, 'rb'))\n"
        "for model, pixels, expected in written:\n"
        "    model = pickle.loads(model)\n"
        "    from clip_surgery_hub.towers import find_tower\n"
        "    with torch.no_grad():\n"
        "        print((find_tower(model).encode(pixels) - expected).abs().max().item())\n"
    )
    answer = subprocess.run([sys.executable, "-c", reader], capture_output=True, text=True, check=True)
    differences = [float(line) for line in answer.stdout.split()]
    assert len(differences) == len(names)
    assert max(differences) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT of CLIP", "EVA02 of CLIP"])
@torch.no_grad()
def test_compile(name: str) -> None:
    model = apply_surgery(random_model(SUPPORTED[name]))
    torch.compiler.reset()
    compiled = torch.compile(model.forward_features, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(pixels()), model.forward_features(pixels()), rtol=0, atol=1e-5)


# Which models are taken.


@pytest.mark.parametrize("name", REFUSED)
def test_refused_model_says_why_and_is_left_alone(name: str) -> None:
    make, reason = REFUSED[name]
    model = make()
    classes = [type(module) for module in model.modules()]
    with pytest.raises(TypeError, match=f"surgery cannot be applied to .*{reason}.*Supported are CLIPModel"):
        apply_surgery(model)
    assert [type(module) for module in model.modules()] == classes


#: timm's name: class, patch, native side, number of blocks, length of an embedding.
NAMES = {
    "vit_base_patch16_clip_224.openai": ("VisionTransformer", 16, 224, 12, 512),
    "vit_base_patch32_clip_quickgelu_224": ("VisionTransformer", 32, 224, 12, 512),
    "vit_large_patch14_clip_336.openai": ("VisionTransformer", 14, 336, 24, 768),
    "vit_huge_patch14_clip_quickgelu_378": ("VisionTransformer", 14, 378, 32, 1024),
    "eva_giant_patch14_clip_224": ("Eva", 14, 224, 40, 1024),
    "eva02_base_patch16_clip_224": ("Eva", 16, 224, 12, 512),
    "eva02_large_patch14_clip_336": ("Eva", 14, 336, 24, 768),
    "eva02_enormous_patch14_clip_224": ("Eva", 14, 224, 64, 1024),
    "resnet50_clip": ("ByobNet", 32, 224, 1, 1024),
    "resnet101_clip": ("ByobNet", 32, 224, 1, 512),
    "resnet50x4_clip": ("ByobNet", 32, 288, 1, 640),
    "resnet50x16_clip": ("ByobNet", 32, 384, 1, 768),
    "resnet50x64_clip": ("ByobNet", 32, 448, 1, 1024),
}


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_clip_of_timm_is_taken_by_its_name(name: str) -> None:
    """Built without memory; its shapes are all that is computed."""
    kind, patch, side, blocks, width = NAMES[name]
    with torch.device("meta"), without_initialization():
        model = timm.create_model(name).eval()
        image = torch.empty(1, 3, side + patch, side + 3 * patch)
    tower = find_tower(apply_surgery(model))
    assert (tower.name, tower.patch_size, tower.native_size) == (kind, patch, side)
    assert surgery_state(model) == SurgeryState("clip_surgery", min(6, blocks))
    assert (len(tower.blocks), tower.embedding_width) == (blocks, width)
    rows, columns = tower.grid(*image.shape[-2:])
    assert (rows, columns) == (side // patch + 1, side // patch + 3)
    assert tower.encode(image).shape == (1, 1 + rows * columns, width)
    assert model(torch.empty(1, 3, side, side, device="meta")).shape == (1, width)


def test_tower_tells_its_parts() -> None:
    model = random_model(SUPPORTED["EVA02 of CLIP"])
    tower = find_tower(nn.ModuleDict({"student": model}))
    assert tower.vision is tower.encoder is model
    assert list(tower.blocks) == list(model.blocks)
    assert find_tower(random_model(SUPPORTED["ViT without head"])).embedding_width == 32
    assert find_tower(random_model(SUPPORTED["ResNet without projection"])).embedding_width == 128
    resnet = random_model(SUPPORTED["ResNet of CLIP"])
    tower = find_tower(resnet)
    assert (tower.vision, tower.encoder, list(tower.blocks)) == (resnet, resnet.head, [resnet.head])
    assert tower.grid(75, 100) == (2, 3)


@pytest.mark.parametrize("part", ["blocks.2", "blocks.2.attn", ""])
def test_replaced_forward_is_refused(part: str) -> None:
    model = random_model(SUPPORTED["EVA02 of CLIP"])
    module = model.get_submodule(part)
    module.forward = module.forward
    with pytest.raises(RuntimeError, match=f"the forward of a {type(module).__name__} was replaced"):
        apply_surgery(model)
    assert surgery_state(model) is None


@torch.no_grad()
def test_tower_inside_of_open_clip_is_found() -> None:
    """open_clip's adapter has timm's own head as its projection, unless it is told to make one of its own."""
    make = open_clip.timm_model.TimmModel
    held = random_model(lambda: make("test_vit", 24, image_size=160, pool="token", proj=""))
    wrapped = nn.ModuleDict({"visual": held})
    before = held(pixels(160, 160))
    tower = find_tower(apply_surgery(wrapped))
    assert tower.vision is held.trunk
    torch.testing.assert_close(held(pixels(160, 160)), before, rtol=0, atol=1e-5)
    found = tower.encode(pixels(160, 160))
    torch.testing.assert_close(found[:, 0], normalize(before, dim=-1), rtol=0, atol=1e-6)
    other = make("test_vit", 24, image_size=160, pool="token", proj="linear")
    with pytest.raises(
        TypeError, match="this TimmModel of open_clip: it projects what the VisionTransformer"
    ):
        apply_surgery(other)
    assert find_tower(other.trunk).embedding_width == 64


@torch.no_grad()
def test_projection_of_eva_is_called_where_its_bias_is_added_apart() -> None:
    """Then it may be anything that takes the place of a linear layer."""
    model = random_model(SUPPORTED["EVA of CLIP"])
    before = tokens_of(apply_surgery(copy.deepcopy(model)), pixels())
    calls: list[nn.Module] = []
    for block in model.blocks:
        block.attn.qkv_bias_separate = True
        block.attn.qkv.register_forward_hook(lambda module, *_: calls.append(module))
    torch.testing.assert_close(tokens_of(apply_surgery(model), pixels()), before, rtol=0, atol=1e-5)
    assert calls == [block.attn.qkv for block in model.blocks]


def test_rotation_of_another_grid_is_made_without_touching_the_model() -> None:
    model = random_model(eva(use_rot_pos_emb=True, ref_feat_shape=(2, 2)))
    rotation, bits = model.rope.get_embed(), model.rope.get_embed().clone()
    tokens_of(apply_surgery(model), pixels(24, 40))
    assert model.rope.get_embed() is rotation
    assert torch.equal(rotation, bits)
    assert tuple(model.rope.feat_shape) == (4, 4)
