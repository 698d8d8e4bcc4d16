"""``clip-surgery segment``: the best text of every pixel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clip_surgery_hub.cli import options
from clip_surgery_hub.cli.arguments import gather_background, gather_texts
from clip_surgery_hub.cli.run import Record, Task, run

if TYPE_CHECKING:
    from clip_surgery_hub.model import CLIPSurgery


@options.with_request
def segment(
    request: options.Request,
    text: options.Text = None,
    text_file: options.TextFile = None,
    background: options.Background = None,
    features: Annotated[
        str, typer.Option(help="plain: cosine similarity, as the paper; surgery: after feature surgery.")
    ] = "plain",
    window: Annotated[
        int | None, typer.Option(min=1, help="Side of a sliding window in pixels (default: none).")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Step of the window in pixels (default: half of it).")
    ] = None,
) -> None:
    """Give every pixel the text that fits it best, out of the texts and the background texts.

    Writes a folder per image: segments.png, whose pixels number the texts, an overlay, and a JSON with the
    mask of each text in COCO's run lengths.
    """

    def prepare() -> Task:
        texts = gather_texts(text or [], text_file)
        others = gather_background(background, texts)
        if len(texts) + len(others) < 2:
            raise ValueError(
                f"{texts[0]!r} alone would get every pixel. Say what else there may be: --background grass."
            )
        if features not in ("plain", "surgery"):
            raise ValueError(f"There are no features {features!r}. Choose plain or surgery.")

        def answer(clip: CLIPSurgery, path: Path, folder: Path | None) -> Record:
            from clip_surgery_hub.cli.outputs import write_results, write_segments
            from clip_surgery_hub.cli.records import segments_record

            explanation = clip.explain(
                path, texts, size=request.size, background=others, window=window, stride=stride
            )
            (index_map,) = explanation.segment(features)  # type: ignore[arg-type]
            result = segments_record(explanation, index_map, image=path)
            if folder is not None:
                write_results(folder, result, lambda place: write_segments(explanation, index_map, place))
            return result

        return Task("segment", "segmenting", texts, answer, shares)

    run(request, prepare)


def shares(record: Record) -> str:
    """The share of the image that each text has which got any of it."""
    return ", ".join(f"{one['text']} {one['share']:.0%}" for one in record["segments"] if one["share"])
