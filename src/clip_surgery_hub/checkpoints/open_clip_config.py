"""OpenCLIP's description of a model, the ``model_cfg`` of open_clip_config.json, as an `Architecture`.

It is a dictionary with defaults. What is known here is computed as it says; everything else that would change
the computation is refused by its name, so that nothing is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clip_surgery_hub.checkpoints.json_files import shortened

SUPPORTED = (
    "supported are OpenCLIP's ViT with class token, its ModifiedResNet, and timm's SigLIP, EVA and CLIP ViT "
    "towers, each with OpenCLIP's own text transformer"
)


@dataclass(frozen=True)
class TransformerShape:
    """A stack of pre-norm blocks.

    Attributes:
        width: channels of a token.
        layers: number of blocks.
        heads: attention heads of a block.
        mlp_width: hidden channels of a block's MLP.
        activation: of the MLP, as `transformers` calls it.
        eps: of every layer norm.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str
    eps: float

    def settings(self) -> dict[str, Any]:
        """The same in the words of transformers' configurations."""
        return {
            "hidden_size": self.width,
            "intermediate_size": self.mlp_width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "hidden_act": self.activation,
            "layer_norm_eps": self.eps,
        }


@dataclass(frozen=True)
class TextShape:
    """OpenCLIP's text transformer.

    Attributes:
        transformer: its blocks.
        context_length: positions, start and end tokens included.
        vocabulary: number of token ids.
        causal: whether a token sees only those before it.
        pool: "argmax" (the highest id, CLIP's end token), "eos" (`end_token`) or "last" (the last position).
        end_token: the id that "eos" pools at.
        projection: "matrix" without bias, "linear" with bias, or "none".
    """

    transformer: TransformerShape
    context_length: int
    vocabulary: int
    causal: bool
    pool: str
    end_token: int
    projection: str


@dataclass(frozen=True)
class ViTShape:
    """OpenCLIP's own vision transformer: patches in pixels of square images."""

    transformer: TransformerShape
    patch_size: int
    image_size: int


@dataclass(frozen=True)
class ResNetShape:
    """OpenAI's modified ResNet with attention pool: blocks per stage, channels of stage 1, pixels."""

    stages: tuple[int, int, int, int]
    width: int
    image_size: int


@dataclass(frozen=True)
class TimmShape:
    """A tower of timm by its name; `pool` and `projection` as OpenCLIP calls them."""

    name: str
    pool: str
    projection: str
    image_size: int


@dataclass(frozen=True)
class Architecture:
    """A whole model: C is `embed_dim`, the width of the space that images and texts share."""

    embed_dim: int
    vision: ViTShape | ResNetShape | TimmShape
    text: TextShape
    logit_bias: bool


def read_architecture(model_cfg: Mapping[str, Any], source: str) -> Architecture:
    """Read OpenCLIP's description of a model.

    Args:
        model_cfg: ``embed_dim``, ``vision_cfg``, ``text_cfg`` and others, as in open_clip_config.json.
        source: the checkpoint, for messages.

    Raises:
        ValueError: naming the first thing that is missing, of a wrong kind, contradictory or not supported.
    """
    top = _Section(model_cfg, "model_cfg", source)
    if "multimodal_cfg" in model_cfg:
        raise top.refused("it is a CoCa (multimodal_cfg), whose towers are others")
    vision = _Section(model_cfg.get("vision_cfg"), "vision_cfg", source)
    text = _Section(model_cfg.get("text_cfg"), "text_cfg", source)
    if text.given.get("hf_model_name"):
        raise text.refused(
            f"its text tower is {shortened(text.given['hf_model_name'])} of transformers (hf_model_name)"
        )
    quick = top.flag("quick_gelu")
    architecture = Architecture(
        embed_dim=top.count("embed_dim"),
        vision=_vision(vision, quick),
        text=_text(text, quick),
        logit_bias=top.take("init_logit_bias", None) is not None,
    )
    # Where a module of OpenCLIP sits, and values that the weights overwrite.
    top.irrelevant("vision_cfg", "text_cfg", "custom_text", "init_logit_scale", "nonscalar_logit_scale")
    for section in (top, vision, text):
        section.finish()
    return architecture


def _vision(section: _Section, quick: bool) -> ViTShape | ResNetShape | TimmShape:
    image_size = section.take("image_size", 224)
    if isinstance(image_size, list | tuple) and len(image_size) == 2 and image_size[0] == image_size[1]:
        image_size = image_size[0]
    image_size = section.checked_count("image_size", image_size, "a number of pixels, or two that are equal")
    # Only in training, only for other outputs, or only with a pool that is refused.
    section.irrelevant("patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads")
    name = section.take("timm_model_name", None)
    if name:
        return _timm(section, str(name), image_size)
    layers = section.given.get("layers", 12)
    width = section.count("width", 768)
    if isinstance(layers, list | tuple):
        section.irrelevant("patch_size", "mlp_ratio", "layers")
        stages = tuple(section.checked_count("layers", stage, "four numbers of blocks") for stage in layers)
        if len(stages) != 4 or section.count("head_width", 64) != 64:
            raise section.refused(f"a ModifiedResNet has four stages and heads of 64 channels, not {layers}")
        if image_size % 32:
            raise section.refused(f"a ModifiedResNet reads whole cells of 32 px, image_size is {image_size}")
        return ResNetShape((stages[0], stages[1], stages[2], stages[3]), width, image_size)
    patch = section.count("patch_size", 16)
    transformer = _transformer(section, width, section.count("head_width", 64), quick)
    section.expect(attentional_pool=False, no_ln_pre=False, final_ln_after_pool=False, pool_type="tok")
    section.irrelevant("pos_embed_type")  # a parameter of the same name either way
    if image_size < patch:
        raise section.refused(f"image_size {image_size} holds no patch of {patch} px")
    return ViTShape(transformer, patch, image_size)


