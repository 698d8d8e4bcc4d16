"""A small random CLIP, the files of its checkpoint, and images to ask it about."""

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel


def random_clip():
    """3 vision blocks, width 32, patch 8, 32 px; every parameter random."""
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "projection_dim": 16}
    vision = shared | {"num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
    text = shared | {"num_hidden_layers": 2, "vocab_size": 100, "bos_token_id": 98, "eos_token_id": 99}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name != "logit_scale":
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def random_image(height, width, seed=0):
    """Blocks of color, so that resizing keeps something of them."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 5, 3)).astype(np.uint8)
    return np.array(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST))


def copy_of(folder, target):
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
