"""Small models of every family of text towers, and embeddings of them taken one padded prompt at a time."""

import torch
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPSegConfig,
    CLIPSegModel,
    MetaClip2Config,
    MetaClip2Model,
    SiglipConfig,
    SiglipModel,
    XCLIPConfig,
    XCLIPModel,
)

from clip_surgery_hub.text.embedding import context_length
from tests.support.tokenizers import siglip_tokenizer, words_tokenizer

TEXTS = ["cat", "potted plant", "", "tv monitor", "cat"]
OWN = ["a photo of a {}.", "{}", "there is the {} in the large old scene."]


def one_by_one(model, tokenizer, texts, templates):
    """Each prompt by itself, padded to the whole context; mean of the unit embeddings, to unit length."""
    limit, rows = context_length(model, tokenizer), []
    for text in texts:
        prompts = []
        for template in templates:
            tokens = tokenizer(
                template.replace("{}", text), padding="max_length", max_length=limit, return_tensors="pt"
            )
            tokens.pop("token_type_ids", None)
            with torch.no_grad():
                features = model.get_text_features(**tokens).pooler_output
            prompts.append(features[0] / features[0].norm())
        mean = torch.stack(prompts).mean(0)
        rows.append(mean / mean.norm())
    return torch.stack(rows)


def family(name):
    shared = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    vision = shared | {"image_size": 16, "patch_size": 8}
    ends = {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    if name in ("metaclip_2", "clipseg", "xclip"):
        config, model = {
            "metaclip_2": (MetaClip2Config, MetaClip2Model),
            "clipseg": (CLIPSegConfig, CLIPSegModel),
            "xclip": (XCLIPConfig, XCLIPModel),
        }[name]
        # CLIPSeg and X-CLIP, as published, pool at the highest id.
        ends |= {} if name == "metaclip_2" else {"eos_token_id": 99, "pad_token_id": 0, "bos_token_id": 1}
        made = model(config(text_config=shared | ends, vision_config=vision, projection_dim=16))
        return made, words_tokenizer(ends["bos_token_id"], ends["eos_token_id"], ends["pad_token_id"])
    if name == "siglip":
        text = shared | {"vocab_size": 100, "max_position_embeddings": 24, "projection_size": 32}
        return SiglipModel(SiglipConfig(text_config=text, vision_config=vision)), siglip_tokenizer()
    text = shared | ends | {"max_position_embeddings": 48}
    if name == "altclip":
        text |= {"project_dim": 32, "pad_token_id": 1, "bos_token_id": 0}
        made = AltCLIPModel(AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        return made, words_tokenizer(0, 2, 1, limit=10**6)
    made = ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    return made, words_tokenizer(1, 2, 0, limit=10**6)
