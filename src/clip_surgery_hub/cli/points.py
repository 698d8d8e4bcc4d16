"""``clip-surgery points``: positive and negative points of each text, to prompt SAM with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import gather_background, gather_texts, parts_of
from clip_surgery_hub.cli.run import Record, Task, run

if TYPE_CHECKING:
    from clip_surgery_hub.model import CLIPSurgery


@options.with_request
def points(
    request: options.Request,
    text: options.Text = None,
    text_file: options.TextFile = None,
    keep_absent: options.KeepAbsent = False,
    background: options.Background = None,
) -> None:
    """Mark positive and negative points of each text, in pixels, to prompt SAM with.

    "dog+ball" combines texts: places on either, off both. Texts that do not seem to be in an image are left
    out. Writes a folder per image: a panel with the points drawn, and a JSON with their coordinates.
    """

    def prepare() -> Task:
        asked = gather_texts(text or [], text_file)
        texts = list(dict.fromkeys(part for one in asked for part in parts_of(one)))
        others = gather_background(background, texts)

        def answer(clip: CLIPSurgery, path: Path, folder: Path | None) -> Record:
            from clip_surgery_hub.cli.outputs import write_points, write_results
            from clip_surgery_hub.cli.records import points_record
            from clip_surgery_hub.sam.prompts import prompts_of

            explanation = clip.explain(path, texts, size=request.size, background=others)
            prompts = prompts_of(explanation, [parts_of(one) for one in asked], keep_absent=keep_absent)
            result = points_record(explanation, prompts, image=path)
            if folder is not None:
                write_results(folder, result, lambda place: write_points(explanation, prompts, place))
            return result

        return Task("points", "pointing", texts, answer, counts)

    run(request, prepare)


def counts(record: Record) -> str:
    """How many points lie on each text."""
    return ", ".join(f"{one['text']} {sum(one['labels'])}" for one in record["prompts"]) or "nothing is there"
