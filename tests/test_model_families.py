"""CLIPSurgery on every family of checkpoints: saved, loaded by folder, asked by text."""

import pytest
import torch
from transformers import CLIPImageProcessorPil, CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegModel

from clip_surgery_hub.functional import unit_length
from clip_surgery_hub.model import CLIPSurgery
from clip_surgery_hub.towers import find_tower
from clip_surgery_hub.transform import surgery
from tests.support.text_families import OWN, TEXTS, family, one_by_one

PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["metaclip_2", "altclip", "chinese_clip", "clipseg", "siglip"])
def test_a_saved_checkpoint_of_each_family_explains(name, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, tokenizer = family(name)
    model.eval()
    for part in (model, tokenizer, CLIPImageProcessorPil()):
        part.save_pretrained(tmp_path)
    clip = CLIPSurgery.from_pretrained(tmp_path, depth=1)
    assert type(clip.model) is type(model) and clip.tower.patch_size == 8
    torch.testing.assert_close(
        clip.encode_text(TEXTS, OWN), one_by_one(model, tokenizer, TEXTS, OWN), atol=3e-6, rtol=0
    )
    with torch.no_grad():
        embeds = model.get_image_features(pixel_values=PIXELS).pooler_output
        with surgery(model, depth=1):
            tokens = find_tower(model).encode(PIXELS)
    read = clip.encode_image(PIXELS)
    torch.testing.assert_close(read[:, 0], unit_length(embeds), atol=1e-6, rtol=0)
    torch.testing.assert_close(read, tokens, atol=1e-6, rtol=0)
    result = clip.explain(torch.zeros(3, 24, 40), ["cat", "potted plant"])
    assert result.surgery_similarity[0].shape == (2, 2, 3)


def test_a_segmentation_model_of_clipseg_is_read_as_the_clip_inside(tmp_path):
    shared = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = CLIPSegConfig(
        text_config=shared | {"vocab_size": 100, "eos_token_id": 99, "pad_token_id": 0, "bos_token_id": 1},
        vision_config=shared | {"image_size": 16, "patch_size": 8},
        projection_dim=16,
        extract_layers=[0, 1],
        reduce_dim=8,
        decoder_num_attention_heads=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clipseg = CLIPSegForImageSegmentation(config).eval()
    clipseg.save_pretrained(tmp_path)
    clip = CLIPSurgery.from_pretrained(tmp_path)
    assert type(clip.model) is CLIPSegModel
    with torch.no_grad():
        embeds = clipseg.clip.get_image_features(pixel_values=PIXELS).pooler_output
    torch.testing.assert_close(clip.encode_image(PIXELS)[:, 0], unit_length(embeds), atol=1e-6, rtol=0)
