"""``clip-surgery explain``: where each text is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import gather_background, gather_texts
from clip_surgery_hub.cli.run import Record, Task, run

if TYPE_CHECKING:
    from clip_surgery_hub.model import CLIPSurgery


@options.with_request
def explain(
    request: options.Request,
    text: options.Text = None,
    text_file: options.TextFile = None,
    background: options.Background = None,
) -> None:
    """Show where in each image each text is.

    Writes a folder per image: a panel, an overlay per text, the raw maps, a JSON with scores and points.
    """

    def prepare() -> Task:
        texts = gather_texts(text or [], text_file)
        others = gather_background(background, texts)

        def answer(clip: CLIPSurgery, path: Path, folder: Path | None) -> Record:
            from clip_surgery_hub.cli.outputs import write_explanation, write_results
            from clip_surgery_hub.cli.records import record

            explanation = clip.explain(path, texts, size=request.size, background=others)
            result = record(explanation, image=path)
            if folder is not None:
                write_results(folder, result, lambda place: write_explanation(explanation, place))
            return result

        return Task("explain", "explaining", texts, answer, scores)

    run(request, prepare)


def scores(record: Record) -> str:
    """The score of each text."""
    return ", ".join(f"{one['text']} {one['score']:.3f}" for one in record["texts"])
