"""Ask the sample images everything, by the CLIP and the SAM of the package; `make demo` runs this.

    python examples/demo.py [FOLDER]

Writes the heatmaps of each image, all of them in one (`demo.png`), and one image of every other task, and
says at the end which file shows what. Nothing is downloaded.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from PIL import Image
from tasks import SAMPLE, walk
from transformers.utils.logging import disable_progress_bar

from clip_surgery_hub import CLIPSurgery, create_model
from clip_surgery_hub.sam.loading import load_sam
from clip_surgery_hub.scenes import load_sprites

SAMPLES = Path(str(files("clip_surgery_hub"))) / "assets" / "samples"


def main() -> None:
    """Draw everything and say where it is."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    warnings.formatwarning = lambda message, *_, **__: f"  {message}\n"  # without the place in the code
    print("Asking the sample images ...")
    shown = draw_all(out)
    print(f"\nIn the folder {out.resolve()}:\n")
    widest = max(map(len, shown))
    for name, what in shown.items():
        print(f"  {name:<{widest}}  {what}")
    command = Path(sys.executable).with_name("clip-surgery")
    print(f"\nAn image of your own: {command} explain IMAGE --text 'one thing' --text 'another'")


def draw_all(out: Path) -> dict[str, str]:
    """Write all images to a folder; returned is what each file shows, by its name."""
    out.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    clip = create_model("clip_vit_tiny.scenes")
    texts_of: dict[str, list[str]] = json.loads((SAMPLES / "samples.json").read_text())
    words = load_sprites().concepts
    heatmaps = dict(draw_heatmaps(clip, texts_of, words, out))
    below_each_other([out / name for name in heatmaps]).save(out / "demo.png")
    shown = {"demo.png": f"the heatmaps of all {len(heatmaps)} images", **heatmaps}
    sam = load_sam("sam_tiny.scenes")
    for step in walk(clip, sam, SAMPLES / SAMPLE, texts_of[SAMPLE], words):
        step.figure.savefig(out / f"{step.name}.png")
        shown[f"{step.name}.png"] = step.shown
    return shown


def draw_heatmaps(
    clip: CLIPSurgery, texts_of: Mapping[str, Sequence[str]], words: Sequence[str], out: Path
) -> Iterator[tuple[str, str]]:
    """Write a panel for each image: itself, then a heatmap for each of its texts."""
    for name, texts in texts_of.items():
        # What all texts share is told best from many: the other words this CLIP knows join the class set.
        result = clip.explain(SAMPLES / name, texts, background=[word for word in words if word not in texts])
        result.plot()[0, 0].figure.savefig(out / name)
        yield name, f"the heatmaps of {', '.join(texts)}"


def below_each_other(panels: Sequence[Path]) -> Image.Image:
    """One image of all panels at half their size, on white."""
    images = [Image.open(panel).convert("RGB") for panel in panels]
    width, height = max(image.width for image in images), sum(image.height for image in images)
    sheet = Image.new("RGB", (width, height), "white")
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    return sheet.reduce(2)


if __name__ == "__main__":
    main()
