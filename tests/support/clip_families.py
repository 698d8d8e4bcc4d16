"""Small random models of every class of transformers that surgery supports or refuses by name."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

SIDE, PATCH, WIDTH, BLOCKS = 32, 8, 32, 3

BLOCKS_OF_ANY = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
}
VISION = {**BLOCKS_OF_ANY, "image_size": SIDE, "patch_size": PATCH, "projection_dim": 24}
TEXT = {
    **BLOCKS_OF_ANY,
    "num_hidden_layers": 1,
    "vocab_size": 50,
    "max_position_embeddings": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "projection_dim": 24,
}
IMAGE_TOKEN = 40


def random_model(make: Callable[[], nn.Module]) -> Any:
    """A model in eval mode whose every parameter is random, drawn from a seed of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = make().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.endswith("logit_scale"):
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def _full(prefix: str, model: str = "", **changes: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        config = getattr(transformers, f"{prefix}Config")(
            text_config=TEXT | {"project_dim": 24}, vision_config=VISION, projection_dim=24, **changes
        )
        return getattr(transformers, model or f"{prefix}Model")(config)

    return make


def _vision(prefix: str, model: str = "") -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        config = getattr(transformers, f"{prefix}VisionConfig")(**VISION)
        return getattr(transformers, model or f"{prefix}VisionModel")(config)

    return make


def _vision_transformer(prefix: str) -> Callable[[], nn.Module]:
    return lambda: _vision(prefix)().vision_model


def _llava(prefix: str, part: str, **changes: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        config = getattr(transformers, f"{prefix}Config")(
            vision_config={"model_type": "clip_vision_model", **VISION},
            text_config={"model_type": "llama", "num_key_value_heads": 2, **TEXT},
            image_token_index=IMAGE_TOKEN,
            image_seq_length=(SIDE // PATCH) ** 2,
            **changes,
        )
        return getattr(transformers, prefix + part)(config)

    return make


def _dual_encoder() -> nn.Module:
    vision = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION))
    text = transformers.BertModel(transformers.BertConfig(**TEXT))
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        vision.config, text.config, projection_dim=24
    )
    return transformers.VisionTextDualEncoderModel(config, vision_model=vision, text_model=text)


GRID_OF_TILES = {"image_grid_pinpoints": [[SIDE, SIDE], [SIDE, 2 * SIDE]]}
WITHOUT_CLS = {**GRID_OF_TILES, "vision_feature_select_strategy": "default"}
TWO_LAYERS = dict.fromkeys(("vision_feature_layer", "vision_feature_layers"), (-2, 1))  # new name, old name
SEGMENTER = {
    "extract_layers": [1, 2],
    "reduce_dim": 16,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}

#: Every class that is supported, by name.
SUPPORTED: dict[str, Callable[[], nn.Module]] = {
    "CLIPModel": _full("CLIP"),
    "CLIPVisionModel": _vision("CLIP"),
    "CLIPVisionModelWithProjection": _vision("CLIP", "CLIPVisionModelWithProjection"),
    "MetaClip2Model": _full("MetaClip2"),
    "MetaClip2VisionModel": _vision("MetaClip2"),
    "MetaClip2VisionModelWithProjection": _vision("MetaClip2", "MetaClip2VisionModelWithProjection"),
    "AltCLIPModel": _full("AltCLIP"),
    "AltCLIPVisionModel": _vision("AltCLIP"),
    "ChineseCLIPModel": _full("ChineseCLIP"),
    "ChineseCLIPVisionModel": _vision("ChineseCLIP"),
    "CLIPSegModel": _full("CLIPSeg"),
    "CLIPSegVisionModel": _vision("CLIPSeg"),
    "CLIPSegForImageSegmentation": _full("CLIPSeg", "CLIPSegForImageSegmentation", **SEGMENTER),
    "OwlViTModel": _full("OwlViT"),
    "OwlViTVisionModel": _vision("OwlViT"),
    "OwlViTVisionTransformer": _vision_transformer("OwlViT"),
    "Owlv2Model": _full("Owlv2"),
    "Owlv2VisionModel": _vision("Owlv2"),
    "Owlv2VisionTransformer": _vision_transformer("Owlv2"),
    "LlavaModel": _llava("Llava", "Model"),
    "LlavaForConditionalGeneration": _llava("Llava", "ForConditionalGeneration"),
    "LlavaNextModel": _llava("LlavaNext", "Model", **GRID_OF_TILES),
    "LlavaNextForConditionalGeneration": _llava("LlavaNext", "ForConditionalGeneration", **GRID_OF_TILES),
    "LlavaNextVideoModel": _llava("LlavaNextVideo", "Model", **GRID_OF_TILES),
    "LlavaNextVideoForConditionalGeneration": _llava(
        "LlavaNextVideo", "ForConditionalGeneration", **GRID_OF_TILES
    ),
    "LlavaOnevisionModel": _llava("LlavaOnevision", "Model", **WITHOUT_CLS),
    "LlavaOnevisionForConditionalGeneration": _llava(
        "LlavaOnevision", "ForConditionalGeneration", **WITHOUT_CLS
    ),
    "VipLlavaModel": _llava("VipLlava", "Model", **TWO_LAYERS),
    "VipLlavaForConditionalGeneration": _llava("VipLlava", "ForConditionalGeneration", **TWO_LAYERS),
    "VisionTextDualEncoderModel": _dual_encoder,
}

#: Every class that is refused by name.
REFUSED: dict[str, Callable[[], nn.Module]] = {
    "CLIPForImageClassification": _full("CLIP", "CLIPForImageClassification"),
    "MetaClip2ForImageClassification": _full("MetaClip2", "MetaClip2ForImageClassification"),
    "OwlViTForObjectDetection": _full("OwlViT", "OwlViTForObjectDetection"),
    "Owlv2ForObjectDetection": _full("Owlv2", "Owlv2ForObjectDetection"),
    "XCLIPModel": _full("XCLIP", prompt_num_attention_heads=2),
    "XCLIPVisionModel": _vision("XCLIP"),
    "GroupViTModel": _full("GroupViT"),
    "GroupViTVisionModel": _vision("GroupViT"),
    "VideoLlavaModel": _llava("VideoLlava", "Model"),
    "VideoLlavaForConditionalGeneration": _llava("VideoLlava", "ForConditionalGeneration"),
}
