"""The files that the command line writes for one picture, and the JSON record among them.

One folder per picture, whole or not at all::

    panel.png               the picture and what the command found, side by side
    overlay-01-bench.png    explain: one per text, at the picture's own size
    maps.npz                explain: raw similarity [T, h, w] after feature surgery, plain, scores, texts
    segments.png            segment: the number of the best text at every pixel
    result.json             what the command found, in numbers, and the settings
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_surgery_hub.storage import check_place, whole_folder

if TYPE_CHECKING:
    from torch import Tensor

    from clip_surgery_hub.explanation import Explanation
    from clip_surgery_hub.prompts import Prompt

PANEL, MAPS, RESULT, SEGMENTS = "panel.png", "maps.npz", "result.json", "segments.png"


def choose_folders(pictures: Sequence[Path], out: Path) -> list[Path]:
    """A folder inside ``out`` for each picture, named after it, and checked to be writable.

    Raises:
        OSError: if one of them could not be written, or holds other files than results of this command.
    """
    chosen: list[Path] = []
    taken: set[str] = set()
    for picture in pictures:
        name, number = picture.stem, 1
        while name.casefold() in taken:  # some file systems know no difference between A and a
            number += 1
            name = f"{picture.stem}-{number}"
        taken.add(name.casefold())
        chosen.append(out.expanduser() / name)
    check_place(out.expanduser(), replaceable=lambda existing: True)
    for folder in chosen:
        check_place(folder, replaceable=_holds_only_results)
    return chosen


def write_results(folder: Path, result: dict[str, Any], draw: Callable[[Path], None]) -> None:
    """Write a picture's results to a folder, all or nothing; earlier results in it are replaced.

    Args:
        folder: one of :func:`choose_folders`.
        result: the record, written as ``result.json``.
        draw: writes the other files into the folder that it is given.

    Raises:
        OSError: if it cannot be written.
    """
    with whole_folder(folder, replaceable=_holds_only_results) as temporary:
        draw(temporary)
        text = json.dumps(result, indent=2, ensure_ascii=False)
        (temporary / RESULT).write_text(text + "\n", encoding="utf-8")


def write_explanation(explanation: Explanation, place: Path) -> None:
    """Write the panel, the overlays and the raw maps of one picture."""
    import numpy as np
    from PIL import Image

    from clip_surgery_hub.plot import overlay

    (pixels,), (heatmaps,), texts = explanation.pictures, explanation.heatmaps(), explanation.texts
    explanation.plot()[0, 0].figure.savefig(place / PANEL)
    for number, (text, heatmap) in enumerate(zip(texts, heatmaps, strict=True), start=1):
        # Packed lightly: at 12 megapixels that is 5 times faster, for a quarter more bytes.
        Image.fromarray(overlay(pixels, heatmap)).save(place / _overlay_name(number, text), compress_level=1)
    np.savez_compressed(
        place / MAPS,
        similarity=explanation.similarity[0].numpy(),
        plain=explanation.plain[0][: len(texts)].numpy(),
        scores=explanation.scores[0].numpy(),
        plain_scores=explanation.plain_scores[0].numpy(),
        texts=np.array(texts),
    )


def write_points(explanation: Explanation, prompts: Sequence[Prompt], place: Path) -> None:
    """Write the panel of one picture with the points of each prompt drawn on it."""
    from clip_surgery_hub.plot_tasks import plot_prompts

    plot_prompts(explanation, prompts).savefig(place / PANEL)


def write_segments(explanation: Explanation, index_map: Tensor, place: Path) -> None:
    """Write the numbers of the texts as a palette PNG, and the colours over the picture with their names."""
    from clip_surgery_hub.plot_tasks import plot_segments
    from clip_surgery_hub.segmentation import palette_image

    names = (*explanation.texts, *explanation.background)
    palette_image(index_map, names).save(place / SEGMENTS)
    plot_segments(explanation.pictures[0], index_map, names).savefig(place / PANEL)


def record(explanation: Explanation, *, picture: Path) -> dict[str, Any]:
    """What is to be said of one picture in JSON: file, size, grid; per text scores, points and boxes."""
    whole = explanation.to_dict()
    return {"picture": str(picture), **whole["pictures"][0], "settings": whole["settings"]}


def points_record(explanation: Explanation, prompts: Sequence[Prompt], *, picture: Path) -> dict[str, Any]:
    """What is to be said of the points of one picture in JSON: per prompt its texts, points and labels."""
    whole = record(explanation, picture=picture)
    del whole["texts"]
    whole["prompts"] = [
        {
            "text": prompt.name,
            "presence": prompt.presence,
            "points": prompt.points.xy.tolist(),
            "labels": prompt.points.labels.tolist(),
        }
        for prompt in prompts
    ]
    return whole


def segments_record(explanation: Explanation, index_map: Tensor, *, picture: Path) -> dict[str, Any]:
    """What is to be said of a segmentation in JSON: per text its number, share of the picture and mask."""
    from clip_surgery_hub.segmentation import class_masks, mask_to_rle

    names = (*explanation.texts, *explanation.background)
    whole = record(explanation, picture=picture)
    del whole["texts"]
    whole["segments"] = [
        {"text": text, "number": number, "share": float(mask.float().mean()), "mask": mask_to_rle(mask)}
        for number, (text, mask) in enumerate(zip(names, class_masks(index_map, len(names)), strict=True))
    ]
    return whole


def _overlay_name(number: int, text: str) -> str:
    """A file name that every system takes; the number keeps apart what differs in signs left out here."""
    return (
        f"overlay-{number:02d}-{re.sub(r'[^A-Za-z0-9]+', '-', text).strip('-').lower()[:40]}".rstrip("-")
        + ".png"
    )


def _holds_only_results(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    own = {PANEL, MAPS, RESULT, SEGMENTS}
    return all(name in own or re.fullmatch(r"overlay-\d+[a-z0-9-]*\.png", name) for name in names)
