"""Write a training run's SAM as a checkpoint of `transformers`: float16 safetensors and all files beside it.

    python training/export_sam.py runs/sam src/clip_surgery_hub/assets/sam_tiny.scenes
    python training/export_sam.py runs/sam FOLDER --metrics metrics.jsonl

`--metrics` puts what `evaluate_sam.py` printed into the model card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from sam import OPTIMIZERS
from sam_data import GROUPS
from sam_from_clip import MEAN, STD
from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

CARD = Path(__file__).with_name("sam_card.md")
BEGAN = "The image encoder began as the vision blocks of a CLIP of the same world, everything else at random."
ON_SMALLER = "\nThat was on smaller images, which cost less; these steps continued from there."


def metrics_table(rows: list[dict[str, object]]) -> str:
    """What `evaluate_sam.py` printed as a table in markdown."""
    lines = ["| points | picked by its score | best of three | picked by the heatmap |", "|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row['points']} | {row['picked']} | {row['best']} | {row.get('agreement', '')} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metrics", type=Path, default=None, help="lines that evaluate_sam.py printed")
    options = parser.parse_args()

    saved = torch.load(options.run / "last.ckpt", map_location="cpu", weights_only=False)
    weights = {key.removeprefix("model."): value for key, value in saved["state_dict"].items()}
    config = SamConfig.from_pretrained(options.run)
    model = SamModel(config)
    model.load_state_dict(weights)
    model.half().save_pretrained(options.folder)
    (options.folder / "model.safetensors").chmod(0o644)
    vision, decoder = config.vision_config, config.mask_decoder_config
    side, mask = vision.image_size, 4 * (vision.image_size // vision.patch_size)
    image_processor = SamImageProcessor(
        size={"longest_edge": side},
        pad_size={"height": side, "width": side},
        mask_size={"longest_edge": mask},
        mask_pad_size={"height": mask, "width": mask},
        image_mean=MEAN,
        image_std=STD,
    )
    SamProcessor(image_processor).save_pretrained(options.folder)
    steps = saved["global_step"] // OPTIMIZERS
    settings = json.loads((options.run / "options.json").read_text())
    parameters = sum(p.numel() for p in model.parameters())
    rows = [json.loads(line) for line in options.metrics.read_text().splitlines()] if options.metrics else []
    card = CARD.read_text().format(
        parameters=parameters / 1e6,
        side=side,
        patch=vision.patch_size,
        depth=vision.num_hidden_layers,
        width=vision.hidden_size,
        channels=decoder.hidden_size,
        decoder_depth=decoder.num_hidden_layers,
        heads=decoder.num_attention_heads,
        mask=mask,
        steps=steps,
        batch=settings["batch"],
        prompts=sum(group.prompts for group in GROUPS.values()),
        origin=BEGAN + ON_SMALLER if settings["start"] else BEGAN,
        metrics=metrics_table(rows),
    )
    (options.folder / "README.md").write_text(card)
    print(f"step {steps}: {parameters:,} parameters")


if __name__ == "__main__":
    main()
