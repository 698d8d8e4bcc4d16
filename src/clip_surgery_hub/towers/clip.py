"""The vision towers of transformers that are built of CLIP's blocks."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from math import isqrt
from typing import Any, cast

from torch import Tensor, cat, nn
from torch.nn.functional import interpolate, normalize

from clip_surgery_hub.towers.clip_families import FAMILIES, IN_WORDS, REFUSED, SUPPORTED, Family
from clip_surgery_hub.towers.tower import Interpolation, Operation, Tower

__all__ = ["IN_WORDS", "ClipTower", "find_towers", "refusal"]

_SUFFIX = "WithSurgery"


@dataclass(frozen=True, eq=False)
class ClipTower(Tower):
    """A vision tower of one of the `FAMILIES`.

    Attributes:
        post_norm: the norm between the last block and the projection.
        projection: the linear map into the space shared with the texts, or None where the model has none.
        family: its classes.
    """

    post_norm: nn.Module
    projection: nn.Module | None
    family: Family

    def operate(self, operation: Operation, rollback: ExitStack) -> None:
        """Change the classes of the operated attention modules, then that of the encoder.

        The encoder comes last, so that a call from another thread is either plain or under surgery.

        Raises:
            RuntimeError: when something has put a forward of its own on one of these modules.
        """
        from clip_surgery_hub.towers.two_paths import add_patch_grid

        attentions: list[Any] = [
            block.self_attn for block in self.blocks[len(self.blocks) - operation.depth :]
        ]
        _refuse_replaced_forward(self.encoder, *attentions)
        classes = {name: surgery_class(name) for name in (self.family.attention, self.family.encoder)}
        if _wants_grid(operation):
            handle = self.vision.register_forward_pre_hook(add_patch_grid, with_kwargs=True)
            rollback.callback(handle.remove)
        rollback.callback(vars(self.encoder).pop, "surgery", None)
        vars(self.encoder)["surgery"] = operation
        for module in (*attentions, self.encoder):
            rollback.callback(setattr, module, "__class__", type(module))
            module.__class__ = classes[type(module).__name__]

    def restore(self) -> None:
        """Give the encoder and the operated attention modules their classes back.

        Raises:
            RuntimeError: when something has put a forward of its own on one of these modules.
        """
        from clip_surgery_hub.towers.two_paths import add_patch_grid

        parts: list[Any] = [self.encoder, *(block.self_attn for block in self.blocks)]
        operated = [module for module in parts if "plain" in vars(type(module))]
        _refuse_replaced_forward(*operated)
        for module in operated:
            module.__class__ = vars(type(module))["plain"]
        for key, hook in list(self.vision._forward_pre_hooks.items()):
            if hook is add_patch_grid:
                del self.vision._forward_pre_hooks[key]
                del self.vision._forward_pre_hooks_with_kwargs[key]
        del self.encoder.surgery

    @property
    def embedding_width(self) -> int:
        """C, the length of an embedding in the space shared with the texts."""
        weight = cast(Tensor, (self.projection or self.post_norm).weight)
        return int(weight.shape[0])

    def tokens(self, pixel_values: Tensor, interpolation: Interpolation) -> Tensor:
        """Projected tokens `[B, 1+N, C]`, CLS first; see `Tower.tokens`."""
        return self.project(self.last_hidden_state(pixel_values, interpolation))

    def embed(self, last_hidden_state: Tensor) -> Tensor:
        """Tokens in the space shared with the texts, of unit length: `project` and division by the length.

        Args:
            last_hidden_state: `[B, 1+N, width]`, as the tower gives it.

        Returns:
            `[B, 1+N, C]`, CLS first; CLS is the model's own unit image embedding.
        """
        return normalize(self.project(last_hidden_state), dim=-1)

    def project(self, last_hidden_state: Tensor) -> Tensor:
        """Post-layernorm and visual projection (where the model has one), on CLS and patches alike."""
        tokens: Tensor = self.post_norm(last_hidden_state)
        return tokens if self.projection is None else cast(Tensor, self.projection(tokens))

    def last_hidden_state(self, pixel_values: Tensor, interpolation: Interpolation) -> Tensor:
        """Tokens `[B, 1+N, width]` of pixels `[B, 3, H, W]` before the post-layernorm, CLS first."""
        grid = self.grid(pixel_values.shape[-2], pixel_values.shape[-1])
        embeddings: Any = self.vision.embeddings
        positions = embeddings.position_embedding.weight
        side = isqrt(len(positions) - 1)
        if interpolation == "bicubic" or grid == (side, side):
            tokens: Tensor = self.vision(pixel_values, interpolate_pos_encoding=True).last_hidden_state
            return tokens
        native = positions[1:].T.unflatten(1, (side, side))[None]
        resized = interpolate(native, size=grid, mode="bilinear", align_corners=False)
        positions = cat([positions[:1], resized[0].flatten(1).T])
        patches = embeddings.patch_embedding(pixel_values.to(positions.dtype)).flatten(2).transpose(1, 2)
        cls = embeddings.class_embedding.expand(len(patches), 1, -1)
        hidden = _pre_norm(self.vision)(cat([cls, patches], dim=1) + positions)
        for_method = {"patch_grid": grid} if _wants_grid(self.operation) else {}
        tokens = self.encoder(inputs_embeds=hidden, **for_method).last_hidden_state
        return tokens


def find_towers(model: nn.Module) -> dict[str, Tower]:
    """Every CLIP tower in `model` by its path.

    Raises:
        TypeError: when a tower is not built as transformers builds it, or sits in a model of transformers
            which is not known to read only what surgery leaves as it was.
    """
    return {
        path: _tower(model, path, module, family)
        for path, module in model.named_modules()
        for family in FAMILIES
        if _transformers_class(module) == family.vision
    }


def refusal(module: nn.Module) -> str | None:
    """Why `module` cannot be operated on, when it is one of the models refused by name."""
    name = _transformers_class(module)
    return f"surgery cannot be applied to {name}: {REFUSED[name]}" if name in REFUSED else None


def surgery_class(name: str) -> type[nn.Module]:
    """The subclass, with surgery, of the encoder or attention class `name` of a family."""
    found: type[nn.Module] = getattr(sys.modules[__name__], name + _SUFFIX)
    return found


def __getattr__(name: str) -> Any:
    """Make `<class>WithSurgery` the first time it is asked for; pickle finds the classes here, too."""
    for family in FAMILIES:
        if name in (family.encoder + _SUFFIX, family.attention + _SUFFIX):
            return globals().setdefault(name, _make_surgery_class(family, name.removesuffix(_SUFFIX)))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _make_surgery_class(family: Family, name: str) -> type[nn.Module]:
    from clip_surgery_hub.towers.two_paths import AttentionWithSurgery, EncoderWithSurgery

    plain = getattr(_modeling(family), name)
    before = EncoderWithSurgery if name == family.encoder else AttentionWithSurgery
    body = {
        "__module__": __name__,
        "__doc__": f"{name} of transformers under surgery.",
        "plain": plain,
        "eager_attention_forward": staticmethod(_modeling(family).eager_attention_forward),
    }
    return type(name + _SUFFIX, (before, plain), body)


def _tower(model: nn.Module, path: str, vision: Any, family: Family) -> ClipTower:
    parts = dict(vision.named_modules())
    attentions = [f"encoder.layers.{index}.self_attn" for index in range(len(vision.encoder.layers))]
    for part, expected in ({"encoder": family.encoder} | dict.fromkeys(attentions, family.attention)).items():
        found = type(parts.get(part))
        if vars(found).get("plain", found) is not getattr(_modeling(family), expected):
            raise TypeError(
                f"the {part} of {family.vision} is a {found.__name__}, but surgery is known to work on "
                f"{expected} of transformers only: apply it before that part is replaced"
            )
    holders = _holders(model, path)
    for holder in holders:
        name = _transformers_class(holder)
        if name is not None and name not in SUPPORTED and not name.endswith("PreTrainedModel"):
            raise TypeError(
                f"{name} holds a {family.vision}, but it is not known to read only what surgery leaves as it "
                f"was: to operate on the tower all the same, pass it by itself, model.{path}"
            )
    projections = [getattr(holder, "visual_projection", None) for holder in holders]
    return ClipTower(
        name=family.vision,
        vision=vision,
        encoder=vision.encoder,
        blocks=vision.encoder.layers,
        post_norm=vision.post_layernorm,
        projection=next((p for p in projections if p is not None), None),
        patch_size=vision.config.patch_size,
        native_size=vision.config.image_size,
        family=family,
    )


def _modeling(family: Family) -> Any:
    return import_module(f"transformers.models.{family.package}.modeling_{family.package}")


def _refuse_replaced_forward(*modules: nn.Module) -> None:
    """The class decides what a module's forward does, unless the instance has one of its own."""
    for module in modules:
        if "forward" in vars(module):
            raise RuntimeError(
                f"the forward of a {type(module).__name__} was replaced on the module itself, as accelerate "
                "does for device_map and offloading, so that surgery cannot be put in or taken out: do so "
                "while it is not (accelerate.hooks.remove_hook_from_submodules), and dispatch afterwards"
            )


def _holders(model: nn.Module, path: str) -> list[nn.Module]:
    """The modules around the one at `path`, the nearest first, `model` itself last."""
    parts = path.split(".") if path else []
    return [model.get_submodule(".".join(parts[:depth])) for depth in reversed(range(len(parts)))]


def _transformers_class(module: nn.Module) -> str | None:
    """The name of the class of transformers' model zoo that `module` is or descends from, or None."""
    zoo = (
        base.__name__ for base in type(module).__mro__ if base.__module__.startswith("transformers.models.")
    )
    return next(zoo, None)


def _pre_norm(vision: Any) -> nn.Module:
    """CLIP itself misspells the name of this norm; some of its family do not."""
    norm: nn.Module = vision.pre_layrnorm if hasattr(vision, "pre_layrnorm") else vision.pre_layernorm
    return norm


def _wants_grid(operation: Operation | None) -> bool:
    return operation is not None and "grid" in operation.method.arguments
