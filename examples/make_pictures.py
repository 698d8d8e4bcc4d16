"""Remake the pictures in docs/images: those of the demo, made small; `make pictures` runs this.

python examples/make_pictures.py
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from demo import draw_all
from PIL import Image
from tasks import SAMPLE

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDEST, MOST_BYTES = 960, 120_000
"""Of a task's picture: how many pixels, so that text stays readable, and how large a file."""


def main() -> None:
    """Draw everything anew and keep what the documents show."""
    with TemporaryDirectory() as folder:
        drawn = Path(folder)
        for name in draw_all(drawn):
            picture = Image.open(drawn / name).convert("RGB")
            if name == "demo.png":
                keep(picture, IMAGES / name)
            elif name == SAMPLE:
                keep(small(picture), IMAGES / "task-heatmaps.png", MOST_BYTES)
            elif not name.startswith("scene_"):
                keep(small(picture), IMAGES / f"task-{name}", MOST_BYTES)


def small(picture: Image.Image) -> Image.Image:
    """A picture at half its size, or less where it would still be too wide."""
    share = min(0.5, WIDEST / picture.width)
    size = round(picture.width * share), round(picture.height * share)
    return picture.resize(size, Image.Resampling.LANCZOS)


def keep(picture: Image.Image, file: Path, most: int | None = None) -> None:
    """Store a picture in a palette of as many colours as fit into so many bytes, at most 256."""
    for colours in (256, 128, 64, 32):
        # An octree keeps the colours that few pixels have, such as those of points; a median cut loses them.
        picture.quantize(colours, method=Image.Quantize.FASTOCTREE).save(file, optimize=True)
        if most is None or file.stat().st_size <= most:
            break
    size = file.stat().st_size / 1000
    print(f"{file}: {picture.width} x {picture.height}, {size:.0f} kB in {colours} colours")


if __name__ == "__main__":
    main()
