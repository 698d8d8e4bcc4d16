"""Write a training run's CLIP as a checkpoint of `transformers`: float16 safetensors and all files beside it.

python training/export.py runs/scenes src/clip_surgery_hub/assets/clip_vit_tiny.scenes
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from clip import CONTEXT, MEAN, STD
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from clip_surgery_hub.scenes import TRAINING, load_sprites


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()

    saved = torch.load(options.run / "last.ckpt", map_location="cpu", weights_only=False)
    weights = {
        key.removeprefix("model."): value
        for key, value in saved["state_dict"].items()
        if key.startswith("model.")
    }
    model = CLIPModel(CLIPConfig.from_pretrained(options.run))
    model.load_state_dict(weights)
    model.half().save_pretrained(options.folder)
    (options.folder / "model.safetensors").chmod(0o644)
    tokenizer = CLIPTokenizer.from_pretrained(options.run)
    tokenizer.model_max_length = CONTEXT
    for origin in ("is_local", "local_files_only"):  # where it was read from is nobody's concern
        tokenizer.init_kwargs.pop(origin, None)
    tokenizer.save_pretrained(options.folder)
    size = model.config.vision_config.image_size
    CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=MEAN,
        image_std=STD,
    ).save_pretrained(options.folder)
    known = {"concepts": list(load_sprites().concepts), "backgrounds": list(TRAINING)}
    (options.folder / "concepts.json").write_text(json.dumps(known, indent=1) + "\n")
    print(f"step {saved['global_step'] // 2}: {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
