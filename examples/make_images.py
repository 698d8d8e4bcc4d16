"""Remake the images in docs/images: those of the demo, made small; `make images` runs this.

python examples/make_images.py
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from demo import draw_all
from PIL import Image
from tasks import SAMPLE

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDEST, MOST_BYTES = 960, 120_000
"""Of a task's image: how many pixels, so that text stays readable, and how large a file."""


def main() -> None:
    """Draw everything anew and keep what the documents show."""
    with TemporaryDirectory() as folder:
        drawn = Path(folder)
        for name in draw_all(drawn):
            image = Image.open(drawn / name).convert("RGB")
            if name == "demo.png":
                keep(image, IMAGES / name)
            elif name == SAMPLE:
                keep(small(image), IMAGES / "task-heatmaps.png", MOST_BYTES)
            elif not name.startswith("scene_"):
                keep(small(image), IMAGES / f"task-{name}", MOST_BYTES)


def small(image: Image.Image) -> Image.Image:
    """An image at half its size, or less where it would still be too wide."""
    share = min(0.5, WIDEST / image.width)
    size = round(image.width * share), round(image.height * share)
    return image.resize(size, Image.Resampling.LANCZOS)


def keep(image: Image.Image, file: Path, most: int | None = None) -> None:
    """Store an image in a palette of as many colors as fit into so many bytes, at most 256."""
    for colors in (256, 128, 64, 32):
        # An octree keeps the colors that few pixels have, such as those of points; a median cut loses them.
        image.quantize(colors, method=Image.Quantize.FASTOCTREE).save(file, optimize=True)
        if most is None or file.stat().st_size <= most:
            break
    size = file.stat().st_size / 1000
    print(f"{file}: {image.width} x {image.height}, {size:.0f} kB in {colors} colors")


if __name__ == "__main__":
    main()
