"""Small random SigLIPs, and models of transformers around their vision tower."""

from collections.abc import Callable
from typing import Any

import transformers
from torch import nn

from tests.support.clip_families import BLOCKS_OF_ANY, GRID_OF_TILES, IMAGE_TOKEN, PATCH, SIDE, TWO_LAYERS

VISION = {**BLOCKS_OF_ANY, "image_size": SIDE, "patch_size": PATCH}
TEXT = {
    **BLOCKS_OF_ANY,
    "num_hidden_layers": 1,
    "vocab_size": 50,
    "max_position_embeddings": 24,
    "projection_size": 32,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 1,
}


def siglip(
    model: str = "SiglipModel", config: str = "SiglipConfig", **vision: Any
) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        settings = getattr(transformers, config)(text_config=TEXT, vision_config=VISION | vision)
        return getattr(transformers, model)(settings)

    return make


def siglip_vision(**vision: Any) -> Callable[[], nn.Module]:
    return lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VISION | vision))


def llava(prefix: str, part: str, **changes: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        text = {**TEXT, "max_position_embeddings": 64, "num_key_value_heads": 2, "model_type": "llama"}
        config = getattr(transformers, f"{prefix}Config")(
            vision_config={"model_type": "siglip_vision_model", **VISION},
            text_config=text,
            image_token_index=IMAGE_TOKEN,
            image_seq_length=(SIDE // PATCH) ** 2,
            **{"vision_feature_select_strategy": "full", **changes},
        )
        return getattr(transformers, prefix + part)(config)

    return make


def dual_encoder() -> nn.Module:
    vision = siglip_vision()()
    bert = {name: value for name, value in TEXT.items() if name != "projection_size"}
    text = transformers.BertModel(transformers.BertConfig(**bert))
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        vision.config, text.config, projection_dim=24
    )
    return transformers.VisionTextDualEncoderModel(config, vision_model=vision, text_model=text)


#: Every class that is supported, by name.
SUPPORTED: dict[str, Callable[[], nn.Module]] = {
    "SiglipModel": siglip(),
    "SiglipVisionModel": siglip_vision(),
    "LlavaModel": llava("Llava", "Model"),
    "LlavaForConditionalGeneration": llava("Llava", "ForConditionalGeneration"),
    "LlavaNextModel": llava("LlavaNext", "Model", **GRID_OF_TILES),
    "LlavaNextForConditionalGeneration": llava("LlavaNext", "ForConditionalGeneration", **GRID_OF_TILES),
    "LlavaNextVideoModel": llava("LlavaNextVideo", "Model", **GRID_OF_TILES),
    "LlavaNextVideoForConditionalGeneration": llava(
        "LlavaNextVideo", "ForConditionalGeneration", **GRID_OF_TILES
    ),
    "LlavaOnevisionModel": llava("LlavaOnevision", "Model", **GRID_OF_TILES),
    "LlavaOnevisionForConditionalGeneration": llava(
        "LlavaOnevision", "ForConditionalGeneration", **GRID_OF_TILES
    ),
    "VipLlavaModel": llava("VipLlava", "Model", **TWO_LAYERS),
    "VipLlavaForConditionalGeneration": llava("VipLlava", "ForConditionalGeneration", **TWO_LAYERS),
    "VisionTextDualEncoderModel": dual_encoder,
}

#: Every class that is refused by name.
REFUSED: dict[str, Callable[[], nn.Module]] = {
    "SiglipForImageClassification": siglip("SiglipForImageClassification"),
    "Siglip2ForImageClassification": siglip("Siglip2ForImageClassification", "Siglip2Config"),
    "Siglip2Model": siglip("Siglip2Model", "Siglip2Config"),
    "Siglip2VisionModel": lambda: siglip("Siglip2Model", "Siglip2Config")().vision_model,
}
