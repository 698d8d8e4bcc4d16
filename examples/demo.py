"""Explain the sample pictures with the CLIP that comes with the package; `make demo` runs this.

    python examples/demo.py [FOLDER]

Writes a panel for each picture (the picture, then a heatmap for each text) and all panels in one,
`demo.png`. Nothing is downloaded.
"""

import json
import sys
from importlib.resources import files
from pathlib import Path

from PIL import Image
from transformers.utils.logging import disable_progress_bar

from clip_surgery_hub import create_model
from clip_surgery_hub.scenes import load_sprites


def below_each_other(panels: list[Path]) -> Image.Image:
    """One picture of all panels at half their size, on white."""
    pictures = [Image.open(panel).convert("RGB") for panel in panels]
    width, height = max(picture.width for picture in pictures), sum(picture.height for picture in pictures)
    sheet = Image.new("RGB", (width, height), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet.reduce(2)


def main() -> None:
    """Explain every sample picture for its own texts."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    out.mkdir(parents=True, exist_ok=True)
    samples = Path(str(files("clip_surgery_hub"))) / "assets" / "samples"
    texts_of: dict[str, list[str]] = json.loads((samples / "samples.json").read_text())
    disable_progress_bar()
    clip = create_model("clip_vit_tiny.scenes")
    panels = []
    for name, texts in texts_of.items():
        # What all texts share is told best from many: the other words this CLIP knows join the class set.
        others = [word for word in load_sprites().concepts if word not in texts]
        result = clip.explain(samples / name, texts, background=others)
        panels.append(out / f"{Path(name).stem}.png")
        result.plot()[0, 0].figure.savefig(panels[-1])
        scores = ", ".join(
            f"{text} {score:.3f}" for text, score in zip(texts, result.scores[0].tolist(), strict=True)
        )
        print(f"{panels[-1]}: {scores}")
    below_each_other(panels).save(out / "demo.png")
    print(f"\nAll of them in one picture: {(out / 'demo.png').resolve()}")
    command = Path(sys.executable).with_name("clip-surgery")
    print(f"A picture of your own: {command} explain PICTURE --text 'one thing' --text 'another'")


if __name__ == "__main__":
    main()
