"""Draw the sample images of the demo: from one seed, on backgrounds that training never used, not picked.

python training/make_samples.py
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from clip_surgery_hub.scenes import HELD_OUT, Scene, Variation, World, draw_scene

SEED = 2026
SIZES = ((320, 320), (300, 400), (400, 300), (320, 320), (280, 420), (320, 320))
FOLDER = Path(__file__).parents[1] / "src/clip_surgery_hub/assets/samples"


def sample_scene(index: int) -> Scene:
    """The scene of a sample, by its number from 0, with the truth about it."""
    world = World(
        size=SIZES[index],
        objects=(3, 3),
        scale=(0.35, 0.5),
        backgrounds=tuple(HELD_OUT),
        overlap=0.1,
        variation=Variation(rotation=15, color=0.1, blur=0.0),
    )
    return draw_scene((SEED, index), world)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    texts = {}
    for index in range(len(SIZES)):
        scene = sample_scene(index)
        name = f"scene_{index + 1}.png"
        Image.fromarray(scene.image).quantize(256, dither=Image.Dither.NONE).save(
            FOLDER / name, optimize=True
        )
        texts[name] = list(scene.words)
    (FOLDER / "samples.json").write_text(json.dumps(texts, indent=1) + "\n")


if __name__ == "__main__":
    main()