def _timm(section: _Section, name: str, image_size: int) -> TimmShape:
    projection = section.take("timm_proj", "linear") or "head"
    # Initial weights, and what acts in training only; the bias belongs to a projection that is refused.
    section.irrelevant("timm_model_pretrained", "timm_drop", "timm_drop_path", "timm_proj_bias")
    return TimmShape(name, str(section.take("timm_pool", "avg")), str(projection), image_size)


def _text(section: _Section, quick: bool) -> TextShape:
    width, heads = section.count("width", 512), section.count("heads", 8)
    if width % heads:
        raise section.refused(f"width {width} does not divide into {heads} heads")
    transformer = _transformer(section, width, width // heads, quick)
    pool, kind = section.take("pool_type", "argmax"), section.take("proj_type", "linear")
    if pool not in ("argmax", "eos", "last"):
        raise section.refused(f"pool_type is {pool!r}")
    if kind not in ("linear", "none"):
        raise section.refused(f"proj_type is {kind!r}")
    bias = section.flag("proj_bias")
    end_token = section.take("eos_id", 2)
    section.expect(embed_cls=False)
    # The padding, and how texts become ids: `open_clip_files` reads these.
    section.irrelevant("pad_id", "output_tokens", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs")
    section.irrelevant("hf_model_name", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type")
    return TextShape(
        transformer,
        context_length=section.count("context_length", 77),
        vocabulary=section.count("vocab_size", 49408),
        causal=not section.flag("no_causal_mask"),
        pool=pool,
        end_token=section.checked_count("eos_id", end_token, "a token id"),
        projection="none" if kind == "none" else "linear" if bias else "matrix",
    )


def _transformer(section: _Section, width: int, head_width: int, quick: bool) -> TransformerShape:
    if width % head_width:
        raise section.refused(f"width {width} does not divide into heads of {head_width} channels")
    ratio = section.take("mlp_ratio", 4.0)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1000:
        raise section.refused(f"mlp_ratio is {ratio!r}, a number above 0 is expected")
    norm = section.take("norm_kwargs", None) or {}
    eps = norm.get("eps", 1e-5) if isinstance(norm, Mapping) else None
    if not isinstance(norm, Mapping) or set(norm) - {"eps"} or not isinstance(eps, float) or not 0 < eps < 1:
        raise section.refused(f"norm_kwargs is {norm!r}, only an eps above 0 can be given")
    section.expect(
        ls_init_value=None,
        block_type=None,
        qk_norm=False,
        scaled_cosine_attn=False,
        scale_heads=False,
        scale_attn_inner=False,
        scale_attn=False,
        scale_fc=False,
    )
    activation = _activation(section, quick)
    return TransformerShape(
        width=width,
        layers=section.count("layers", 12),
        heads=width // head_width,
        mlp_width=int(width * ratio),
        activation=activation,
        eps=eps,
    )


def _activation(section: _Section, quick: bool) -> str:
    """The activation: ``quick_gelu`` where the description says so, else GELU, exact or by tanh."""
    kwargs = section.take("act_kwargs", None) or {}
    approximate = kwargs.get("approximate", "none") if isinstance(kwargs, Mapping) else None
    names = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}
    if not isinstance(kwargs, Mapping) or set(kwargs) - {"approximate"} or approximate not in names:
        raise section.refused(f"act_kwargs is {kwargs!r}, only approximate 'none' or 'tanh' can be given")
    if quick and kwargs:
        raise section.refused(f"quick_gelu and act_kwargs {kwargs!r} contradict each other")
    return "quick_gelu" if quick else names[approximate]


class _Section:
    """One dictionary of the description, from which every key is taken once."""

    def __init__(self, given: Any, name: str, source: str) -> None:
        self.name, self.source = name, source
        if not isinstance(given, Mapping):
            raise ValueError(f"the configuration of {source} has no {name} (a dictionary); copy it again.")
        self.given: dict[str, Any] = dict(given)
        self.taken: set[str] = set()

    def refused(self, reason: str) -> ValueError:
        return ValueError(f"{self.source} cannot be read: in {self.name}, {reason}; {SUPPORTED}.")

    def take(self, key: str, default: Any) -> Any:
        self.taken.add(key)
        return self.given.get(key, default)

    def irrelevant(self, *keys: str) -> None:
        self.taken.update(keys)

    def flag(self, key: str) -> bool:
        value = self.take(key, False)
        if not isinstance(value, bool):
            raise self.refused(f"{key} is {shortened(value)}, true or false is expected")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        return self.checked_count(key, self.take(key, default), "a number above 0")

    def checked_count(self, key: str, value: Any, expected: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise self.refused(f"{key} is {shortened(value)}, {expected} is expected")
        return value

    def expect(self, **values: Any) -> None:
        for key, value in values.items():
            if (found := self.take(key, value)) != value:
                raise self.refused(f"{key} is {found!r}, but only {value!r} is supported")

    def finish(self) -> None:
        if unknown := sorted(set(self.given) - self.taken):
            raise self.refused(f"{', '.join(unknown)} is nothing that this library knows how to compute")
