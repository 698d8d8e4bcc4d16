"""The models of transformers that are built of CLIP's blocks, and those that only look like it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """The classes of one family, all of them in `transformers.models.<package>.modeling_<package>`.

    Attributes:
        package: where they are.
        vision: the vision tower itself, which holds `embeddings`, `encoder` and `post_layernorm`.
        encoder: runs the blocks.
        block: `layer_norm1`, `self_attn`, `layer_norm2`, `mlp`.
        attention: `q_proj`, `k_proj`, `v_proj`, `out_proj`.
        parents: the models that hold the tower and read nothing of it that surgery changes.
    """

    package: str
    vision: str
    encoder: str
    block: str
    attention: str
    parents: tuple[str, ...]


FAMILIES = (
    Family(
        package="clip",
        vision="CLIPVisionModel",
        encoder="CLIPEncoder",
        block="CLIPEncoderLayer",
        attention="CLIPAttention",
        parents=("CLIPModel", "CLIPVisionModel", "CLIPVisionModelWithProjection"),
    ),
    Family(
        package="metaclip_2",
        vision="MetaClip2VisionModel",
        encoder="MetaClip2Encoder",
        block="MetaClip2EncoderLayer",
        attention="MetaClip2Attention",
        parents=("MetaClip2Model", "MetaClip2VisionModel", "MetaClip2VisionModelWithProjection"),
    ),
    Family(
        package="altclip",
        vision="AltCLIPVisionModel",
        encoder="AltCLIPEncoder",
        block="AltCLIPEncoderLayer",
        attention="AltCLIPAttention",
        parents=("AltCLIPModel", "AltCLIPVisionModel"),
    ),
    Family(
        package="chinese_clip",
        vision="ChineseCLIPVisionModel",
        encoder="ChineseCLIPVisionEncoder",
        block="ChineseCLIPVisionLayer",
        attention="ChineseCLIPVisionAttention",
        parents=("ChineseCLIPModel", "ChineseCLIPVisionModel"),
    ),
    Family(
        package="clipseg",
        vision="CLIPSegVisionModel",
        encoder="CLIPSegEncoder",
        block="CLIPSegEncoderLayer",
        attention="CLIPSegAttention",
        parents=("CLIPSegModel", "CLIPSegVisionModel", "CLIPSegForImageSegmentation"),
    ),
    Family(
        package="owlvit",
        vision="OwlViTVisionTransformer",
        encoder="OwlViTEncoder",
        block="OwlViTEncoderLayer",
        attention="OwlViTAttention",
        parents=("OwlViTModel", "OwlViTVisionModel", "OwlViTVisionTransformer"),
    ),
    Family(
        package="owlv2",
        vision="Owlv2VisionTransformer",
        encoder="Owlv2Encoder",
        block="Owlv2EncoderLayer",
        attention="Owlv2Attention",
        parents=("Owlv2Model", "Owlv2VisionModel", "Owlv2VisionTransformer"),
    ),
)

#: Models of transformers that take a tower of any family and read only its hidden states or its CLS.
WRAPPERS = (
    "LlavaModel",
    "LlavaForConditionalGeneration",
    "LlavaNextModel",
    "LlavaNextForConditionalGeneration",
    "LlavaNextVideoModel",
    "LlavaNextVideoForConditionalGeneration",
    "LlavaOnevisionModel",
    "LlavaOnevisionForConditionalGeneration",
    "VipLlavaModel",
    "VipLlavaForConditionalGeneration",
    "VisionTextDualEncoderModel",
)

SUPPORTED = (*(name for family in FAMILIES for name in family.parents), *WRAPPERS)

#: `SUPPORTED` in words that fit into a message.
DESCRIPTION = (
    f"{', '.join(family.parents[0] for family in FAMILIES)} of transformers and their vision models, and "
    "LLaVA and VisionTextDualEncoder models with one of these as their tower"
)

_DETECTOR = "its detector reads the patch tokens of last_hidden_state, which surgery replaces"
_CLASSIFIER = "its classifier averages the patch tokens of last_hidden_state, which surgery replaces"
_MESSAGES = "its blocks pass messages between the frames of a video, so they are not CLIP's blocks"
_TWO_TOWERS = "it holds two vision towers: pass one of them by itself, image_tower or video_tower"
_GROUPS = "its blocks merge the patches into groups and have no CLS token, so they are not CLIP's blocks"

#: Models that are near to CLIP, but cannot be modified, and why.
REFUSED = {
    "CLIPForImageClassification": _CLASSIFIER,
    "MetaClip2ForImageClassification": _CLASSIFIER,
    "OwlViTForObjectDetection": _DETECTOR,
    "Owlv2ForObjectDetection": _DETECTOR,
    "XCLIPModel": _MESSAGES,
    "XCLIPVisionModel": _MESSAGES,
    "VideoLlavaModel": _TWO_TOWERS,
    "VideoLlavaForConditionalGeneration": _TWO_TOWERS,
    "GroupViTModel": _GROUPS,
    "GroupViTVisionModel": _GROUPS,
}
