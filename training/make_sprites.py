"""Render the sprite atlas of the synthetic scenes, once, from three open icon sets.

The icons come from the npm packages `@iconify-json/noto` (Apache-2.0), `@iconify-json/fluent-emoji` (MIT)
and `@iconify-json/fluent-emoji-flat` (MIT):

    npm install @iconify-json/noto @iconify-json/fluent-emoji @iconify-json/fluent-emoji-flat
    python training/make_sprites.py node_modules/@iconify-json

writes `sprites.webp` (every concept in every style, one square cell each, row by row) and `sprites.json`
(the concepts in the order of the cells) into the package's assets.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

STYLES = ("noto", "fluent-emoji", "fluent-emoji-flat")
CELL = 128
COLUMNS = 24
RENDERED = 384
"""Icons are rendered three times larger than a cell, so that trimming and shrinking lose nothing."""


def icon_svg(icons: dict[str, Any], name: str) -> str:
    """The whole SVG document of one icon of an iconify collection, aliases followed."""
    alias = icons.get("aliases", {}).get(name)
    entry = icons["icons"][alias["parent"] if alias else name]
    width = entry.get("width", icons.get("width", 16))
    height = entry.get("height", icons.get("height", 16))
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    return f'{head}viewBox="0 0 {width} {height}">{entry["body"]}</svg>'


def render(svg: str) -> Image.Image:
    """One icon, trimmed to what can be seen and fitted into a cell, aspect kept, centered."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=RENDERED, height=RENDERED, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    visible = np.asarray(image)[..., 3] > 8
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    image = image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    factor = CELL / max(image.size)
    width, height = (max(1, round(side * factor)) for side in image.size)
    # Premultiplied, so that the color hidden under transparent pixels does not bleed into the edge.
    image = image.convert("RGBa").resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(image, ((CELL - width) // 2, (CELL - height) // 2))
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "icons", type=Path, help="the folder that holds noto/, fluent-emoji/, fluent-emoji-flat/"
    )
    parser.add_argument("--concepts", type=Path, default=Path(__file__).with_name("concepts.tsv"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "src/clip_surgery_hub/assets")
    parser.add_argument(
        "--quality", type=int, default=90, help="WebP quality of the colors (alpha is lossless)"
    )
    options = parser.parse_args()

    with options.concepts.open(newline="") as file:
        concepts = [(row["icon"], row["word"]) for row in csv.DictReader(file, delimiter="\t")]
    cells = []
    for style in STYLES:
        icons = json.loads((options.icons / style / "icons.json").read_text())
        cells += [render(icon_svg(icons, icon)) for icon, _ in concepts]
    rows = -(-len(cells) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for index, cell in enumerate(cells):
        atlas.paste(cell, (index % COLUMNS * CELL, index // COLUMNS * CELL))
    atlas.save(options.out / "sprites.webp", quality=options.quality, method=6, alpha_quality=100)
    description = {
        "cell": CELL,
        "columns": COLUMNS,
        "styles": list(STYLES),
        "concepts": [word for _, word in concepts],
    }
    (options.out / "sprites.json").write_text(json.dumps(description, indent=1) + "\n")


if __name__ == "__main__":
    main()
